"""The models inside the package keep what the README says of them."""

from pathlib import Path

import pytest

from g_pt.hub.download import BUNDLED, bundled_models
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.report.prompting import measure_prompting
from g_pt.report.section import Subject
from g_pt.report.sizes import measure_size

FOUR_MEGABYTES = 4 * 1024 * 1024


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_models_that_are_bundled() -> None:
    assert bundled_models() == ["cartpole-return", "digits-any-size-loss", "digits-error", "digits-loss"]


@pytest.mark.parametrize("name", bundled_models())
def test_a_bundled_model_is_small_and_holds_no_pickle(name: str) -> None:
    assert size(BUNDLED / name) <= FOUR_MEGABYTES
    suffixes = {file.suffix for file in (BUNDLED / name).rglob("*") if file.is_file()}
    assert suffixes == {".json", ".md", ".safetensors"}


@pytest.mark.parametrize("name", bundled_models())
def test_the_card_of_a_bundled_model_says_how_it_was_trained_and_what_was_measured(name: str) -> None:
    pipeline, card = ParameterUpdatePipeline.from_pretrained(name), (BUNDLED / name / "README.md").read_text()
    stage = pipeline.facts.alignment
    assert ("alignment through the sampler" in card) == (stage is not None)
    assert f"num_steps {stage.num_steps}, " in card if stage else "stages: denoising\n" in card
    assert "| prompt alignment (R²), attainable range |" in card


def test_the_digits_model_keeps_its_quality() -> None:
    # the README's figures are those of 256 networks; fewer are enough to notice a change
    pipeline = ParameterUpdatePipeline.from_pretrained("digits-loss")
    facts = measure_prompting(Subject(pipeline, "digits-loss", num_networks=48, num_prompts=8)).facts
    assert facts["one_update"]["test_error"]["mean"] <= 5.0
    assert facts["one_update"]["test_loss"]["mean"] <= 0.18
    assert facts["prompt_alignment"]["attainable"]["mean"] >= 0.95


def test_the_model_for_any_size_serves_widths_that_it_never_saw() -> None:
    pipeline = ParameterUpdatePipeline.from_pretrained("digits-any-size-loss")
    subject = Subject(pipeline, "digits-any-size-loss", num_networks=32, num_prompts=6)
    for width in (20, 64):
        found = measure_size(subject, (width,))
        assert found["update"]["loss"].mean() <= 1.15 * found["runs"]["loss"].mean()
        assert found["alignment"].mean() >= 0.97


def test_one_update_balances_the_pole_in_gymnasium() -> None:
    pipeline = ParameterUpdatePipeline.from_pretrained("cartpole-return")
    subject = Subject(pipeline, "cartpole-return", num_networks=8, num_prompts=5)
    facts = measure_prompting(subject, prompt_range=(20, 500)).facts
    assert facts["measurement"]["simulator"] == "gymnasium"
    assert facts["starting"]["test_return"]["mean"] < 60
    assert facts["one_update"]["test_return"]["mean"] >= 470
    assert facts["prompt_alignment"]["asked"]["mean"] >= 0.8
