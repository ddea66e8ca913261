"""Messages of torch and diffusers that mean nothing, in a process of its own: pytest filters warnings itself."""

import subprocess
import sys

import pytest

FROM_PYTHON = """
import torch
from g_pt import ParameterUpdatePipeline

pipe = ParameterUpdatePipeline.from_pretrained("digits-loss", dtype=torch.bfloat16)
pipe.to(torch.float32).transformer.to(torch.float64)
bags = torch.vmap(lambda weight, chosen: torch.nn.functional.embedding_bag(chosen, weight))
bags(torch.randn(3, 10, 4), torch.zeros(3, 2, 4, dtype=torch.int64))
torch.nn.functional.grid_sample(torch.randn(1, 1, 4, 4), torch.zeros(1, 2, 2, 2))
"""


@pytest.mark.slow
def test_only_what_means_something_is_shown_from_python() -> None:
    done = subprocess.run([sys.executable, "-c", FROM_PYTHON], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "performance drop" not in done.stderr
    assert "float32" not in done.stderr
    assert "align_corners" in done.stderr  # other warnings are shown
