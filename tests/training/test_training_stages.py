"""The second stage as a whole: what it reaches, and that it resumes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import TINY_ALIGNMENT, tiny_config, tiny_store, train, train_aligned, weights

from checkpoints_dataset.store import CheckpointStore
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.tasks import get_task
from g_pt.training.config import TrainConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    return tiny_store(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(store: CheckpointStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline of a first stage."""
    config = tiny_config(tmp_path_factory.mktemp("base"), num_steps=30)
    train(replace(config, progress=replace(config.progress, evaluate_every=0, save_every=0)), store)
    return config.pipeline_folder


def alignment_config(output: Path, **options) -> TrainConfig:
    return replace(tiny_config(output), alignment=replace(TINY_ALIGNMENT, **options))


def mean_gap(pipeline: ParameterUpdatePipeline) -> float:
    """On inits and prompts that the training did not see."""
    starts = get_task("digits").init(24, torch.Generator().manual_seed(77))
    prompts = torch.linspace(0.5, 2.3, 24)
    updated = pipeline(starts, prompts, num_inference_steps=4, generator=torch.Generator().manual_seed(78)).params
    achieved = get_task("digits").evaluate(updated, "validation")["loss"]
    return (achieved / prompts).log().square().mean().item()


@pytest.mark.parametrize(("gradient", "most"), [("exact", 0.8), ("evolution", 0.9)])
def test_thirty_steps_lower_the_gap_on_other_networks(
    store: CheckpointStore, base: Path, tmp_path: Path, gradient: str, most: float
) -> None:
    before = mean_gap(ParameterUpdatePipeline.from_pretrained(base))
    config = alignment_config(
        tmp_path, num_steps=30, learning_rate=3e-3, ema_decay=0.5, gradient=gradient, evolution_pairs=64
    )
    config = replace(config, progress=replace(config.progress, evaluate_every=0, save_every=0))
    aligned = train_aligned(config, store, base)
    assert mean_gap(aligned) < most * before
    assert not aligned.transformer.training
    assert mean_gap(ParameterUpdatePipeline.from_pretrained(tmp_path / "pipeline")) == mean_gap(aligned)


def test_an_interrupted_alignment_resumes_to_the_same_weights(
    store: CheckpointStore, base: Path, tmp_path: Path
) -> None:
    whole, config = (
        replace(made, progress=replace(made.progress, evaluate_every=0, save_every=3))
        for made in (alignment_config(tmp_path / name) for name in ("whole", "interrupted"))
    )
    train_aligned(whole, store, base)
    with pytest.raises(KeyboardInterrupt):
        train_aligned(config, store, base, stop_at=4)
    train_aligned(config, store, base, resume=True)
    expected, resumed = weights(whole), weights(config)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    logs = [(c.output / "alignment" / "log.jsonl").read_text() for c in (whole, config)]
    assert logs[0] == logs[1]
    with pytest.raises(FileExistsError, match="--resume"):
        train_aligned(whole, store, base)
    other = alignment_config(whole.output, margin=0.5)
    with pytest.raises(ValueError, match=r"started with alignment\.margin = 0\.05, now it is 0\.5"):
        train_aligned(other, store, base, resume=True)


def test_resuming_begins_the_stage_where_there_is_nothing_of_it(
    store: CheckpointStore, base: Path, tmp_path: Path
) -> None:
    config = alignment_config(tmp_path, num_steps=2)
    train_aligned(config, store, base, resume=True)
    first = ParameterUpdatePipeline.from_pretrained(base).transformer.state_dict()
    assert not torch.equal(weights(config)["norm.weight"], first["norm.weight"])
