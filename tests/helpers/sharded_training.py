"""A training sharded by FSDP 2 over CPU processes, which Accelerate itself starts on GPUs only; run by `launched`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from tiny_training import tiny_config, train

from checkpoints_dataset.store import CheckpointStore
from g_pt.training.config import TrainConfig
from g_pt.training.loop import join_processes


def config_of(folder: Path, output: str) -> TrainConfig:
    """Settings under which averages, the choice of the best weights and evaluations all take part."""
    config = tiny_config(folder / output)
    return replace(config, progress=replace(config.progress, choose="best"))


def main(arguments: list[str]) -> None:
    """Train on `<folder>/data` into `<folder>/sharded`, resuming where a second argument says so."""
    folder, resume = Path(arguments[0]), len(arguments) > 1
    config = config_of(folder, "sharded")
    accelerator = join_processes(config)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        transformer_cls_names_to_wrap=["TransformerBlock"],
        cpu_ram_efficient_loading=False,
        state_dict_type="SHARDED_STATE_DICT",
    )
    accelerator.state.fsdp_plugin = plugin
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    train(config, CheckpointStore(folder / "data"), accelerator=accelerator, held_out=True, resume=resume)
