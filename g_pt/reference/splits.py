"""How the reference cuts its input into tokens: four policies, as lists of token sizes.

The input is one concatenated vector [noised parameters | start parameters | scalars], each scalar as a vector of
sines and cosines. The output is the noised parameters only, cut by the same policy on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

SplitPolicy = Literal["chunk", "layer_by_layer", "chunk_within_layer", "chunk_within_input"]
SPLIT_POLICIES: tuple[SplitPolicy, ...] = get_args(SplitPolicy)


@dataclass(frozen=True)
class TokenSizes:
    """Entries of the concatenated vectors that each token holds, in order.

    Attributes:
        inputs: of every token; they sum to 2 P + (2 or 4) (2 F + 1), P parameters and F frequencies.
        outputs: of what is decoded from the first tokens; they sum to P.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def chunks(size: int, chunk_size: int) -> list[int]:
    """Sizes of the pieces of a vector cut every `chunk_size` entries; the last may be smaller."""
    whole, rest = divmod(size, chunk_size)
    return [chunk_size] * whole + [rest] * (rest > 0)


def split_sizes(inputs: Sequence[Sequence[int]], policy: SplitPolicy, chunk_size: int | None) -> list[int]:
    """Cut a concatenation of inputs, each given by the sizes of its tensors.

    Args:
        inputs: such as `[[7840, 10, 100, 10], [7840, 10, 100, 10], [257], [257]]`.
        policy: "chunk" cuts the whole concatenation, across tensors and inputs; "chunk_within_input" each input;
            "chunk_within_layer" each tensor; "layer_by_layer" makes a token of each tensor.
        chunk_size: most entries of a token; not read by "layer_by_layer".

    Raises:
        ValueError: the policy is unknown, or its chunk size is missing or below 1.
    """
    if policy not in SPLIT_POLICIES:
        raise ValueError(f"split_policy must be one of {list(SPLIT_POLICIES)}, got {policy!r}")
    tensors = [size for sizes in inputs for size in sizes]
    if policy == "layer_by_layer":
        return tensors
    if chunk_size is None or chunk_size < 1:
        raise ValueError(f"split_policy {policy!r} needs a chunk_size of at least 1, got {chunk_size}")
    whole = {"chunk": [sum(tensors)], "chunk_within_input": [sum(sizes) for sizes in inputs]}.get(policy, tensors)
    return [size for part in whole for size in chunks(part, chunk_size)]


def token_sizes(
    tensor_sizes: Sequence[int],
    policy: SplitPolicy,
    chunk_size: int | None,
    *,
    num_frequencies: int,
    absolute_metrics: bool,
) -> TokenSizes:
    """Token sizes of a model for networks of the given tensors.

    Args:
        tensor_sizes: numbers of parameters of the tensors, in the order of the flat vector.
        policy: as for `split_sizes`.
        chunk_size: as for `split_sizes`.
        num_frequencies: F of each scalar's embedding.
        absolute_metrics: whether prompted and starting metric are tokens, besides time and their difference.
    """
    scalars = [[2 * num_frequencies + 1]] * (4 if absolute_metrics else 2)
    inputs = split_sizes([tensor_sizes, tensor_sizes, *scalars], policy, chunk_size)
    return TokenSizes(tuple(inputs), tuple(split_sizes([tensor_sizes], policy, chunk_size)))


def find_policy(
    sizes: TokenSizes, tensor_sizes: Sequence[int], *, num_frequencies: int, absolute_metrics: bool
) -> tuple[SplitPolicy, int | None]:
    """The policy and chunk size that give these token sizes; where several do, the first of the table below.

    Raises:
        ValueError: no policy gives them.
    """
    largest = max(sizes.inputs)
    candidates: list[tuple[SplitPolicy, int | None]] = [
        ("chunk_within_layer", largest),
        ("layer_by_layer", None),
        ("chunk_within_input", largest),
        ("chunk", largest),
    ]
    for policy, chunk_size in candidates:
        found = token_sizes(
            tensor_sizes, policy, chunk_size, num_frequencies=num_frequencies, absolute_metrics=absolute_metrics
        )
        if found == sizes:
            return policy, chunk_size
    raise ValueError(
        f"no split policy cuts tensors of {list(tensor_sizes)} parameters into tokens of {list(sizes.inputs)}: "
        "networks of another layout?"
    )
