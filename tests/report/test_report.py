import pytest
import torch
from tiny_training import tiny_config, tiny_store, train

from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.report.prompting import measure_prompting
from g_pt.report.section import Subject


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> ParameterUpdatePipeline:
    folder = tmp_path_factory.mktemp("report")
    config = tiny_config(folder / "out")
    train(config, tiny_store(folder / "data"))
    return ParameterUpdatePipeline.from_pretrained(config.pipeline_folder)


class PerfectPrompter(ParameterUpdatePipeline):
    """Marks each network with its prompt; `PerfectTask` reads the mark."""

    def __call__(
        self, starting_params: torch.Tensor, prompted_metric: torch.Tensor, *_: object, **__: object
    ) -> object:
        marked = starting_params.clone()
        marked[:, 0] = prompted_metric
        return type("Output", (), {"params": marked})()


def test_a_perfect_prompter_has_alignment_one_and_a_stubborn_one_below_zero(
    pipeline: ParameterUpdatePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    perfect = PerfectPrompter(**pipeline.components)
    perfect.register_to_config(**{k: pipeline.config[k] for k in ("task", "training", "num_inference_steps")})
    evaluate = lambda params, split="test": {"loss": params[:, 0].clone(), "error": 50 * params[:, 0]}  # noqa: E731
    monkeypatch.setattr(perfect.task, "evaluate", evaluate)
    found = measure_prompting(Subject(perfect, "perfect", num_networks=8, num_prompts=5)).facts
    assert found["prompt_alignment"]["attainable"]["mean"] == pytest.approx(1.0)
    assert found["prompt_alignment"]["full"]["low"] == pytest.approx(1.0)
    assert found["one_update"]["prompt"] == pytest.approx(pipeline.facts.attainable_range[0])
    few = Subject(perfect, "perfect", num_networks=4, num_prompts=3)
    asked = measure_prompting(few, prompt_range=(0.9, 0.3)).facts
    assert next(iter(asked["curve"])) == "asked"
    assert asked["curve"]["asked"]["prompted"] == pytest.approx([0.3, 0.6, 0.9])
    assert asked["one_update"]["prompt"] == pytest.approx(0.3)
    monkeypatch.setattr(perfect.task, "evaluate", lambda p, s="test": {"loss": 0 * p[:, 0] + 1.0, "error": 0 * p[:, 0]})
    stubborn = measure_prompting(Subject(perfect, "stubborn", num_networks=8, num_prompts=5)).facts
    assert stubborn["prompt_alignment"]["full"]["high"] <= 0


def test_the_report_has_the_promised_keys_and_true_figures(pipeline: ParameterUpdatePipeline) -> None:
    found = measure_prompting(Subject(pipeline, "tiny", 6, 4, num_inference_steps=2, seed=3)).facts
    assert (found["model"], found["task"], found["networks"], found["num_inference_steps"]) == ("tiny", "digits", 6, 2)
    for name in ("full", "attainable"):
        assert {"mean", "low", "high"} <= set(found["prompt_alignment"][name])
        assert found["prompt_alignment"][name]["low"] <= found["prompt_alignment"][name]["mean"]
    assert {"test_loss", "test_error"} <= set(found["one_update"])
    assert found["trained_runs"]["test_loss"]["mean"] > 0
    starts = pipeline.task.init(6, torch.Generator().manual_seed(3))
    expected = pipeline.task.evaluate(starts, "test")["loss"].mean().item()
    assert found["starting"]["test_loss"]["mean"] == pytest.approx(expected)


def test_the_same_seed_gives_the_same_report(pipeline: ParameterUpdatePipeline) -> None:
    first, second = (measure_prompting(Subject(pipeline, "tiny", 4, 3, num_inference_steps=2)).facts for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_too_few_networks_and_unknown_training_data_are_refused(pipeline: ParameterUpdatePipeline) -> None:
    with pytest.raises(ValueError, match="at least 2 networks and 2 prompts"):
        measure_prompting(Subject(pipeline, "tiny", num_networks=1))
    bare = ParameterUpdatePipeline(**pipeline.components, task="digits")
    with pytest.raises(ValueError, match="attainable_range"):
        measure_prompting(Subject(bare, "bare"))
