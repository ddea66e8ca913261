import sys
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from g_pt.networks.metrics import Metric
from g_pt.pictures import canvas as figures
from g_pt.pictures import sections
from g_pt.pictures.canvas import new_figure, save_prompt_curve, save_training_curve, short_number
from g_pt.pictures.sections import save_plane

LOSSES = [{"step": s, "loss": 1 / (s + 1)} for s in range(0, 500, 10)]
EVALUATIONS = [
    {"step": s, "prompts": [0.1, 2.0], "achieved": [0.5 - s / 1000, 1.9], "alignment": 0.9} for s in (100, 200)
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to read the numbers in them."""
    saved = []
    save = figures.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


def prompt_curve(path, **options):
    prompts = np.linspace(0.1, 2, 5)
    achieved = prompts + np.linspace(-0.2, 0.2, 21)[:, None]
    save_prompt_curve(prompts, achieved, path, metric=Metric("loss", "nats"), alignment=0.987, **options)
    return prompts, achieved


def test_a_prompt_curve_is_an_image_with_something_in_it(tmp_path):
    prompt_curve(tmp_path / "deep" / "curve.png")
    image = imread(tmp_path / "deep" / "curve.png")
    assert image.shape[:2] == (504, 624)
    assert image[..., :3].std() > 0.05
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["curve.png"]


def test_a_prompt_curve_shows_mean_identity_and_middle_90_percent(tmp_path, drawn):
    prompts, _ = prompt_curve(tmp_path / "curve.png")
    (axis,) = drawn[0].axes
    identity, mean = axis.lines
    assert np.array_equal(identity.get_xdata(), identity.get_ydata())
    np.testing.assert_allclose(mean.get_ydata(), prompts, atol=1e-12)  # errors are symmetric
    band = axis.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(band[:, 1].max(), prompts[-1] + 0.18)
    assert axis.get_title() == "prompt alignment 0.987"
    assert axis.get_xlabel() == "prompted loss (nats)"
    assert "21 networks" in axis.get_legend().get_texts()[1].get_text()


def test_lines_for_the_best_and_the_start_are_optional(tmp_path, drawn):
    prompt_curve(tmp_path / "curve.png", best=0.05, start=2.3)
    levels = [line.get_ydata()[0] for line in drawn[0].axes[0].lines[2:]]
    assert levels == [0.05, 2.3]


@pytest.mark.parametrize(
    "lines", [LOSSES + EVALUATIONS, LOSSES, LOSSES[:3], EVALUATIONS, []],
    ids=["whole", "no evaluation", "short", "no loss", "empty"],
)  # fmt: skip
def test_a_training_curve_can_be_drawn_of_any_part_of_a_log(tmp_path, lines):
    save_training_curve(lines, tmp_path / "curve.png")
    assert imread(tmp_path / "curve.png").shape[1] == 1248


def test_a_training_curve_shows_the_log_and_its_moving_mean(tmp_path, drawn):
    save_training_curve(LOSSES + EVALUATIONS, tmp_path / "curve.png")
    left, right = drawn[0].axes
    raw, smooth = left.lines
    assert raw.get_ydata().tolist() == [line["loss"] for line in LOSSES]
    assert len(smooth.get_ydata()) == 50 - 2 + 1
    assert smooth.get_ydata()[0] == pytest.approx((LOSSES[0]["loss"] + LOSSES[1]["loss"]) / 2)
    assert list(right.lines[0].get_ydata()) == [0.4, 0.3]
    assert right.lines[1].get_ydata()[0] == 0.1


def test_no_global_figure_is_left():
    figure, axes = new_figure(3)
    assert len(axes) == len(figure.axes) == 3
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_an_error_while_drawing_keeps_the_old_picture(tmp_path):
    path = tmp_path / "curve.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"shape|size"):
        save_prompt_curve(np.ones(3), np.ones((4, 5)), path, metric=Metric("m", ""), alignment=0)
    assert path.read_bytes() == b"old"


def test_a_plane_is_drawn_around_points_that_have_no_metric(tmp_path):
    values = torch.linspace(0.5, 2.0, 16).view(4, 4)
    axis, run, jump = torch.linspace(0, 1, 4), torch.rand(3, 2), torch.tensor([0.5, 0.5])
    draw = partial(save_plane, axis, axis, run=run, jump=jump, metric=Metric("loss", "nats"), split="test")
    draw(values, path=tmp_path / "whole.png")
    values[:2, :2] = torch.tensor([[torch.nan, torch.inf], [torch.nan, torch.nan]])
    draw(values, path=tmp_path / "part.png")
    whole, part = (imread(tmp_path / f"{name}.png") for name in ("whole", "part"))
    assert whole.shape == part.shape
    background = (part[..., :3] == 1).all(axis=-1).mean() - (whole[..., :3] == 1).all(axis=-1).mean()
    assert background > 0.02, "an empty corner"


def test_every_optimizer_has_a_curve_however_many_there_are(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sections, "save_figure", lambda figure, path: drawn.append(figure))
    curves = {f"optimizer {k}": ([1, 2, 5], 1 + torch.rand(4, 3)) for k in range(len(sections.COLORS) + 3)}
    sections.save_optimizer_curves(curves, torch.ones(4), tmp_path / "curves.png", Metric("loss", "nats"), at=2.0)
    [axis] = drawn[0].axes
    labels = [line.get_label() for line in axis.get_lines()]
    assert set(curves) <= set(labels)


def test_large_numbers_of_a_colour_bar_have_no_exponent() -> None:
    values = (0.1234, 2.0, 99.4, 500.0, -1296.0)
    assert [short_number(value) for value in values] == ["0.12", "2", "99", "500", "-1,296"]
