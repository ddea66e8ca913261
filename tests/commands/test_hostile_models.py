"""A model folder from a stranger: whatever names it holds, no command imports them or leaves its own files for them."""

import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from malformed import edit

from g_pt.commands import demo, evaluate, push, sample
from g_pt.commands.demo_page import load, prompt_figure, table, update
from g_pt.model.pipeline import ParameterUpdatePipeline

STUDIES = {
    "recursive_prompting": ["--networks", "2", "--updates", "1", "--steps", "1", "--optimizers", "adam"],
    "latent_walk": ["--draws", "2", "--frames", "2"],
    "loss_landscape": ["--points", "3", "--steps", "1"],
    "ensemble": ["--ensembles", "2", "--samples", "2"],
    "prompt_sweep": ["--prompts", "2"],
}
QUICK = ["--networks", "4", "--prompts", "2", "--num-inference-steps", "1", "--optimizer-steps", "1"]


def commands(model: str, out: Path) -> dict[str, Callable[[], object]]:
    """Every command that takes a model, asked for little."""
    one = ["--num-inference-steps", "1", "--model", model]
    found: dict[str, Callable[[], object]] = {
        "gpt-sample": lambda: sample.main(["--prompt-loss", "0.3", *one, "--out", str(out / "updated.safetensors")]),
        "gpt-evaluate": lambda: evaluate.main(
            [*QUICK, "--model", model, "--out", str(out / "report"), "--sections", "prompting", "novelty", "start_use"]
        ),
        "gpt-push": lambda: push.main([model, "org/name", "--card-only", str(out / "card.md")]),
        "gpt-demo": lambda: shown(model),
    }
    for name, small in STUDIES.items():
        picture = str(out / ("out.gif" if name == "latent_walk" else "out.png"))
        given = [*small, *one, "--out", picture]
        found[name] = lambda name=name, given=given: import_module(f"sample.{name}").main(given)
    return found


def shown(model: str) -> None:
    """What the page computes, without a browser."""
    demo.offered_models(demo.Arguments(model))
    outcome = update(model, 0.5, seed=0, num_samples=2)
    assert "achieved" in table(outcome, model, 0.5)
    prompt_figure([(0.5, outcome.after["loss"].tolist())], model).canvas.draw()
    load.cache_clear()


@pytest.mark.parametrize("task", ["{folder}/evil.py:Evil", "this:x"])
def test_no_command_imports_the_task_of_a_source(task, random_pipeline, tmp_path, monkeypatch, subtests) -> None:
    monkeypatch.chdir(tmp_path)
    load.cache_clear()
    monkeypatch.setenv("G_PT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))  # as far as a stranger could wish
    for module in ("this", "ensurepip", "evil"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    random_pipeline.save_pretrained("m")
    source = {"kind": "harvest", "task": task.format(folder=tmp_path), "num_runs": 4, "num_steps": 2}
    facts = {"dataset": {"num_runs": 2, "source": source}, "trained_runs": {"test_loss": {"mean": 0.5}}}
    edit(Path("m/model_index.json"), lambda c: c["training"].update(facts))
    for name, run in commands("m", tmp_path / "out").items():
        (tmp_path / "out").mkdir(exist_ok=True)
        with subtests.test(name):
            run()
            assert not (tmp_path / "executed").exists()
            assert not {"this", "ensurepip", "evil"} & set(sys.modules)


@pytest.mark.parametrize("task", ["m/evil.py:Evil", "this:x"])
def test_no_command_imports_the_task_of_a_model(task, random_pipeline, tmp_path, monkeypatch, subtests) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    random_pipeline.save_pretrained("m")
    Path("m/evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    edit(Path("m/model_index.json"), lambda c: c.update(task=task))
    for name, run in commands("m", tmp_path).items():
        with subtests.test(name):
            if name == "gpt-push":
                run()  # a card needs no task
            else:
                with pytest.raises((SystemExit, ValueError)):
                    run()
            assert not (tmp_path / "executed").exists()
            assert "this" not in sys.modules


def test_words_of_a_model_are_words_in_its_card_and_pictures(random_pipeline, tmp_path, monkeypatch) -> None:
    evil = "<script>alert(1)</script> [x](javascript:y) | `z` $\\frac{$"
    random_pipeline.save_pretrained(tmp_path / "m")
    edit(tmp_path / "m/model_index.json", lambda c: c.update(task=evil[:100]))
    edit(
        tmp_path / "m/model_index.json",
        lambda c: c["training"].update(dataset={"num_runs": 2, "num_checkpoints": 4, "source": {"a\n# b": evil}}),
    )
    edit(tmp_path / "m/transformer/config.json", lambda c: c["metric"].update(unit=evil))
    card = ParameterUpdatePipeline.from_pretrained(tmp_path / "m").model_card("org/name")
    body = card.partition("\n---\n")[2]
    assert "\n# b" not in body
    for markup in (r"(?<!\\)<script", r"(?<!\\)\[x", r"(?<!\\)\|\s`", r"(?<!\\)`z"):
        assert not re.search(markup, body), markup
    figure = prompt_figure([(0.5, [0.4])], str(tmp_path / "m"))
    figure.canvas.draw()
    assert evil in figure.axes[0].get_xlabel()
    load.cache_clear()


@pytest.mark.parametrize(
    "report",
    [
        {"prompt_alignment": 3},
        {"prompt_alignment": {"attainable": {"mean": "good"}}},
        {"prompt_alignment": {"attainable": {}}},
        {"prompt_alignment": {}, "one_update": [1]},
        {"prompt_alignment": {}, "beside_runs": {"one update": {"loss": "low"}}},
        {"prompt_alignment": {}, "sections": {"novelty": {"rows": {}}}},
        {"prompt_alignment": {}, "sections": {"novelty": {"rows": 3, "training_runs": 5}}},
        [1],
    ],
)
def test_a_report_that_is_none_is_refused_in_one_line(report, tmp_path, capsys) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(SystemExit) as stopped:
        push.main(["digits-loss", "org/name", "--report", str(tmp_path / "report.json"), "--card-only", "card.md"])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "report.json" in said
    assert "unexpected" not in said
