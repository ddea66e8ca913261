"""JSON from elsewhere becomes dataclasses, or one sentence says what is wrong with it."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from g_pt.files.schema import Between, Positive, Whole, brief, one_line, read_object


@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0


@dataclass(frozen=True)
class Even:
    number: int

    @classmethod
    def from_json(cls, value: Any) -> "Even":
        if value % 2:
            raise ValueError(f"must be even, got {value}")
        return cls(value)


@dataclass(frozen=True)
class Listing:
    rows: Whole
    kind: Literal["a", "b"] = "a"
    name: Annotated[str, Between(1, 5)] = "none"
    scale: Positive = 1.0
    pair: tuple[float, float] | None = None
    points: tuple[Point, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    even: Even = Even(0)
    steps: int | list[int] = 1
    anything: Any = None
    flag: bool = False

    def __post_init__(self) -> None:
        if self.rows == 13:
            raise ValueError("rows must not be 13")


def read(**entries: Any) -> Listing:
    return read_object(Listing, entries, "f.json")


def test_what_fits_is_read_and_numbers_become_floats():
    read_back = read(rows=3, pair=[1, 2.5], points=[{"x": 1}], counts={"a": 2}, even=4, steps=[1, 2], anything=[{}])
    assert read_back == Listing(3, "a", "none", 1.0, (1.0, 2.5), (Point(1.0),), {"a": 2}, Even(4), [1, 2], [{}])
    assert type(read_back.points[0].x) is float
    assert read(rows=0, pair=None) == Listing(0)


def test_what_does_not_fit_is_one_sentence(subtests):
    for entries, said in [
        ({}, "f.json has no entry 'rows'"),
        ({"rows": "3"}, "f.json: rows must be a whole number, got '3'"),
        ({"rows": 3.0}, "f.json: rows must be a whole number, got 3.0"),
        ({"rows": True}, "f.json: rows must be a whole number, got True"),
        ({"rows": None}, "f.json: rows must be a whole number, got None"),
        ({"rows": -1}, "f.json: rows must be 0 or more, got -1"),
        ({"rows": 10**30}, "f.json: rows must be 0 or more, got 1000000000000000000000000000000"),
        ({"rows": 10**4000}, "f.json: rows must be 0 or more, got a whole number of 13288 bits"),
        ({"rows": 13}, "f.json: rows must not be 13"),
        ({"rows": 1, "row": 1}, "f.json has an unknown entry 'row'; its entries are"),
        ({"rows": 1, "kind": "c"}, "f.json: kind must be one of ['a', 'b'], got 'c'"),
        ({"rows": 1, "name": ""}, "f.json: name must have 1 to 5 letters, got 0"),
        ({"rows": 1, "scale": 0}, "f.json: scale must be 1e-30 or more, got 0"),
        ({"rows": 1, "scale": float("nan")}, "f.json: scale must be a finite number, got nan"),
        ({"rows": 1, "scale": 10**400}, "f.json: scale must be a finite number, got a whole number of 1329 bits"),
        ({"rows": 1, "pair": [1]}, "f.json: pair must be a list of 2, got [1]"),
        ({"rows": 1, "pair": "12"}, "f.json: pair must be a list, got '12'"),
        ({"rows": 1, "points": [{"x": 1}, {}]}, "f.json: points[1] has no entry 'x'"),
        ({"rows": 1, "points": [7]}, "f.json: points[0] must be an object of ['x', 'y'], got 7"),
        ({"rows": 1, "counts": [1]}, "f.json: counts must be an object, got [1]"),
        ({"rows": 1, "counts": {"a\n": []}}, r"f.json: counts: 'a\n' must be a whole number, got []"),
        ({"rows": 1, "even": 3}, "f.json: even: must be even, got 3"),
        ({"rows": 1, "even": "x"}, "f.json: even: not all arguments converted"),
        ({"rows": 1, "steps": "x"}, "f.json: steps must be a list, got 'x'"),
        ({"rows": 1, "flag": 1}, "f.json: flag must be true or false, got 1"),
    ]:
        with subtests.test(str(entries)[:80]):
            with pytest.raises(ValueError, match=r"\S") as error:
                read(**entries)
            assert str(error.value).startswith(said)
            assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_an_object_is_wanted(value):
    with pytest.raises(ValueError, match=r"f.json must be an object of \['x', 'y'\], got "):
        read_object(Point, value, "f.json")


def test_unknown_entries_can_be_left_out():
    assert read_object(Point, {"x": 1, "z": 2}, "f.json", ignore_unknown=True) == Point(1.0)


def test_messages_are_short_and_hold_no_control_characters():
    assert brief("\x1b[31mred\nline") == r"'\x1b[31mred\nline'"
    assert one_line("a\x1b[2Jb\nc\u202ed") == r"a\x1b[2Jb\x0ac\u202ed"
    nested = json.loads("[" * 900 + "]" * 900)
    for value in ("x" * 10**7, [1] * 10**6, {str(i): i for i in range(10**5)}, nested):
        assert len(brief(value)) <= 60
    assert len(one_line("y" * 10**6)) < 500
