import json
from pathlib import Path

import pytest

from g_pt.commands.evaluate import Arguments, main
from g_pt.report import contents
from g_pt.report.contents import load_section


def test_it_prints_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, figure = tmp_path / "report.json", tmp_path / "curve.png"
    main(
        [
            "--networks",
            "8",
            "--prompts",
            "4",
            "--num-inference-steps",
            "5",
            "--sections",
            "prompting",
            "--out",
            str(tmp_path / "out"),
            "--json",
            str(report),
            "--figure",
            str(figure),
        ]
    )
    found = json.loads(report.read_text())
    assert found["networks"] == 8
    assert found["prompt_alignment"]["attainable"]["mean"] > 0.8
    assert found["one_update"]["test_loss"]["mean"] < 0.4
    assert figure.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "8 unseen inits" in said
    assert f"{found['prompt_alignment']['attainable']['mean']:.3f}" in said
    document = (tmp_path / "out" / "report.md").read_text()
    assert document.startswith("# digits-loss on digits")
    assert "from 10800 runs" in document
    assert (tmp_path / "out" / "prompting.png").read_bytes() == figure.read_bytes()
    assert found["sections"] == {}


@pytest.mark.slow
def test_quick_sections_of_a_policy_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--quick", "--networks", "2", "--prompts", "2", "--num-inference-steps", "1"]
    small += ["--optimizer-steps", "2"]
    main(["--model", "cartpole-return", *small, "--sections", "latent_walk", "optimizers", "population"])
    found = json.loads(Path("evaluation/report.json").read_text())
    assert (found["metric"], list(found["sections"])) == ("return", ["latent_walk", "population"])
    assert Path("evaluation/latent_walk.gif").is_file()
    population = found["sections"]["population"]
    assert population["iterations"] == [1, 2]
    assert population["experience_per_iteration"] == 4 * 64
    assert all(rate in (5e-4, 1.6e-3, 5e-3, 1.6e-2) for rate in [round(r, 6) for r in population["learning_rate"]])
    assert [values["networks"] for values in population["test_return"]] == [2, 2]
    assert "optimizers: not for this model" in capsys.readouterr().out


WRONG = [
    (["--model", "nowhere"], "digits-loss"),
    (["--networks", "1"], "at least 2 networks"),
    (["--figure", "curve.jpg"], "--figure must end in .png, .pdf or .svg"),
    (["--json", "."], "is a folder"),
    (["--dataset", "nowhere"], "there is none at nowhere"),
    (["--sections", "prompts"], "there is no section 'prompts'"),
    (["--bundled", "--json", "a.json"], "--bundled evaluates several models"),
    (["--prompts", "many"], "--prompts"),
]


def test_wrong_input_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests) -> None:
    for arguments, message in WRONG:
        with subtests.test(" ".join(arguments)):
            with pytest.raises(SystemExit) as caught:
                main(arguments)
            assert caught.value.code not in (0, None)
            streams = capsys.readouterr()
            assert message in streams.err + streams.out
            assert "Traceback" not in streams.err


def run_small(tmp_path: Path, *more: str) -> None:
    small = ["--networks", "4", "--prompts", "3", "--num-inference-steps", "1", "--out", str(tmp_path / "out")]
    main([*small, "--sections", "prompting", "recursion", "latent_walk", *more])


@pytest.mark.slow
def test_a_stopped_report_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_small(tmp_path)
    whole = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "unfinished" not in whole
    assert not (tmp_path / "out" / ".unfinished").exists()
    calls: list[str] = []

    def stopping_at(stop: str | None) -> None:
        def load(name: str):
            def measure(subject, **options):
                calls.append(name)
                if name == stop:
                    raise KeyboardInterrupt
                return load_section(name)(subject, **options)

            return measure

        monkeypatch.setattr(contents, "load_section", load)

    monkeypatch.setattr(Arguments, "check", lambda self: None)
    stopping_at("latent_walk")
    with pytest.raises(SystemExit) as caught:
        run_small(tmp_path)
    assert caught.value.code == 130
    partial = json.loads((tmp_path / "out" / "report.json").read_text())
    assert partial["unfinished"] == ["latent_walk"]
    assert partial["one_update"] == whole["one_update"]
    assert "Not finished: latent_walk." in (tmp_path / "out" / "report.md").read_text()
    stopping_at(None)
    calls.clear()
    capsys.readouterr()
    run_small(tmp_path)
    assert calls == ["latent_walk"]
    streams = capsys.readouterr()
    assert "continuing the unfinished report" in streams.err
    assert "Does it follow prompts?" in streams.out, "what was measured before is shown again"
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["sections"] == whole["sections"]
    assert found["one_update"] == whole["one_update"]
    assert (tmp_path / "out" / "recursion.png").read_bytes().startswith(b"\x89PNG")
    stopping_at("recursion")
    with pytest.raises(SystemExit):
        run_small(tmp_path)
    stopping_at(None)
    calls.clear()
    run_small(tmp_path, "--seed", "1", "--format", "svg", "--figure", str(tmp_path / "curve.pdf"))
    assert "starting anew" in capsys.readouterr().err
    assert calls == ["prompting", "recursion", "latent_walk"]
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF")
    assert "(recursion.svg)" in (tmp_path / "out" / "report.md").read_text()
    assert b"<svg" in (tmp_path / "out" / "recursion.svg").read_bytes()
