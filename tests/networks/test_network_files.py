from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from g_pt.networks.network_files import read_network, write_network
from g_pt.tasks import get_task

TASK = get_task("digits")


def test_a_written_network_loads_into_the_module_and_reads_back_exactly(tmp_path: Path) -> None:
    params = TASK.init(1, torch.Generator().manual_seed(0))[0]
    write_network(tmp_path / "n.safetensors", params, TASK.layout)
    module = TASK.network()
    module.load_state_dict(load_file(tmp_path / "n.safetensors"))
    assert torch.equal(TASK.layout.flatten(module.state_dict()), params)
    assert torch.equal(read_network(tmp_path / "n.safetensors", TASK.layout), params)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_torch_file_of_tensors_is_read(tmp_path: Path, suffix: str) -> None:
    module = TASK.network()
    torch.save(module.state_dict(), tmp_path / f"n{suffix}")
    assert torch.equal(
        read_network(tmp_path / f"n{suffix}", TASK.layout), TASK.layout.flatten(module.state_dict()).detach()
    )


class Payload:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"fc1.weight": Payload(tmp_path / "executed")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt cannot be read as tensors without running code"):
        read_network(tmp_path / "evil.pt", TASK.layout)
    assert not (tmp_path / "executed").exists()


def test_another_architecture_is_named_by_tensor_and_shapes(tmp_path: Path) -> None:
    other = nn.Sequential()
    other.add_module("fc1", nn.Linear(64, 12))
    other.add_module("fc2", nn.Linear(12, 10))
    save_file(other.state_dict(), tmp_path / "n.safetensors")
    with pytest.raises(ValueError, match=r"n\.safetensors.*'fc1\.weight' must have shape \(16, 64\), got \(12, 64\)"):
        read_network(tmp_path / "n.safetensors", TASK.layout)


def test_missing_and_surplus_tensors_are_named(tmp_path: Path) -> None:
    tensors = TASK.network().state_dict()
    save_file({k: v for k, v in tensors.items() if k != "fc2.bias"}, tmp_path / "less.safetensors")
    save_file({**tensors, "fc3.bias": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match=r"'fc2\.bias' of shape \(10,\) is wanted but missing"):
        read_network(tmp_path / "less.safetensors", TASK.layout)
    with pytest.raises(ValueError, match=r"fc3\.bias"):
        read_network(tmp_path / "more.safetensors", TASK.layout)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_are_refused_by_tensor(tmp_path: Path, value: float) -> None:
    tensors = TASK.network().state_dict()
    tensors["fc2.weight"][3, 4] = value
    save_file(tensors, tmp_path / "n.safetensors")
    with pytest.raises(ValueError, match=r"'fc2\.weight' holds NaN or infinity"):
        read_network(tmp_path / "n.safetensors", TASK.layout)


def test_damaged_missing_and_unknown_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "n.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match=r"n\.safetensors is not a valid safetensors file"):
        read_network(tmp_path / "n.safetensors", TASK.layout)
    (tmp_path / "n.pt").write_bytes(b"not a pickle")
    with pytest.raises(ValueError, match=r"n\.pt cannot be read"):
        read_network(tmp_path / "n.pt", TASK.layout)
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        read_network(tmp_path / "absent.safetensors", TASK.layout)
    (tmp_path / "n.npz").touch()
    with pytest.raises(ValueError, match=r"must be a \.safetensors file"):
        read_network(tmp_path / "n.npz", TASK.layout)
