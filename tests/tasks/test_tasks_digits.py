import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from g_pt.permutations import PermutationSpec
from g_pt.tasks.base import SPLITS
from g_pt.tasks.digits import Digits, load_digits_splits


@pytest.fixture(scope="module")
def originals():
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels), torch.tensor(labels)


@pytest.fixture(scope="module")
def rows(digits, originals):
    """Which of scikit-learn's rows each split holds; all 1,797 images differ, so pixels identify a row."""
    pixels, _ = originals
    of_image = {tuple(image): row for row, image in enumerate(pixels.int().tolist())}
    assert len(of_image) == 1797
    # undo the standardisation with the two values that are known: the smallest pixel is 0, the largest 16
    inputs = {split: digits.splits[split].inputs.double() for split in SPLITS}
    low, high = (f(torch.cat(list(inputs.values()))) for f in (torch.amin, torch.amax))
    undone = {split: ((x - low) / (high - low) * 16).round().int().tolist() for split, x in inputs.items()}
    return {split: [of_image[tuple(image)] for image in images] for split, images in undone.items()}


def test_sizes(digits):
    assert {split: len(digits.splits[split]) for split in SPLITS} == {"train": 1197, "validation": 300, "test": 300}
    assert digits.layout.num_params == 1210


def test_the_splits_part_the_data(rows):
    together = [row for split in SPLITS for row in rows[split]]
    assert sorted(together) == list(range(1797))


def test_labels_belong_to_their_images(digits, rows, originals):
    for split in SPLITS:
        assert torch.equal(digits.splits[split].labels, originals[1][rows[split]])


def test_classes_are_as_frequent_in_every_split(digits, originals):
    overall = originals[1].bincount() / 1797
    for split in SPLITS:
        examples = digits.splits[split]
        counts = examples.labels.bincount(minlength=10)
        assert (counts - overall * len(examples)).abs().max() <= 1.5  # rounding, twice


def test_inputs_are_standardised_with_the_training_split_alone(digits, rows, originals):
    pixels = originals[0] / 16
    train = pixels[rows["train"]]
    for split in SPLITS:
        expected = (pixels[rows[split]] - train.mean()) / train.std()
        torch.testing.assert_close(digits.splits[split].inputs.double(), expected, rtol=1e-5, atol=1e-5)
    assert digits.splits["train"].inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert digits.splits["train"].inputs.std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("split", SPLITS)
def test_evaluate_equals_a_plain_loop(digits, split, generator):
    params = 4 * digits.init(5, generator)
    examples = digits.splits[split]
    measured = digits.evaluate(params, split)
    for i, row in enumerate(params):
        network = digits.network()
        network.load_state_dict(digits.layout.unflatten(row))
        logits = network(examples.inputs)
        wrong = (logits.argmax(dim=1) != examples.labels).float().mean()
        assert measured["loss"][i].item() == pytest.approx(F.cross_entropy(logits, examples.labels).item(), rel=1e-5)
        assert measured["error"][i].item() == pytest.approx(100 * wrong.item(), abs=1e-4)


def test_fresh_networks_are_about_as_good_as_chance(digits, generator):
    measured = digits.evaluate(digits.init(50, generator))
    assert 2.2 < measured["loss"].mean() < 2.5
    assert 80 < measured["error"].mean() < 97


def test_reordering_hidden_units_leaves_the_metrics(digits, generator):
    params = digits.init(6, generator)
    permuted = digits.permutations.permute(params, digits.layout, digits.permutations.draw(digits.layout, 6, generator))
    assert not torch.equal(permuted, params)
    before, after = digits.evaluate(params), digits.evaluate(permuted)
    torch.testing.assert_close(after["loss"], before["loss"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after["error"], before["error"], rtol=0, atol=0.34)  # one example in 300


def test_the_spec_has_the_one_hidden_layer(digits):
    assert isinstance(digits.permutations, PermutationSpec)
    assert list(digits.permutations.group_sizes(digits.layout).values()) == [16]


def test_everything_is_the_same_every_time(digits):
    again = load_digits_splits()
    for split in SPLITS:
        assert torch.equal(again[split].inputs, digits.splits[split].inputs)
        assert torch.equal(again[split].labels, digits.splits[split].labels)
    params = digits.init(2, torch.Generator().manual_seed(3))
    assert torch.equal(params, Digits().init(2, torch.Generator().manual_seed(3)))
    assert torch.equal(digits.evaluate(params)["loss"], Digits().evaluate(params)["loss"])


def test_stepping_down_the_gradient_lowers_the_loss(digits, generator):
    params = digits.init(4, generator).requires_grad_()
    everything = torch.arange(digits.num_examples)
    before = digits.training_losses(digits.layout.unflatten(params), everything)
    (gradient,) = torch.autograd.grad(before.sum(), params)
    after = digits.training_losses(digits.layout.unflatten(params - 0.1 * gradient), everything)
    assert (after < before).all()
