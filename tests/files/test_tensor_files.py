import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from g_pt.files import tensor as tensor_files
from g_pt.files.tensor import write_tensors


def test_tensors_are_written_exactly_and_in_their_folder(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    write_tensors(tmp_path / "new" / "t.safetensors", tensors, {"k": "v"})
    loaded = load_file(tmp_path / "new" / "t.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_full_disk_is_an_oserror_and_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "t.safetensors"
    write_tensors(file, {"a": torch.ones(2)})

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(OSError, match=r"t\.safetensors cannot be written.*No space left"):
        write_tensors(file, {"a": torch.zeros(2)})
    assert torch.equal(load_file(file)["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
