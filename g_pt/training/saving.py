"""The end of a stage: its averaged weights become those of the pipeline, which is saved."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from g_pt.files.atomic import atomic_folder, named_disk_errors
from g_pt.hub.download import CARD_FILE
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.training.accelerators import is_sharded
from g_pt.training.checkpoints import check_replaceable
from g_pt.training.ema import AveragedWeights


def finish(
    pipeline: ParameterUpdatePipeline,
    wrapped: nn.Module,
    averaged: AveragedWeights,
    folder: Path,
    accelerator: Accelerator,
) -> ParameterUpdatePipeline:
    """Put the averaged weights into the pipeline, save it once, and forget what Accelerate has prepared."""
    model = pipeline.transformer
    averaged.copy_to_model()
    if is_sharded(accelerator):
        weights = accelerator.get_state_dict(wrapped)  # whole on the first process
        accelerator.free_memory()
        if accelerator.is_main_process:
            model = type(model).from_config(model.config)
            model.load_state_dict(weights)
            pipeline.register_modules(transformer=model)
            save_whole(pipeline, folder)
        accelerator.wait_for_everyone()
        pipeline = ParameterUpdatePipeline.from_pretrained(folder)
        pipeline.to(accelerator.device)
        return pipeline
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # or the pipeline would go on sampling in bf16
    accelerator.free_memory()  # or a next stage's gradients would still run through this one's
    model.eval()
    if accelerator.is_main_process:
        save_whole(pipeline, folder)
    accelerator.wait_for_everyone()
    return pipeline


def save_whole(pipeline: ParameterUpdatePipeline, folder: Path) -> None:
    """Save a pipeline under a temporary name, then rename: a folder never mixes two models."""
    with named_disk_errors(folder), atomic_folder(folder, check_replaceable) as temporary:
        pipeline.save_pretrained(temporary)
        if (folder / CARD_FILE).is_file():  # a user may have written it
            shutil.copy2(folder / CARD_FILE, temporary / CARD_FILE)
