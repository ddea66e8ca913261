"""Diversity of samples: distances by hand, and what a collapsed sampler gives."""

from types import SimpleNamespace

import pytest
import torch

from g_pt.evaluation.diversity import error_diversity, mean_distance, measure_diversity
from g_pt.tasks import get_task


class Sampler:
    """A pipeline that adds noise of a given scale to the starts."""

    def __init__(self, task, scale):
        self.task, self.scale = task, scale

    def __call__(self, starts, prompt, *, num_inference_steps, generator):
        return SimpleNamespace(params=starts + self.scale * torch.randn(starts.shape, generator=generator))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_mean_distance_is_that_of_all_pairs():
    networks = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]], [[1.0, 1.0]] * 3])
    assert mean_distance(networks).tolist() == pytest.approx([(5 + 4 + 3) / 3, 0.0])


def test_noise_on_the_starts_has_the_distances_of_noise(digits):
    starts = digits.init(6, generator())
    found = measure_diversity(Sampler(digits, 0.01), starts, 0.1, num_samples=5, generator=generator(1))
    norm = 0.01 * digits.layout.num_params**0.5
    assert found.moved.mean == pytest.approx(norm, rel=0.05)
    assert found.within_start.mean == pytest.approx(2**0.5 * norm, rel=0.05)
    apart = torch.cdist(starts, starts).sum() / 30
    assert found.between_starts.mean == pytest.approx(apart.item(), rel=0.1)
    assert found.distinct_errors.mean > 0.9


def test_a_collapsed_sampler_is_seen(digits):
    found = measure_diversity(Sampler(digits, 0.0), digits.init(3, generator()), 0.1, num_samples=4)
    assert found.within_start.mean == 0
    assert found.distinct_errors.mean == 1 / 4
    assert found.ensemble_error.mean == pytest.approx(found.single_error.mean)


def test_an_ensemble_is_the_mean_of_probabilities(digits):
    samples = 3 * digits.init(8, generator()).view(2, 4, -1)
    found = error_diversity(digits, samples, "validation")
    data = digits.splits["validation"]
    for start in range(2):
        outputs = []
        for params in samples[start]:
            network = digits.network()
            network.load_state_dict(digits.layout.unflatten(params))
            outputs.append(network(data.inputs).softmax(dim=1).detach())
        wrong = torch.stack(outputs).mean(dim=0).argmax(dim=1) != data.labels
        assert found["ensemble_error"][start].item() == pytest.approx(100 * wrong.float().mean().item())
        single = [100 * (o.argmax(dim=1) != data.labels).float().mean().item() for o in outputs]
        assert found["single_error"][start].item() == pytest.approx(sum(single) / 4)


def test_tasks_without_classes_have_distances_only():
    task = get_task("regression")
    found = measure_diversity(Sampler(task, 0.1), task.init(3, generator()), 0.1, num_samples=3)
    assert found.within_start.mean > 0
    assert found.ensemble_error is None


@pytest.mark.parametrize(("starts", "samples"), [(1, 3), (3, 1)])
def test_one_start_or_one_sample_has_no_diversity(digits, starts, samples):
    with pytest.raises(ValueError, match=f"got {starts} and {samples}"):
        measure_diversity(Sampler(digits, 0.1), digits.init(starts, generator()), 0.1, num_samples=samples)
