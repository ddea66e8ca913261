"""What a harvest says about itself."""

from pathlib import Path

import pytest

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.harvest import harvest_with_progress

STUCK = """
import torch
from g_pt.tasks.digits import Digits

class Stuck(Digits):
    name = "stuck"

    def evaluate(self, params, split="test"):
        return super().evaluate(params, split) | {"error": torch.full((len(params),), 90.0)}
"""


def test_a_metric_that_never_moves_is_said_at_the_end_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    config = HarvestConfig(task=f"{tmp_path}/stuck.py:Stuck", num_runs=4, num_steps=3, num_checkpoints=3)
    assert harvest_with_progress(config, tmp_path / "data") is not None
    said = capsys.readouterr().err
    assert "warning: the error is 90 in every checkpoint, so no prompt could ask for another; harvest with more" in said
    assert said.count("warning") == 1  # the loss moves
