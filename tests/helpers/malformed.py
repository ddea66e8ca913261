"""Ways to damage files, for the tests of models, networks and data sets from strangers."""

import json
import pickle
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

EXTRA_MEMORY = 3 << 30
TOUCHED: list[str] = []


class Payload:
    """A pickle that tells when it is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (TOUCHED.append, ("a pickle was run",))


@contextmanager
def limited() -> Iterator[None]:
    """Little memory and time; nothing may have run.

    The limit is one on the address space, so that what asks for much memory fails even where the system would lend it.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_MEMORY, before[1]))
    TOUCHED.clear()
    started = time.perf_counter()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.perf_counter() - started < 60
    assert TOUCHED == []


def is_one_sentence(error: BaseException) -> str:
    message = str(error)
    assert "\n" not in message.strip()
    assert 20 < len(message) < 600
    return message


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Path, header: Any, body: bytes | None = None) -> None:
    """Write a safetensors file with any header."""
    body = header_of(path)[1] if body is None else body
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def changed_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header, body = header_of(path)
    change(header)
    with_header(path, header, body)


def first(header: dict[str, Any]) -> dict[str, Any]:
    """A tensor of a header that others lie behind."""
    return min((e for k, e in header.items() if k != "__metadata__"), key=lambda e: e["data_offsets"])


def overlap(header: dict[str, Any]) -> None:
    """Two tensors on the same bytes."""
    entries = [e for k, e in header.items() if k != "__metadata__"]
    alike = next((a, b) for a in entries for b in entries if a is not b and a["shape"] == b["shape"])
    alike[1]["data_offsets"] = alike[0]["data_offsets"]


# damage that any safetensors file can have -> what it does to the file, and a word of the error
TENSOR_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "safetensors"),
    "seven bytes": (lambda p: p.write_bytes(b"1234567"), "safetensors"),
    "huge header length": (lambda p: p.write_bytes(struct.pack("<Q", 2**63) + p.read_bytes()[8:]), "header"),
    "header longer than the file": (
        lambda p: p.write_bytes(struct.pack("<Q", p.stat().st_size) + p.read_bytes()[8:]),
        "header",
    ),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-10]), "truncated"),
    "more bytes than tensors": (lambda p: p.write_bytes(p.read_bytes() + b"0" * 16), "truncated or altered"),
    "header not UTF-8": (lambda p: with_header(p, b"\xff\xfe{}"), "JSON"),
    "header a list": (lambda p: with_header(p, [1, 2]), "JSON object"),
    "header nested too deep": (lambda p: with_header(p, b"[" * 200_000), "JSON"),
    "tensor without a shape": (lambda p: changed_header(p, lambda h: first(h).pop("shape")), "shape"),
    "wrong dtype": (lambda p: changed_header(p, lambda h: first(h).update(dtype="F128")), "F128"),
    "dtype a list": (lambda p: changed_header(p, lambda h: first(h).update(dtype=["F32"])), "F32"),
    "dtype of another size": (lambda p: changed_header(p, lambda h: first(h).update(dtype="F64")), "fit"),
    "negative shape": (lambda p: changed_header(p, lambda h: first(h).update(shape=[-1])), "whole numbers"),
    "huge shape": (lambda p: changed_header(p, lambda h: first(h).update(shape=[2**40, 2**40])), "fit"),
    "huge offsets": (lambda p: changed_header(p, lambda h: first(h).update(data_offsets=[0, 2**62])), "fit"),
    "overlapping tensors": (lambda p: changed_header(p, overlap), "begin at byte"),
    "a header of spaces": (
        lambda p: with_header(p, b"{" + b" " * 40_000_000 + json.dumps(header_of(p)[0]).encode()[1:]),
        "far longer",
    ),
    "a tensor named twice": (
        lambda p: with_header(
            p,
            b'{"fc1.bias":'
            + json.dumps(first(header_of(p)[0])).encode()
            + b","
            + json.dumps({"fc1.bias": first(header_of(p)[0]), **header_of(p)[0]}).encode()[1:],
        ),
        "comes twice",
    ),
    "metadata that is no text": (
        lambda p: changed_header(p, lambda h: h.update(__metadata__={"a": 1})),
        "__metadata__",
    ),
    "a shape of 65 axes": (lambda p: changed_header(p, lambda h: first(h).update(shape=[1] * 65)), "whole numbers"),
    "a shape of a million axes": (
        lambda p: changed_header(p, lambda h: first(h).update(shape=[10**18] * 10**6)),
        "far longer",
    ),
    "a pickle by that name": (lambda p: p.write_bytes(pickle.dumps(Payload())), "safetensors"),
    "a zip by that name": (lambda p: torch.save({"a": torch.zeros(3)}, p), "safetensors"),
}


def set_tensor(path: Path, value: float) -> None:
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = value
    save_file(tensors, path, metadata={"format": "pt"})
