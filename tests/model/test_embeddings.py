import pytest
import torch

from g_pt.model.embeddings import ScalarEmbedding


def features(embedding, scalars):
    """What the linear layer is given: read through a projection that is the identity."""
    size = embedding.project.in_features
    embedding.project = torch.nn.Linear(size, size, dtype=torch.float64)
    with torch.no_grad():
        embedding.project.weight.copy_(torch.eye(size))
        embedding.project.bias.zero_()
        return embedding(scalars)


def test_features_are_sines_cosines_and_the_scalar():
    scalars = torch.tensor([0.0, 0.3, -2.0], dtype=torch.float64)
    embedding = ScalarEmbedding(8, num_frequencies=3, max_frequency=100.0).double()
    phase = scalars[:, None] * torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    expected = torch.cat([phase.sin(), phase.cos(), scalars[:, None]], dim=1)
    torch.testing.assert_close(features(embedding, scalars), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_frequency", [64.0, 1000.0])
def test_frequencies_are_evenly_spaced_in_their_logarithm(max_frequency):
    tiny = torch.tensor([1e-6], dtype=torch.float64)  # the sine is the phase here
    frequencies = features(ScalarEmbedding(4, 32, max_frequency).double(), tiny)[0, :32] / tiny
    assert frequencies[0].item() == pytest.approx(1, rel=1e-5)
    assert frequencies[-1].item() == pytest.approx(max_frequency, rel=1e-5)
    steps = frequencies.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-4, atol=0)


def test_neighbouring_diffusion_times_are_told_apart():
    times = torch.arange(1000, dtype=torch.float64) / 1000
    vectors = features(ScalarEmbedding(4, 32, max_frequency=1000.0).double(), times)
    distances = torch.cdist(vectors, vectors) + 10 * torch.eye(1000, dtype=torch.float64)
    assert distances.min() > 0.5


def test_only_the_projection_is_saved():
    assert set(ScalarEmbedding(4, 3, 10.0).state_dict()) == {"project.weight", "project.bias"}


def test_phases_do_not_lose_precision_in_a_half_precision_model():
    embedding = ScalarEmbedding(16, num_frequencies=32, max_frequency=1000.0)
    times = torch.linspace(0, 1, 50)
    with torch.no_grad():
        full = embedding(times)
        half = embedding.bfloat16()(times)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0.03, atol=0.03)
