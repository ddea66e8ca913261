"""The programs of sample/, run small: each ends in a picture, tables and JSON, or in one sentence."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from builders import build_pipeline, randomise
from PIL import Image

from g_pt.tasks.toys import Wave

SMALL = {
    "recursive_prompting": ["--networks", "3", "--updates", "2", "--steps", "3", "--optimizers", "adam"],
    "latent_walk": ["--draws", "2", "--frames", "2"],
    "loss_landscape": ["--points", "4", "--steps", "3"],
    "ensemble": ["--ensembles", "2", "--samples", "3"],
    "prompt_sweep": ["--prompts", "4"],
}
PICTURE = {"latent_walk": "out.gif"}


def program(name: str) -> ModuleType:
    return import_module(f"sample.{name}")


@pytest.fixture
def wave(tmp_path: Path) -> str:
    """The folder of a G.pt of regressions with random weights."""
    pipeline = build_pipeline(Wave(), dataset={"num_runs": 8, "source": {"num_steps": 4, "batch_size": 16}})
    randomise(pipeline.transformer)
    pipeline.save_pretrained(tmp_path / "wave")
    return str(tmp_path / "wave")


def run(name: str, folder: Path, model: str, *more: str) -> dict:
    picture, figures = folder / PICTURE.get(name, "out.png"), folder / "out.json"
    small = [*SMALL[name], "--num-inference-steps", "1", "--model", model]
    if "--prompt" not in more and name != "prompt_sweep":
        small += ["--prompt", "0.3"]
    program(name).main([*small, *more, "--out", str(picture), "--json", str(figures)])
    with Image.open(picture) as image:
        assert min(image.size) > 200
        assert len(image.convert("L").getcolors(1 << 16)) > 5
    return json.loads(figures.read_text())


@pytest.mark.parametrize("name", SMALL)
def test_it_ends_in_a_picture_for_classifiers(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(name, tmp_path, "digits-loss")
    said = capsys.readouterr().out
    assert (found["model"], found["seed"]) == ("digits-loss", 0)
    assert "written: " in said
    assert "loss" in said


@pytest.mark.parametrize("name", SMALL)
def test_it_ends_in_a_picture_for_regressions(name: str, tmp_path: Path, wave: str) -> None:
    found = run(name, tmp_path, wave)
    if name == "ensemble":
        assert {"loss", "error", "coverage"} == set(found["kinds"]["one start"]["metrics"]["3"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name != "ensemble"])
def test_it_ends_in_a_picture_for_policies(name: str, tmp_path: Path) -> None:
    found = run(name, tmp_path, "cartpole-return", *(() if name == "prompt_sweep" else ("--prompt", "100")))
    if name == "recursive_prompting":
        assert set(found["rules"]) == {"G.pt", "PPO"}
    if name == "prompt_sweep":
        assert found["prompts"][0] > found["prompts"][-1], "the best return comes first"


def test_the_figures_are_those_of_the_networks(tmp_path: Path) -> None:
    recursion = run("recursive_prompting", tmp_path, "digits-loss")
    assert recursion["rules"]["G.pt"]["steps"] == [1, 2]
    before, after = recursion["before_test_loss"]["mean"], recursion["rules"]["G.pt"]["test_loss"][0]["mean"]
    assert after < 0.7 < before
    ensemble = run("ensemble", tmp_path, "digits-loss")
    assert ensemble["sizes"] == [1, 2, 3]
    many = ensemble["kinds"]["a start each"]
    assert many["metrics"]["3"]["loss"]["mean"] < many["metrics"]["1"]["loss"]["mean"]
    assert many["distance"]["mean"] > ensemble["kinds"]["one start"]["distance"]["mean"]
    sweep = run("prompt_sweep", tmp_path, "digits-loss")
    assert sweep["rank_correlation"] == pytest.approx(1)
    landscape = run("loss_landscape", tmp_path, "digits-loss")
    assert landscape["loss"]["update"] < landscape["loss"]["start"]


REFUSED = [
    ("ensemble", ["--model", "cartpole-return"], 1, "task 'cartpole' is neither a classification nor a regression"),
    ("latent_walk", ["--out", "walk.png"], 1, "must end in .gif, got walk.png"),
    ("prompt_sweep", ["--out", "sweep.jpg"], 1, "must end in .png or .pdf or .svg"),
    ("prompt_sweep", ["--prompts", "1"], 1, "--prompts must be at least 2, got 1"),
    ("prompt_sweep", ["--prompt-range", "1", "1"], 1, "--prompt-range must have two different ends"),
    ("recursive_prompting", ["--optimizers", "adamax"], 1, "there is no optimizer 'adamax' here"),
    ("loss_landscape", ["--model", "nowhere"], 1, "nowhere"),
    ("ensemble", ["--samples", "many"], 2, "--samples"),
]


def test_what_cannot_be_done_is_said_in_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, arguments, code, message in REFUSED:
        with subtests.test(name=name, arguments=arguments):
            with pytest.raises(SystemExit) as caught:
                program(name).main(arguments)
            assert caught.value.code == code
            streams = capsys.readouterr()
            assert message in streams.err + streams.out
            assert "Traceback" not in streams.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SMALL)
def test_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program(name).main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert f"python sample/{name}.py" in said
    assert all(flag in said for flag in ("--model", "--out", "--seed"))
