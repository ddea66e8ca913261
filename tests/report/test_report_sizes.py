"""The section over sizes: ratio and alignment of every size, for models that have several."""

from unittest.mock import patch

import torch
from builders import LOSS, build_pipeline, randomise

from g_pt import ParameterUpdatePipeline
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.schedulers import make_scheduler, noise_schedule
from g_pt.model.transformer import ParameterTransformer
from g_pt.report import sizes
from g_pt.report.section import Subject
from g_pt.tasks import get_family, get_task

RANGES = {"prompt_range": [0.05, 2.5], "attainable_range": [0.1, 2.3]}
FACTS = {
    **RANGES,
    "dataset": {"source": {"num_steps": 3}},
    "sizes": [{"hidden": [width], **RANGES} for width in (4, 16)],
}


def test_every_size_is_compared_with_runs_of_its_own(tmp_path):
    family = get_family("digits[64-*-10]")
    task = family.member((16,))
    model = ParameterTransformer(
        task.layout.to_json(), task.permutations.to_json(), LOSS.to_json(), width=16, num_layers=1, num_heads=2,
        tokenization="kinds",
    )  # fmt: skip
    plan = model.tokens.plan
    pipeline = ParameterUpdatePipeline(
        randomise(model, scale=0.02).eval(), ParameterNormalizer.fit_sizes(plan, [plan], torch.tensor([0.25])),
        make_scheduler("ddim", noise_schedule()), task=family.name, num_inference_steps=1, training=FACTS,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    with patch.object(sizes, "NUM_RUNS", 3):
        section = sizes.measure_sizes(Subject(pipeline, "some", num_networks=3, num_prompts=2))
    facts = section.facts["sizes"]
    assert [(size["hidden"], size["harvested"]) for size in facts] == [([4], True), ([16], True), ([8], False)]
    for size in facts:
        after, trained = size["update_test_loss"], size["runs_test_loss"]
        assert (after["networks"], trained["networks"]) == (3, 3)
        assert abs(size["ratio"] * trained["mean"] / after["mean"] - 1) < 1e-5
    assert [row[:2] for row in section.tables[0].rows] == [("4", "yes"), ("16", "yes"), ("8", "no")]
    section.figures["sizes.png"](tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").stat().st_size > 1000
    assert sizes.measure_sizes(Subject(build_pipeline(get_task("digits")), "one")) is None


def test_sizes_between_neighbours_of_as_many_layers_are_added():
    assert sizes.between([(4,), (16,), (64,), (8, 8), (32, 8)]) == [(8,), (32,), (16, 8)]
