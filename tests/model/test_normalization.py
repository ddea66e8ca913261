import pytest
import torch
from builders import layout_and_permutations

from g_pt.model.normalization import ParameterNormalizer
from g_pt.tasks.mlp import mlp_init

MODES = ["global", "tensor"]


@pytest.fixture
def parts():
    return layout_and_permutations((5, 7, 3))


@pytest.fixture
def params(parts, generator):
    """Initialisations, shifted by the index of their tensor so that means differ."""
    layout, _ = parts
    tensors = layout.unflatten(mlp_init(layout, 50, generator))
    return layout.flatten({name: t * (i + 1) + i for i, (name, t) in enumerate(tensors.items())})


@pytest.mark.parametrize("mode", MODES)
def test_unnormalize_undoes_normalize(parts, params, mode):
    normalizer = ParameterNormalizer.fit(params, parts[0], mode)
    assert not torch.allclose(normalizer.normalize(params), params)
    torch.testing.assert_close(normalizer.unnormalize(normalizer.normalize(params)), params, rtol=1e-6, atol=1e-6)


def test_a_new_normalizer_is_the_identity(params):
    normalizer = ParameterNormalizer(params.shape[1])
    assert torch.equal(normalizer.normalize(params), params)
    assert torch.equal(normalizer.unnormalize(params), params)


def test_global_is_one_scale_and_no_shift(parts, params):
    normalizer = ParameterNormalizer.fit(params, parts[0], "global")
    torch.testing.assert_close(normalizer.normalize(params), params / params.std())
    assert normalizer.normalize(params).std().item() == pytest.approx(1, abs=1e-5)


def test_tensor_standardises_each_tensor(parts, params):
    layout, _ = parts
    normalizer = ParameterNormalizer.fit(params, layout, "tensor")
    for values in layout.unflatten(normalizer.normalize(params)).values():
        assert values.mean().item() == pytest.approx(0, abs=1e-5)
        assert values.std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_normalizing_commutes_with_reordering_units(parts, params, mode, generator):
    layout, permutations = parts
    normalizer = ParameterNormalizer.fit(params, layout, mode)
    drawn = permutations.draw(layout, len(params), generator)
    first = permutations.permute(normalizer.normalize(params), layout, drawn)
    assert torch.equal(normalizer.normalize(permutations.permute(params, layout, drawn)), first)


@pytest.mark.parametrize("mode", MODES)
def test_saving_and_loading_is_exact(parts, params, mode, tmp_path):
    normalizer = ParameterNormalizer.fit(params, parts[0], mode)
    normalizer.save_pretrained(tmp_path)
    loaded = ParameterNormalizer.from_pretrained(tmp_path)
    assert torch.equal(loaded.mean, normalizer.mean)
    assert torch.equal(loaded.std, normalizer.std)


def test_a_tensor_that_never_varies_is_refused_by_name(parts, params):
    layout, _ = parts
    params[:, layout.slices["fc1.bias"]] = 1.0
    ParameterNormalizer.fit(params, layout, "global")
    with pytest.raises(ValueError, match=r"fc1\.bias"):
        ParameterNormalizer.fit(params, layout, "tensor")


def test_an_unknown_mode_is_refused(parts, params):
    with pytest.raises(ValueError, match="'global' or 'tensor', got 'unit'"):
        ParameterNormalizer.fit(params, parts[0], "unit")
