import json
from pathlib import Path

import pytest

from g_pt.commands.evaluate import main


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "digits-loss"),
        (["--networks", "1"], "at least 2 networks"),
        (["--figure", "curve.svg"], "--figure must end in .png"),
        (["--json", "."], "is a folder"),
        (["--prompts", "many"], "--prompts"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code not in (0, None)
    streams = capsys.readouterr()
    assert message in streams.err + streams.out
    assert "Traceback" not in streams.err
