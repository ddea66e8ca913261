import math

import pytest
import torch
import torch.nn.functional as F

from g_pt.tasks import supervised
from g_pt.tasks.classification import LabelledExamples, classification_error, cross_entropy


def test_cross_entropy_equals_pytorch_per_network(generator):
    logits = torch.randn(5, 4, 20, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (20,), generator=generator)
    expected = torch.stack([F.cross_entropy(one.T, labels) for one in logits])
    torch.testing.assert_close(cross_entropy(logits, labels), expected, rtol=1e-12, atol=1e-12)


def test_cross_entropy_of_equal_logits_is_log_of_the_number_of_classes():
    value = cross_entropy(torch.zeros(1, 10, 3), torch.tensor([0, 4, 9])).item()
    assert value == pytest.approx(math.log(10), abs=1e-6)


def test_error_is_the_percentage_of_wrong_answers():
    labels = torch.tensor([0, 1, 2, 0])
    logits = F.one_hot(torch.tensor([[0, 1, 2, 0], [0, 1, 1, 1], [1, 2, 0, 2]]), 3).float().transpose(1, 2)
    assert classification_error(logits, labels).tolist() == [0, 50, 100]


def test_error_equals_argmax(generator):
    logits = torch.randn(6, 10, 50, generator=generator)
    labels = torch.randint(10, (50,), generator=generator)
    expected = 100 * (logits.argmax(dim=1) != labels).float().mean(dim=1)
    torch.testing.assert_close(classification_error(logits, labels), expected)


@pytest.mark.parametrize("value", [0.0, math.inf, -math.inf, math.nan])
def test_a_network_that_gives_every_class_the_same_is_not_right(value):
    logits = torch.full((1, 10, 5), value)
    assert classification_error(logits, torch.arange(5)).item() == 100


def test_a_single_nan_among_the_logits_is_wrong():
    logits = torch.tensor([[[5.0], [math.nan], [1.0]]])
    assert classification_error(logits, torch.tensor([0])).item() == 100


def test_training_losses_are_those_of_the_chosen_examples(digits, generator):
    params = digits.init(3, generator)
    rows = torch.tensor([5, 900, 17, 5])
    train = digits.splits["train"]
    network = digits.network()
    expected = []
    for row in params:
        logits = torch.func.functional_call(network, digits.layout.unflatten(row), (train.inputs[rows],))
        expected.append(F.cross_entropy(logits, train.labels[rows]))
    torch.testing.assert_close(digits.training_losses(digits.layout.unflatten(params), rows), torch.stack(expected))


def test_training_losses_of_one_network_do_not_depend_on_the_others(digits, generator):
    params = digits.init(3, generator).requires_grad_()
    digits.training_losses(digits.layout.unflatten(params), torch.arange(8))[1].backward()
    assert params.grad[1].abs().sum() > 0
    assert params.grad[[0, 2]].abs().sum() == 0


def test_num_examples_counts_the_training_split(digits):
    assert digits.num_examples == len(digits.splits["train"])


def test_evaluating_in_chunks_changes_nothing(digits, generator, monkeypatch):
    params = digits.init(37, generator)
    whole = digits.evaluate(params)
    for floats in (1, 20_000, 1 << 30):
        monkeypatch.setattr(supervised, "EVALUATION_FLOATS", floats)
        for name, values in digits.evaluate(params).items():
            torch.testing.assert_close(values, whole[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(1210,), (2, 1209), (1, 2, 1210)])
def test_evaluate_refuses_other_shapes(digits, shape):
    with pytest.raises(ValueError, match=r"takes \(batch, 1210\), got \("):
        digits.evaluate(torch.zeros(shape))


def test_examples_count_and_move():
    examples = LabelledExamples(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    assert len(examples) == 4
    assert examples.to(torch.device("meta")).inputs.device.type == "meta"
