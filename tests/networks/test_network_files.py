import re
import warnings
from pathlib import Path

import pytest
import torch
from malformed import is_one_sentence, limited
from safetensors.torch import load_file, save_file
from torch import nn

from g_pt.networks.network_files import UnwrappedWarning, read_network, write_network
from g_pt.networks.parameters import ParameterLayout
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


STATE = TASK.network().state_dict()
PARAMS = TASK.layout.flatten(STATE)


def renamed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


WRAPPED: dict[str, tuple[dict[str, object], str]] = {
    "Lightning": ({"epoch": 3, "state_dict": renamed("model."), "optimizer_states": [{}]}, "'state_dict'.*'model.'"),
    "a loop of one's own": (
        {"model": dict(STATE), "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
        "'model'",
    ),
    "with a loss beside it": ({"loss": torch.tensor(0.5), "model_state_dict": STATE}, "'model_state_dict'"),
    "DataParallel": (renamed("module."), "'module.'"),
    "torch.compile": (renamed("_orig_mod."), "'_orig_mod.'"),
    "both": ({"state_dict": renamed("_orig_mod.module.")}, "'state_dict'.*'_orig_mod.'.*'module.'"),
    "a compiled part": ({n.replace("fc1.", "fc1._orig_mod."): t for n, t in STATE.items()}, "'_orig_mod.'"),
    "two levels": ({"model": {"state_dict": STATE}}, "'model'.*'state_dict'"),
    "tensors beside a network": ({"model": STATE, "class_weights": torch.ones(3)}, "from the entry 'model'"),
    "numbers beside tensors": ({**STATE, "epoch": 3, "name": "mine"}, "left out.*'epoch', 'name'"),
    "counters beside tensors": ({**STATE, "bn.num_batches_tracked": torch.tensor(3)}, ""),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_checkpoints_as_people_have_them_are_unwrapped_and_it_is_said(tmp_path: Path, name: str) -> None:
    content, said = WRAPPED[name]
    torch.save(content, tmp_path / "n.pt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(read_network(tmp_path / "n.pt", TASK.layout), PARAMS)
    assert all(warning.category is UnwrappedWarning for warning in caught)
    assert re.search(said, " ".join(str(warning.message) for warning in caught))
    assert bool(caught) == bool(said)


def test_prefixes_of_safetensors_are_left_out_too(tmp_path: Path) -> None:
    save_file(renamed("module."), tmp_path / "n.safetensors")
    with pytest.warns(UnwrappedWarning, match=r"'module\.'"):
        assert torch.equal(read_network(tmp_path / "n.safetensors", TASK.layout), PARAMS)


def test_a_network_whose_own_names_begin_so_keeps_them(tmp_path: Path) -> None:
    layout = ParameterLayout(("module.a",), ((2,),))
    save_file({"module.a": torch.tensor([1.0, 2.0])}, tmp_path / "n.safetensors")
    assert read_network(tmp_path / "n.safetensors", layout).tolist() == [1, 2]


ENDLESS: dict[str, object] = {}
ENDLESS["model"] = ENDLESS
BROKEN: dict[str, tuple[object, str]] = {
    "a checkpoint that holds itself": (ENDLESS, "nested in 5 others"),
    "names that are numbers": ({0: torch.zeros(3), 1: torch.zeros(2)}, "must name its tensors by strings"),
    "mixed names": ({**STATE, 7: torch.zeros(3)}, "must name its tensors by strings"),
    "whole numbers": ({n: t.long() for n, t in STATE.items()}, r"'fc1\.weight' must hold floating-point numbers, got"),
    "truth values": ({n: t > 0 for n, t in STATE.items()}, r"'fc1\.weight' must hold floating-point"),
    "complex numbers": ({n: t.to(torch.complex64) for n, t in STATE.items()}, r"must hold floating-point numbers"),
    "sparse": ({**STATE, "fc2.bias": STATE["fc2.bias"].to_sparse()}, "dense"),
    "no values": ({**STATE, "fc2.bias": STATE["fc2.bias"].to("meta")}, "dense"),
    "stretched": ({**STATE, "more": torch.zeros(1).expand(3 * 10**9)}, "stretched"),
    "a list": ([1, 2], "must hold a state dict .* got a list"),
    "a tensor": (torch.zeros(3), "must hold a state dict .* got a Tensor"),
    "no tensors": ({"epoch": 3, "lr": 0.1}, r"its entries are \['epoch', 'lr'\]"),
    "empty": ({}, "must hold a state dict"),
    "another network in it": ({"model": {"w": torch.zeros(3)}}, r"'fc1\.weight' of shape .* is wanted but missing"),
    "many more tensors": ({**STATE, **{f"x{i}": torch.zeros(1) for i in range(3000)}}, "and 2,984 more"),
    "a shape of many ones": ({**STATE, "fc2.bias": torch.zeros((10,) + (1,) * 60)}, "'fc2.bias' must have shape"),
    "names with escapes": ({**STATE, "\x1b[31mred\n": torch.zeros(1)}, r"\\x1b\[31mred"),
}


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_network_is_one_sentence(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for name, (content, said) in BROKEN.items():
        with subtests.test(name):
            torch.save(content, tmp_path / "n.pt")
            with limited(), pytest.raises(ValueError, match=said) as error:
                read_network(tmp_path / "n.pt", TASK.layout)
            assert len(is_one_sentence(error.value)) < 600
            assert "\x1b" not in str(error.value)
