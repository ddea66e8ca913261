"""A policy before and after its update, side by side, as an animated GIF.

Gymnasium's own writers, `RecordVideo` and `save_video`, film one episode as MP4 and need moviepy and ffmpeg; for two
side by side, one standing still after its end, frames must be joined here anyway, and pillow writes them.

P = parameters of the policy.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from g_pt.files.atomic import atomic_path
from rl_tasks.gymnasium_environments import observe

if TYPE_CHECKING:
    from g_pt.tasks.base import Task
    from rl_tasks.task import GymnasiumTask

Frame = NDArray[np.uint8]
FRAME_STEPS = 2  # steps of the environment from one picture to the next
SHRINK = 2  # every other pixel, both ways
GAP = 8  # white pixels between the two
CAPTION = 22  # height of the band above them, in pixels


def check_packages() -> None:
    """Refuse to draw without the packages that do it.

    Raises:
        ValueError: one is missing.
    """
    missing = [package for package, module in (("pygame-ce", "pygame"), ("pillow", "PIL")) if find_spec(module) is None]
    if missing:
        raise ValueError(f"videos need {' and '.join(missing)}: pip install 'g-pt[video]'")


def write_comparison(task: Task, before: torch.Tensor, after: torch.Tensor, path: Path, *, seed: int = 0) -> None:
    """Write one episode of two policies (P,), raw, from the same start state; one that has ended stands still.

    Raises:
        ValueError: the task has no environment that can be drawn.
    """
    from rl_tasks.task import GymnasiumTask

    if not isinstance(task, GymnasiumTask):
        raise ValueError(f"videos show episodes of policies, but task {task.name!r} has none")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory: it must look for no display
    (left, first), (right, second) = (episode_frames(task, params, seed) for params in (before, after))
    captions = [f"before: return {first:.4g}", f"after: return {second:.4g}"]
    heading = side_by_side(*(caption(text, left[0].shape[1]) for text in captions))
    joined = [
        np.concatenate([heading, side_by_side(left[min(i, len(left) - 1)], right[min(i, len(right) - 1)])])
        for i in range(max(len(left), len(right)))
    ]
    write_gif(joined, path, milliseconds=20 * FRAME_STEPS)


def episode_frames(task: GymnasiumTask, params: torch.Tensor, seed: int) -> tuple[list[Frame], float]:
    """Pictures (height, width, 3) of one episode, the last of its end, and its return."""
    tensors = task.layout.unflatten(params.detach().float().cpu()[None])
    environment = task.make_environment(render_mode="rgb_array")
    seen, _ = environment.reset(seed=seed)
    frames, ended, step, total = [picture(environment)], False, 0, 0.0
    while not ended:
        actions = task.act(tensors, torch.from_numpy(observe(seen))[None, None])  # (1, 1, ...)
        seen, reward, terminated, truncated, _ = environment.step(task.facts.act(actions[:, 0])[0])
        total += float(reward)
        ended, step = terminated or truncated, step + 1
        if ended or step % FRAME_STEPS == 0:
            frames.append(picture(environment))
    environment.close()
    return frames, total


def picture(environment: Any) -> Frame:
    """The environment as it is now, smaller."""
    frame = environment.render()
    if not isinstance(frame, np.ndarray):
        raise ValueError(
            f"{environment.spec.id} draws no pictures: its render mode rgb_array gave {type(frame).__name__}"
        )
    return frame[::SHRINK, ::SHRINK].astype(np.uint8)


def caption(text: str, width: int) -> Frame:
    """A white band (CAPTION, width, 3) with a line of text in its middle."""
    from PIL import Image, ImageDraw, ImageFont

    band = Image.new("RGB", (width, CAPTION), "white")
    font = ImageFont.load_default(size=CAPTION * 0.6)
    ImageDraw.Draw(band).text((width / 2, CAPTION / 2), text, fill="black", anchor="mm", font=font)
    return np.asarray(band, dtype=np.uint8)


def side_by_side(left: Frame, right: Frame) -> Frame:
    """Two pictures of the same size with a white gap between."""
    return np.concatenate([left, np.full((len(left), GAP, 3), 255, dtype=np.uint8), right], axis=1)


def write_gif(frames: list[Frame], path: Path, *, milliseconds: int) -> None:
    """Write an animation that repeats for ever."""
    from PIL import Image

    images = [Image.fromarray(frame).quantize(32) for frame in frames]
    with atomic_path(path) as temporary:
        images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
