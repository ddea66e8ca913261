"""Questions to data that only guard a computation: asserts, and `if` for NaN or with nothing but a `raise`.

A program that is traced, or runs for many networks at once, has no single answer to them; they are answered as they
were for an example.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

QUESTIONS = frozenset((Tensor.__bool__, Tensor.item))
FINITE = frozenset(("isnan", "isinf", "isfinite"))
AROUND_FINITE = FINITE | {"any", "all", "item", "bool", "sum", "logical_not", "logical_or", "bitwise_or"}
TORCH_FOLDER = str(Path(torch.__file__).parent)


class GuardAnswers(TorchFunctionMode):
    """Notes the answers to guards; with `answers`, gives these in their order instead of asking."""

    def __init__(self, answers: Sequence[Any] | None = None) -> None:
        super().__init__()
        self.answers: list[Any] = []
        self.given: Iterator[Any] | None = None if answers is None else iter(answers)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer a question, or call the function."""
        if func is torch._assert and self.given is not None:
            return None
        if func not in QUESTIONS or not is_guard(sys._getframe(1)):
            return func(*args, **(kwargs or {}))
        answer = func(*args) if self.given is None else next(self.given)
        self.answers.append(answer)
        return answer


def is_guard(frame: FrameType | None) -> bool:
    """Whether the line of the network's code that asks is a guard; torch's own `_assert` is one."""
    while frame is not None and frame.f_code.co_filename.startswith(TORCH_FOLDER):
        if frame.f_code.co_name == "_assert":
            return True
        frame = frame.f_back
    return frame is not None and frame.f_lineno in guard_lines(frame.f_code.co_filename)


@cache
def guard_lines(file: str) -> frozenset[int]:
    """Numbers of the lines of a file on which a guard asks; none where its source is not at hand."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return frozenset()
    statements = (node for node in ast.walk(tree) if isinstance(node, (ast.Assert, ast.If)))
    tests = [node.test for node in statements if isinstance(node, ast.Assert) or is_guard_statement(node)]
    return frozenset(line for test in tests for line in range(test.lineno, (test.end_lineno or test.lineno) + 1))


def is_guard_statement(node: ast.If) -> bool:
    """An `if` that only raises, or that asks for nothing but NaN and infinity."""
    if not node.orelse and all(isinstance(part, ast.Raise) for part in node.body):
        return True
    called = [part.func for part in ast.walk(node.test) if isinstance(part, ast.Call)]
    names = {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in called}
    compared = any(isinstance(part, ast.Compare) for part in ast.walk(node.test))
    return bool(names & FINITE) and names <= AROUND_FINITE and not compared
