"""A model sharded over two processes is trained, averaged, evaluated, resumed and saved as a whole one is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from launched import run_program
from safetensors.torch import load_file
from sharded_training import config_of
from tiny_training import tiny_store, train, weights

from checkpoints_dataset.store import CheckpointStore
from g_pt.training.accelerators import check_sharding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the data, and what two processes that share the weights made of them."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny_store(folder / "data")
    assert run_program("sharded_training:main", [str(folder)], processes=2) == [0, 0]
    return folder


@pytest.mark.slow
def test_the_saved_pipeline_is_whole_and_that_of_one_process(folder: Path) -> None:
    config = config_of(folder, "whole")
    train(config, CheckpointStore(folder / "data"), held_out=True)
    ours, others = weights(config_of(folder, "sharded")), weights(config)
    assert ours.keys() == others.keys()
    for name in others:
        torch.testing.assert_close(ours[name], others[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_every_process_saves_its_own_averages_and_a_resumed_run_is_the_same(folder: Path) -> None:
    output = folder / "sharded"
    checkpoints = output / "checkpoints"
    for rank in range(2):
        assert (checkpoints / "step-00000012" / f"averages-{rank:05d}.pt").is_file()
    shards = [torch.load(checkpoints / f"step-00000012/averages-{rank:05d}.pt", weights_only=True) for rank in range(2)]
    whole = weights(config_of(folder, "sharded"))
    sizes = [sum(tensor.numel() for tensor in shard["weights"]) for shard in shards]
    assert sum(sizes) == sum(tensor.numel() for tensor in whole.values())
    assert max(sizes) < 0.6 * sum(sizes)
    log, file = (output / "log.jsonl").read_text(), "transformer/diffusion_pytorch_model.safetensors"
    before = load_file(output / "pipeline" / file)
    shutil.rmtree(checkpoints / "step-00000012")
    shutil.rmtree(output / "pipeline")
    assert run_program("sharded_training:main", [str(folder), "--resume"], processes=2) == [0, 0]
    assert (output / "log.jsonl").read_text() == log
    after = load_file(output / "pipeline" / file)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_other_ways_to_shard_are_refused() -> None:
    from accelerate.utils import DistributedType

    class Of:
        def __init__(self, kind: DistributedType, *, version_2: bool) -> None:
            self.distributed_type, self.is_fsdp2 = kind, version_2

    check_sharding(Of(DistributedType.FSDP, version_2=True))  # type: ignore[arg-type]
    check_sharding(Of(DistributedType.MULTI_GPU, version_2=False))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fsdp_version: 2"):
        check_sharding(Of(DistributedType.FSDP, version_2=False))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sharded by FSDP only, got DEEPSPEED"):
        check_sharding(Of(DistributedType.DEEPSPEED, version_2=False))  # type: ignore[arg-type]
