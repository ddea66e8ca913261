import json
import math
import warnings

import pytest

from g_pt.training.log import CollapseWarning, TrainingLog

EVALUATION = {
    "prompts": [0.1, 1.0], "achieved": [0.2, 0.9], "achieved_low": [0.1, 0.8], "achieved_high": [0.3, 1.1],
    "alignment": 0.8,
}  # fmt: skip


def test_lines_of_steps_that_will_be_done_again_are_dropped(tmp_path):
    log = TrainingLog(tmp_path, 0, every=2)
    for step in range(1, 9):
        log.step(step, 1.0 / step, 0.5, 1e-3)
    log.evaluation(8, {"prompts": [0.1, 1.0], "achieved": [0.2, 0.9], "alignment": 0.8})
    resumed = TrainingLog(tmp_path, 4, every=2)
    resumed.step(6, 1.0 / 6, 0.5, 1e-3)
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
    log.draw()
    assert not list(tmp_path.iterdir())


def test_the_picture_shows_losses_and_evaluations(tmp_path):
    log = TrainingLog(tmp_path, 0, every=1)
    for step in range(1, 60):
        log.step(step, 1.0 / step, 0.5, 1e-3)
    log.draw()
    without = (tmp_path / "curve.png").read_bytes()
    log.evaluation(60, {"prompts": [0.1, 1.0], "achieved": [0.2, 0.9], "alignment": 0.8})
    assert without.startswith(b"\x89PNG")
    assert (tmp_path / "curve.png").read_bytes() != without


def test_a_line_is_in_the_file_at_once_and_a_line_that_a_kill_has_cut_is_dropped(tmp_path):
    log = TrainingLog(tmp_path, 0, every=1)
    for step in (1, 2, 3):
        log.step(step, 1.0 / step, 0.5, 1e-3, update_norm=0.25)
        assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == step
    whole = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(whole[:-9])
    resumed = TrainingLog(tmp_path, 3, every=1)
    assert (tmp_path / "log.jsonl").read_text() == "".join(whole.splitlines(keepends=True)[:2])
    resumed.step(3, 1.0 / 3, 0.5, 1e-3, update_norm=0.25)
    assert (tmp_path / "log.jsonl").read_text() == whole


def test_a_collapse_is_warned_of_once_until_it_is_over_also_after_a_resume(tmp_path):
    log = TrainingLog(tmp_path, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.evaluation(1, {**EVALUATION, "dispersion_ratio": 0.8})
    with pytest.warns(CollapseWarning, match=r"at step 2 the samples collapse.* 0\.10 times"):
        log.evaluation(2, {**EVALUATION, "dispersion_ratio": 0.1})
    log = TrainingLog(tmp_path, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.evaluation(3, {**EVALUATION, "dispersion_ratio": 0.05})
        log.evaluation(4, {**EVALUATION, "dispersion_ratio": 0.9})
    with pytest.warns(CollapseWarning):
        log.evaluation(5, {**EVALUATION, "dispersion_ratio": 0.1})


def test_pictures_of_the_prompts_and_of_the_tensors_follow_the_last_evaluation(tmp_path):
    class Listener:
        def __init__(self):
            self.lines, self.shown = [], []

        def line(self, line):
            self.lines.append(line)

        def pictures(self, step, pictures):
            self.shown.append((step, {name: path.read_bytes() for name, path in pictures.items()}))

    listener = Listener()
    log = TrainingLog(tmp_path, 0, every=1, listener=listener)
    log.evaluation(1, {**EVALUATION, "held_out_by_tensor": {"fc1.weight": 0.5, "fc1.bias": 0.1}})
    log.step(2, 1.0, 0.5, 1e-3)
    log.draw()  # of steps alone the listener gets no picture
    log.evaluation(3, {**EVALUATION, "achieved": [0.1, 1.0], "held_out_by_tensor": {"fc1.weight": 0.2}})
    assert [line["step"] for line in listener.lines] == [1, 2, 3]
    assert [step for step, _ in listener.shown] == [1, 3]
    for name in ("prompt_curve", "tensors"):
        first, second = (pictures[name] for _, pictures in listener.shown)
        assert first.startswith(b"\x89PNG")
        assert first != second
        assert (tmp_path / f"{name}.png").read_bytes() == second
