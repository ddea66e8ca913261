import json
import math

import pytest

from g_pt.training.log import TrainingLog


def test_lines_of_steps_that_will_be_done_again_are_dropped(tmp_path):
    log = TrainingLog(tmp_path, 0, every=2)
    for step in range(1, 9):
        log.step(step, 1.0 / step, 0.5, 1e-3)
    log.evaluation(8, {"prompts": [0.1, 1.0], "achieved": [0.2, 0.9], "alignment": 0.8})
    resumed = TrainingLog(tmp_path, 4, every=2)
    resumed.step(6, 1.0 / 6, 0.5, 1e-3)
    resumed.flush()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[1] == {"step": 4, "loss": 0.25, "grad_norm": 0.5, "lr": 1e-3}


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(tmp_path, loss):
    with pytest.raises(ValueError, match=r"at step 3; lower optimizer\.learning-rate"):
        TrainingLog(tmp_path, 0).step(3, loss, 0.5, 1e-3)


def test_another_process_writes_nothing(tmp_path):
    log = TrainingLog(tmp_path, 0, every=1, enabled=False)
    log.step(1, 1.0, 0.5, 1e-3)
    log.flush()
    assert not list(tmp_path.iterdir())


def test_the_picture_shows_losses_and_evaluations(tmp_path):
    log = TrainingLog(tmp_path, 0, every=1)
    for step in range(1, 60):
        log.step(step, 1.0 / step, 0.5, 1e-3)
    log.flush()
    without = (tmp_path / "curve.png").read_bytes()
    log.evaluation(60, {"prompts": [0.1, 1.0], "achieved": [0.2, 0.9], "alignment": 0.8})
    assert without.startswith(b"\x89PNG")
    assert (tmp_path / "curve.png").read_bytes() != without
