"""The grid of the scaling study, and what is made of its results."""

from typing import Any

import pytest

from benchmarks.ablations import Preset, settings
from benchmarks.scaling_study import BASE, GRID, PRESETS, by_runs, by_size, draw, print_tables, scaled_rates
from g_pt.files.config import merge
from g_pt.files.yaml_files import read_yaml
from g_pt.tasks import get_task
from g_pt.training.config import ModelConfig
from g_pt.training.setup import make_model


def config_of(name: str, tmp_path) -> Any:
    program = merge(Preset(), read_yaml(PRESETS / "digits.yaml"), "digits")
    return scaled_rates(settings(program, GRID[name].variant, tmp_path))


def result(parameters: int, runs: int, tokens: str, alignment: float) -> dict[str, Any]:
    def stage(misalignment: float) -> dict[str, dict[str, float]]:
        interval = {"mean": 1 - misalignment, "low": 1 - 2 * misalignment, "high": 1 - misalignment / 2}
        return {"alignment": interval, "loss": {"mean": 0.2, "low": 0.1, "high": 0.3}}

    return {
        "parameters": parameters, "runs": runs, "tokens": tokens, "denoising_steps": 7, "alignment_steps": 3,
        "denoised": stage(2 * (1 - alignment)), "aligned": stage(1 - alignment),
    }  # fmt: skip


RESULTS = {
    "320 x 4": result(5_000_000, 10_000, "units", 0.9),
    BASE: result(900_000, 10_000, "units", 0.8),
    "30 runs": result(900_000, 30, "units", 0.5),
    "chunks, 128 x 4": result(1_300_000, 10_000, "chunks", 0.1),
}


def test_sizes_go_from_a_twentieth_of_a_million_to_five_and_runs_from_30_to_10000(tmp_path) -> None:
    task = get_task("digits")

    def model_of(name: str) -> ModelConfig:
        return config_of(name, tmp_path).model

    sizes = [
        sum(p.numel() for p in make_model(task, "loss", model_of(name), num_train_timesteps=1000, seed=0).parameters())
        for name, size in GRID.items()
        if size.tokenization == "units" and size.max_runs == 10_000
    ]
    assert min(sizes) == pytest.approx(50_000, rel=0.2)
    assert max(sizes) == pytest.approx(5_000_000, rel=0.2)
    assert {30, 100, 300, 1000, 3000, 10_000} == {size.max_runs for size in GRID.values()}


def test_wide_models_learn_slower_and_chunks_see_reordered_networks(tmp_path) -> None:
    base, wide, chunks = (config_of(name, tmp_path) for name in (BASE, "320 x 4", "chunks, 128 x 4"))
    assert wide.optimizer.learning_rate == pytest.approx(0.4 * base.optimizer.learning_rate)
    assert wide.alignment.learning_rate == pytest.approx(0.4 * base.alignment.learning_rate)
    assert config_of("32 x 3", tmp_path).optimizer == base.optimizer
    assert (base.pairs.augmentation, chunks.pairs.augmentation) == ("none", "permute")


def test_lines_are_sorted_and_hold_what_belongs_together() -> None:
    assert [r["parameters"] for r in by_size(RESULTS, "units")] == [900_000, 5_000_000]
    assert [r["parameters"] for r in by_size(RESULTS, "chunks")] == [1_300_000]
    assert [r["runs"] for r in by_runs(RESULTS)] == [30, 10_000]


def test_it_draws_and_prints(tmp_path, capsys) -> None:
    draw(RESULTS, tmp_path / "scaling.png", "loss")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    print_tables(RESULTS)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| 30 runs | 0.90 M | 30 | 7, 3 | 0.000 [-1.000, 0.500] |" in lines[4]
