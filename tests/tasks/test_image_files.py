import gzip
import io
import warnings

import numpy as np
import pytest
import torch
from image_builders import idx_bytes, write_cifar_folder, write_idx_folder
from malformed import limited

from g_pt.tasks import image_files
from g_pt.tasks.image_files import (
    IDX_CHECKSUMS,
    IDX_FILES,
    check_contents,
    has_pickled_cifar,
    parse_idx,
    read_cifar_folder,
    read_file,
    read_idx_folder,
)


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_are_read_compressed_or_not(tmp_path, compress):
    arrays = write_idx_folder(tmp_path, compress=compress)
    parts = read_idx_folder(tmp_path, "own")
    assert [part.dtype for part in parts] == [torch.uint8, torch.int64] * 2
    for part, array in zip(parts, arrays, strict=True):
        assert np.array_equal(part.squeeze(1).numpy() if part.dim() == 4 else part.numpy(), array)
    assert parts[0].shape == (6, 1, 28, 28)


def test_a_folder_without_one_of_the_files_is_no_set(tmp_path):
    write_idx_folder(tmp_path)
    (tmp_path / f"{IDX_FILES[3]}.gz").unlink()
    assert read_idx_folder(tmp_path, "own") is None
    assert read_idx_folder(tmp_path / "nowhere", "own") is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file of bytes"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "not an IDX file of bytes"),  # floats
        (b"\x00\x00\x08\x03\x00\x00", "not an IDX file of bytes"),  # ends in the header
        (idx_bytes(np.zeros((2, 3, 3), np.uint8))[:-1], r"announces \(2, 3, 3\), it holds 17 bytes"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8)) + b"x", r"announces \(2, 3, 3\), it holds 19 bytes"),
        (idx_bytes(np.zeros(7, np.uint8)), "must have 3 axes, got 1"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        parse_idx(data, tmp_path / "train-images-idx3-ubyte")


@pytest.mark.parametrize("damage", [lambda d: d[:-10], lambda d: b"no" + d[2:], lambda d: d[:30] + b"zzzz" + d[34:]])
def test_damaged_compression_is_refused(tmp_path, damage):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(bytes(range(200)))))
    with pytest.raises(ValueError, match=r"gz is damaged: .*again"):
        read_file(path)


def test_files_of_another_set_are_refused_and_unknown_ones_warned_of(tmp_path, monkeypatch):
    write_idx_folder(tmp_path, compress=False)
    with pytest.warns(UserWarning, match="not the file of mnist that its makers published"):
        assert read_idx_folder(tmp_path, "mnist") is not None
    paths = [tmp_path / stem for stem in IDX_FILES]
    digests = tuple(image_files.hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    monkeypatch.setitem(IDX_CHECKSUMS, "fashion-mnist", digests)
    with pytest.raises(ValueError, match=r"is a file of fashion-mnist, but mnist was asked for; keep each set in"):
        read_idx_folder(tmp_path, "mnist")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_idx_folder(tmp_path, "fashion-mnist") is not None
        check_contents("own", paths, [b""] * 4)


def test_checksums_differ():
    checksums = [digest for digests in IDX_CHECKSUMS.values() for digest in digests]
    assert len(set(checksums)) == 8
    assert {len(digest) for digest in checksums} == {64}


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_cifar_is_read_from_its_binary_version(tmp_path, subfolder):
    written = write_cifar_folder(tmp_path / subfolder)
    train_images, train_labels, test_images, test_labels = read_cifar_folder(tmp_path)
    assert train_images.shape == (10, 3, 32, 32)
    assert test_images.dtype == torch.uint8
    record = written["data_batch_2.bin"][1]
    assert train_labels[3] == record[0]
    assert train_images[3, 1, 5, 7] == record[1 + 1024 + 5 * 32 + 7]  # green plane, row 5, column 7
    assert test_labels.tolist() == written["test_batch.bin"][:, 0].tolist()


def test_an_incomplete_cifar_folder_is_no_set(tmp_path):
    write_cifar_folder(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    assert read_cifar_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "multiple of 3073 bytes, got 0"), (bytes(3072), "got 3072"), (b"\x0a" + bytes(3072), "0 to 9, got 10")],
)
def test_damaged_cifar_files_are_refused(tmp_path, data, message):
    write_cifar_folder(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(data)
    with pytest.raises(ValueError, match=rf"data_batch_3\.bin .*{message}"):
        read_cifar_folder(tmp_path)


def test_the_python_version_is_recognised_and_never_read(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not even a pickle")
    assert has_pickled_cifar(tmp_path)
    assert has_pickled_cifar(folder)
    assert read_cifar_folder(tmp_path) is None
    assert not has_pickled_cifar(tmp_path / "nowhere")


def test_a_small_file_of_many_zeros_is_refused_before_it_is_unpacked(tmp_path):
    write_idx_folder(tmp_path)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(bytes(10_000_000))
    for name in IDX_FILES[:1]:
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / f"{name}.gz").write_bytes(packed.getvalue())
    with limited(), pytest.raises(ValueError, match=r"ubyte.gz has more than 100,000,000 bytes when it is unpacked"):
        read_idx_folder(tmp_path, "own")


def test_sizes_whose_product_has_no_number_are_refused(tmp_path):
    data = b"\x00\x00\x08\x03" + b"\xff\xff\xff\xff" * 3 + b"123"
    with limited(), pytest.raises(ValueError, match="its header announces"):
        image_files.parse_idx(data, tmp_path / "train-images-idx3-ubyte")
