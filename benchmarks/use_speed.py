"""How fast a trained model is used: sampling updates, and measuring networks.

    python -m benchmarks.use_speed --rounds 5

The bundled `digits-loss` (networks of 1,210 parameters) on fresh inits: seconds per network by sampling steps and by
networks at once; then networks measured per second on the test split, all at once against one `nn.Module` after the
other. The sides take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rounds import Measured, machine, ratios, seconds_in_turn, table
from g_pt.files.atomic import write_json
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks.classification import ClassificationTask

MODEL = "digits-loss"
STEPS = (1, 2, 5, 20)
BATCHES = (1, 64, 512)
ONE_BY_ONE = 32


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the numbers go, besides the table")
    args = parser.parse_args()
    lines = sampling(args.rounds) + evaluation(args.rounds)
    print(table(lines))
    if args.json:
        write_json(args.json, {"machine": machine(), "lines": [line.to_json() for line in lines]})


def bundled() -> ParameterUpdatePipeline:
    """The model, quietly."""
    pipeline = ParameterUpdatePipeline.from_pretrained(MODEL)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sampling(num_rounds: int, batches: tuple[int, ...] = BATCHES) -> list[Measured]:
    """Seconds per network; the starting metric is known and not measured."""
    pipeline = bundled()
    starts = pipeline.task.init(max(batches), keyed_generator(0))
    metric = pipeline.task.evaluate(starts, "validation")[pipeline.metric.name]

    def sampler(num_steps: int, batch: int) -> Callable[[int], object]:
        return lambda number: pipeline(starts[:batch], 0.1, metric[:batch], num_steps, keyed_generator(0, number))

    sides = {(steps, batch): sampler(steps, batch) for steps in STEPS for batch in batches}
    seconds = seconds_in_turn({f"{steps} {batch}": side for (steps, batch), side in sides.items()}, num_rounds)
    return [
        Measured(f"sampling, {steps} steps, {batch} at once", "ms/network", [1e3 * s / batch for s in values])
        for (steps, batch), values in zip(sides, seconds.values(), strict=True)
    ]


def evaluation(num_rounds: int, num_networks: int = 512) -> list[Measured]:
    """Networks per second on the test split, by both ways, which agree."""
    task = bundled().task
    assert isinstance(task, ClassificationTask)
    params = task.init(num_networks, keyed_generator(0))
    single = one_by_one(task, params[:ONE_BY_ONE])
    torch.testing.assert_close(single, task.evaluate(params[:ONE_BY_ONE])["error"], rtol=0, atol=1e-3)
    seconds = seconds_in_turn(
        {"together": lambda _: task.evaluate(params), "single": lambda _: one_by_one(task, params[:ONE_BY_ONE])},
        num_rounds,
    )
    together = [num_networks / s for s in seconds["together"]]
    single_rate = [ONE_BY_ONE / s for s in seconds["single"]]
    return [
        Measured(f"evaluation, {num_networks} networks at once", "networks/s", together),
        Measured("evaluation, one by one", "networks/s", single_rate),
        Measured("evaluation at once against one by one", "times", ratios(together, single_rate)),
    ]


@torch.no_grad()
def one_by_one(task: ClassificationTask, params: Tensor) -> Tensor:
    """Test error in percent of every network, as one would measure it by hand: loaded into a module."""
    test, network = task.splits["test"], task.network().eval()
    errors = []
    for row in params:
        network.load_state_dict(task.layout.unflatten(row))
        errors.append(100 * (network(test.inputs).argmax(dim=1) != test.labels).float().mean())
    return torch.stack(errors)


if __name__ == "__main__":
    main()
