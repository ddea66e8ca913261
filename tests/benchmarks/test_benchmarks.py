"""The benchmarks run, and count what they say they count."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from dataset_fixtures import ROOT, environment

from benchmarks.memory import KINDS, Watch
from benchmarks.rounds import Measured, seconds_in_turn, table
from benchmarks.scaling_costs import A100, Cost, model_cost, scaling_row
from benchmarks.training_step import Size, TrainingStep
from g_pt.tasks import get_task
from g_pt.training.config import ModelConfig
from g_pt.training.setup import make_model


@pytest.mark.slow
def test_all_speeds_are_measured_by_one_command(tmp_path) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("lmdb")
    file = tmp_path / "speeds.json"
    command = [sys.executable, "-m", "benchmarks.all", "--quick", "--json", str(file)]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr
    lines = {line["what"]: line for line in json.loads(file.read_text())["lines"]}
    for what in (
        "harvest against one by one",
        "store against datasets",
        "store against LMDB",
        "permuted pairs: share of the step",
        "training step, small: share of the machine's",
        "sampling, 20 steps, 4 at once",
        "evaluation at once against one by one",
    ):
        assert lines[what]["lowest"] > 0
        assert f"| {what} |" in done.stdout


def test_operations_are_those_of_the_matrix_products() -> None:
    width, blocks, batch = 32, 2, 8
    step = TrainingStep(Size(width, blocks, 2), batch)
    # 16 units of 64 + 1 + 10 numbers, the 10 biases of the last layer, 4 scalars of 65 features
    tokens = 16 + 1 + 4
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    ends = 16 * (150 + 75) * width + (20 + 10) * width + 4 * 65 * width
    assert step.flops == 3 * 2 * batch * (blocks * block + ends)


def test_a_step_of_the_benchmark_trains() -> None:
    step = TrainingStep(Size(32, 1, 2), 16)
    losses = [step(number) for number in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(len(seconds) == 30 for seconds in step.seconds.values())


def test_costs_of_deep_models_follow_from_those_of_shallow_ones() -> None:
    task = get_task("digits")

    def cost(blocks: int) -> Cost:
        model = ModelConfig(width=32, num_layers=blocks, num_heads=2)
        return model_cost(make_model(task, "loss", model, num_train_timesteps=1000, seed=0))

    assert cost(1).extrapolated(cost(2), 5) == cost(5)


def test_the_longest_part_is_named_and_drawing_comes_before_it() -> None:
    cost = Cost(flops=312e9 * 0.4, kept_bytes=1e6, parameters=1e9)  # a millisecond a pair
    (row,) = [scaling_row("units", cost, A100, 8, 80, 36_000, {"pairs": 0.08, "noise": 0.01})]
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    # 10 pairs; 7/8 of 2 x 4 GB at 200 GB/s; 10 ms of pairs and 10 of noise; 55 ms x 36,000
    assert cells == ["units", "8 x A100 80 GB", "10 ms", "35 ms", "20 ms", "55 ms", "0.6", "22 GB", "gradients"]


def test_sides_take_turns_and_warming_up_does_not_count() -> None:
    calls: list[str] = []
    sides = {name: lambda number, name=name: calls.append(f"{name}{number}") for name in "ab"}
    seconds = seconds_in_turn(sides, 2, warm_ups=1)
    assert calls == ["a0", "b0", "a0", "b0", "a1", "b1"]
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_the_table_has_median_and_spread() -> None:
    assert table([Measured("rows", "rows/s", [30000.0, 10.0, 1234.5])]).splitlines()[-1] == (
        "| rows | 1,234 | 10 to 30,000 | rows/s |"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_highest_memory_is_seen_also_when_it_is_gone_at_the_end() -> None:
    with Watch(every=0.001) as before:
        first = dict(before)
    with Watch(every=0.001) as peaks:
        block = bytearray(b"x") * 50_000_000
        time.sleep(0.1)
        del block
    assert set(peaks) == set(KINDS)
    assert peaks["anonymous"] - first["anonymous"] > 40_000_000
