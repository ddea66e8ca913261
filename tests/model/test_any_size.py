"""One model for networks of many sizes: symmetry, identity at the start, sharing of weights, members of a pipeline."""

import warnings

import pytest
import torch
from builders import LOSS, randomise

from g_pt import ParameterUpdatePipeline
from g_pt.model.family_pipeline import SizeRangeWarning
from g_pt.model.normalization import ParameterNormalizer
from g_pt.model.schedulers import make_scheduler, noise_schedule
from g_pt.model.sharing import share_weights
from g_pt.model.transformer import ParameterTransformer
from g_pt.networks.training_facts import TrainingFacts
from g_pt.tasks import get_family
from g_pt.tasks.mlp import mlp

SIZES = {"width": 16, "num_layers": 2, "num_heads": 2, "num_frequencies": 4, "edge_width": 8}
FACTS = {
    "prompt_range": [0.05, 2.5],
    "attainable_range": [0.1, 2.3],
    "sizes": [
        {"hidden": [8], "prompt_range": [0.2, 2.5], "attainable_range": [0.3, 2.3]},
        {"hidden": [16], "prompt_range": [0.05, 2.5], "attainable_range": [0.1, 2.3]},
        {"hidden": [8, 8], "prompt_range": [0.3, 2.6], "attainable_range": [0.4, 2.4]},
    ],
}


@pytest.fixture(scope="module")
def family():
    return get_family("digits[64-**-10]")


def make_model(family, hidden=(16,), **options):
    task = family.member(hidden)
    kinds = {"tokenization": "kinds", "kinds": family.kinds()} | options
    return ParameterTransformer(
        task.layout.to_json(), family.permutations(hidden).to_json(), LOSS.to_json(), **SIZES, **kinds
    )


def inputs(num_params, generator):
    x_t, x_start = torch.randn(2, 3, num_params, generator=generator, dtype=torch.float64)
    metrics = torch.rand(2, 3, generator=generator, dtype=torch.float64) + 0.5
    return x_t, torch.tensor([0, 500, 999]), x_start, *metrics


def make_pipeline(family):
    model = make_model(family)
    plan = model.tokens.plan
    return ParameterUpdatePipeline(
        randomise(model, scale=0.05).eval(),
        ParameterNormalizer.fit_sizes(plan, [plan], torch.tensor([0.25])),
        make_scheduler("ddim", noise_schedule()),
        task=family.name,
        num_inference_steps=2,
        training=FACTS,
    )


def test_members_commute_with_reordering_and_start_at_the_identity(family, generator):
    model = make_model(family).double()
    for hidden in ((5,), (16,), (7, 4), (3, 6, 5)):
        layout, spec = family.member(hidden).layout, family.permutations(hidden)
        plan = model.plan_of(layout, spec)
        x_t, timesteps, x_start, *metrics = inputs(layout.num_params, generator)
        untrained = make_model(family).double()
        assert torch.equal(untrained(x_t, timesteps, x_start, *metrics, plan), x_start)
        randomise(model, scale=0.1)
        drawn = spec.draw(layout, 3, generator)
        permuted = [spec.permute(x, layout, drawn) for x in (x_t, x_start)]
        output = model(x_t, timesteps, x_start, *metrics, plan)
        of_permuted = model(permuted[0], timesteps, permuted[1], *metrics, plan)
        assert (of_permuted - spec.permute(output, layout, drawn)).abs().max() < 1e-9
        assert (output - x_start).abs().mean() > 0.01
        assert (of_permuted - output).abs().max() > 0.01
        same = model.member(layout, spec)
        assert torch.equal(same(x_t, timesteps, x_start, *metrics), output)


def test_layers_of_one_size_differ_by_their_place_and_sizes_by_their_width(family, generator):
    model = randomise(make_model(family), scale=0.1)
    plan = model.plan_of(family.member((6, 6)).layout, family.permutations((6, 6)))
    told = model.tokens.told(plan, torch.zeros(1))
    assert (told[0] - told[1]).abs().max() > 0.01
    wider = model.plan_of(family.member((24, 6)).layout, family.permutations((24, 6)))
    assert ((model.tokens.told(wider, torch.zeros(1)) - told).abs().amax(dim=1) > 0.01).all()
    expected = torch.tensor([6 / 16, 6 / 16]).log()
    torch.testing.assert_close(plan.features[0, [0, 2]], expected)
    assert plan.features[:, 3:].tolist() == [[1, 0, -0.25, 1], [0, 1, 0.25, 1]]


def test_shared_weights_give_the_outputs_of_the_model_of_one_size(family, generator):
    trained = randomise(make_model(family, tokenization="units", kinds=None), scale=0.1).double()
    model = randomise(make_model(family), seed=1).double()
    share_weights(model, trained)
    given = inputs(trained.layout.num_params, generator)
    torch.testing.assert_close(model(*given), trained(*given), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="trained model is of"):
        share_weights(make_model(family, (12,)), trained)


def test_a_model_of_one_size_refuses_plans_of_others(family):
    model = make_model(family, tokenization="units", kinds=None)
    with pytest.raises(ValueError, match="of one layout"):
        model.plan_of(family.member((5,)).layout, family.permutations((5,)))
    kinds = {k: v for k, v in family.kinds().items() if k != "weight[*,*]"}
    with pytest.raises(ValueError, match=r"weight\[\*,\*\]"):
        make_model(family, kinds=kinds).plan_of(family.member((5, 5)).layout, family.permutations((5, 5)))


def test_the_law_of_scale_is_that_of_the_sizes_it_was_fitted_to(family):
    model = make_model(family)
    hidden = [(8,), (16,), (32,), (8, 8), (32, 8)]
    plans = [model.plan_of(family.member(h).layout, family.permutations(h)) for h in hidden]
    stds = torch.tensor([0.3 * torch.tensor(h).double().log().mean().exp() ** -0.4 * 0.9 ** len(h) for h in hidden])
    normalizer = ParameterNormalizer.fit_sizes(model.tokens.plan, plans, stds)
    for plan, std in zip(plans, stds, strict=True):
        assert normalizer.scale_of(plan) == pytest.approx(std.item(), rel=0.01)
        assert torch.allclose(normalizer.member(plan).std, torch.full((len(plan.order),), normalizer.scale_of(plan)))
    before = normalizer.scale_of(plans[0])
    normalizer.rescale(2 * normalizer.std[0].item())
    assert normalizer.scale_of(plans[0]) == pytest.approx(2 * before)
    with pytest.raises(ValueError, match="of one size"):
        ParameterNormalizer(3).member(plans[0])


def test_facts_of_a_size_are_measured_or_between_those_of_its_neighbours():
    facts = TrainingFacts.from_json(FACTS)
    assert TrainingFacts.from_json(facts.to_json()) == facts
    assert facts.of_size((8,)).attainable() == (0.3, 2.3)
    assert facts.of_size((4,)).attainable() == (0.3, 2.3)
    assert facts.of_size((99,)).attainable() == (0.1, 2.3)
    assert facts.of_size((11,)).attainable()[0] == pytest.approx(0.3 - 0.2 * torch.tensor(11 / 8).log2().item())
    assert facts.of_size((5, 50)).seen() == facts.of_size((9, 9, 9)).seen() == (0.3, 2.6)


def test_a_pipeline_serves_members_by_width_module_and_state_dict(family, tmp_path):
    pipeline = make_pipeline(family)
    network = mlp((64, 12, 10))
    with torch.no_grad():
        member = pipeline.member((12,))
        start = member.layout.flatten(network.state_dict())[None]
        wanted = member(start, 0.5, generator=1).params
        assert member.task.name == "digits[64-12-10]"
        assert pipeline.task.name == "digits[64-16-10]"
        for given in (network, network.state_dict(), [network]):
            assert torch.equal(pipeline(given, 0.5, generator=1).params, wanted)
    torch.manual_seed(0)
    updated = pipeline.update_module(network, 0.5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(member.layout.flatten(updated.state_dict())[None], wanted)
    pipeline.save_pretrained(tmp_path / "family")
    loaded = ParameterUpdatePipeline.from_pretrained(tmp_path / "family")
    assert torch.equal(loaded(network, 0.5, generator=1).params, wanted)
    member.save_pretrained(tmp_path / "member")  # an ordinary model of one size
    assert torch.equal(
        ParameterUpdatePipeline.from_pretrained(tmp_path / "member")(start, 0.5, generator=1).params, wanted
    )


def test_sizes_beyond_the_training_warn_and_prompts_that_a_size_cannot_attain_too(family):
    pipeline = make_pipeline(family)
    for hidden, words in (((40,), "40"), ((8, 8, 8), "up to 2 layers of 8 to 16")):
        with pytest.warns(SizeRangeWarning, match=words):
            pipeline.member(hidden)
    with pytest.warns(UserWarning, match=r"0\.1 lies outside .* 0\.2 to 2\.5 .*attain 0\.3"):
        pipeline(mlp((64, 8, 10)), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline(mlp((64, 12, 10)), 0.3)
    with pytest.raises(ValueError, match=r"fc2\.weight"):
        pipeline(mlp((64, 8, 11)), 0.3)
