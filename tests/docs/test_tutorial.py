"""The tutorial from its first to its last block, scaled down: one update improves both of its networks."""

import re
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from documents import ROOT, blocks_of, commands_of
from tutorial_sizes import SMALLER, scaled

from checkpoints_dataset import CheckpointStore
from g_pt.commands import harvest
from g_pt.tasks import registry
from train import train_g_pt

PAGE = ROOT / "docs" / "tutorial.md"


def run_command(words: list[str], names: dict[str, object]) -> None:
    """Run a command of the page in this process; its evaluations are left to the parsing of test_documentation.py."""
    match words:
        case ["python", "train/train_g_pt.py", *arguments]:
            AcceleratorState._reset_state(reset_partial_state=True)
            quiet = [
                "--optimizer.cpu-threads",
                "1",
                "--optimizer.mixed-precision",
                "no",
                "--progress.evaluate-every",
                "0",
            ]
            train_g_pt.main([*arguments, *quiet])
        case ["gpt-harvest", *arguments]:
            harvest.main(arguments)
        case ["python", "record.py"]:
            exec(compile(Path("record.py").read_text(), "record.py", "exec"), names)
        case ["gpt-evaluate", *_]:
            pass
        case _:
            raise AssertionError(f"the tutorial has a command that this test does not run: {words}")


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    text = PAGE.read_text()
    assert all(long in text for long in SMALLER), "a number of the page changed: change it here too"
    names: dict[str, object] = {}
    for block in blocks_of(PAGE):
        if block.file:
            Path(block.file).write_text(scaled(block.text))
        elif block.language == "bash":
            for words in commands_of(scaled(block.text)):
                run_command(words, {})
        else:
            exec(compile("\n" * block.line + block.text, PAGE.name, "exec"), names)
    assert len(CheckpointStore("runs/sine/checkpoints").runs) == 60

    sine, pipe, test_loss, task = (names[name] for name in ("optimizer", "pipe", "test_loss", "task"))
    before, after = unseen_sines(task, pipe, test_loss)
    assert after < before / 3, "one update improves unseen networks of the recorded loop"
    assert sine.num_kept >= 1, "and is kept by the guard"
    assert names["begin"] > 2 * min(sine.last.loss_before, 1)
    assert names["wine_loss"] < 0.5 * names["fresh_loss"], "and those of a harvest"


def unseen_sines(task, pipe, test_loss) -> tuple[float, float]:
    import torch

    torch.manual_seed(99)
    networks = [task.network() for _ in range(16)]
    updated = [pipe.update_module(network, 0.03) for network in networks]
    return sum(map(test_loss, networks)) / 16, sum(map(test_loss, updated)) / 16


def test_the_words_about_the_size_of_things_are_right() -> None:
    """Numbers of the page that are no measurements."""
    from sklearn.datasets import load_wine

    inputs, labels = load_wine(return_X_y=True)
    assert (*inputs.shape, len(set(labels))) == (178, 13, 3)
    assert re.search(r"178 wines, 13 measurements, three growers", PAGE.read_text())
