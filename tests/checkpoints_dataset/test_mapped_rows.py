"""Rows on disk: any order, any array, and no more of them mapped than is allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from checkpoints_dataset.mapped_rows import MEMORY_STATUS, MappedRows, map_safetensors, mapped_file_bytes
from g_pt.files.tensor import write_tensors

MEGABYTE = 1 << 20


def mapped(folder, sizes, num_columns, dtype=torch.float32):
    """Random arrays on disk, as memory maps, and all of their rows."""
    generator = torch.Generator().manual_seed(0)
    written, arrays = [], []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.safetensors"
        written.append(torch.randn(size, num_columns, generator=generator).to(dtype))
        write_tensors(path, {"params": written[-1]})
        arrays.append(map_safetensors(path, "params"))
    return arrays, torch.cat(written)


def test_rows_come_in_the_order_asked_for_and_as_often(tmp_path, subtests):
    for mapped_bytes in [0, 10 * MEGABYTE]:
        for sizes in [(7,), (3, 0, 4), (1, 500, 2, 300)]:
            for dtype in [torch.float16, torch.float32]:
                with subtests.test(sizes=sizes, mapped_bytes=mapped_bytes, dtype=dtype):
                    arrays, written = mapped(tmp_path, sizes, 5, dtype)
                    rows = np.random.default_rng(0).integers(sum(sizes), size=700)
                    gathered = MappedRows(arrays, mapped_bytes).gather(rows)
                    assert gathered.dtype == torch.float32
                    assert torch.equal(gathered, written[rows].float())


@pytest.mark.parametrize("row", [-1, 7])
def test_rows_that_are_not_there_are_refused(tmp_path, row):
    arrays, _ = mapped(tmp_path, (3, 4), 2)
    with pytest.raises(IndexError, match=r"rows must lie in \[0, 7\)"):
        MappedRows(arrays).gather(np.array([0, row]))


def test_no_rows_are_no_rows(tmp_path):
    arrays, _ = mapped(tmp_path, (3, 4), 2)
    assert MappedRows(arrays).gather(np.empty(0, dtype=np.int64)).shape == (0, 2)


@pytest.mark.skipif(not MEMORY_STATUS.exists(), reason="the system does not tell what is mapped")
@pytest.mark.parametrize(("allowed", "expected"), [(8 * MEGABYTE, range(48)), (100 * MEGABYTE, range(56, 70))])
def test_as_much_stays_mapped_as_is_allowed(tmp_path, allowed, expected):
    # 64 MB; the 128 rows that are copied at once touch at most 2 MB each, here an eighth of all
    arrays, written = mapped(tmp_path, (1024, 1024), 8192)
    rows = MappedRows(arrays, allowed)
    before, highest = mapped_file_bytes(), 0
    for chunk in torch.randperm(2048, generator=torch.Generator().manual_seed(1)).split(128):
        assert torch.equal(rows.gather(chunk.numpy()), written[chunk])
        highest = max(highest, mapped_file_bytes() - before)
    assert highest // MEGABYTE in expected
