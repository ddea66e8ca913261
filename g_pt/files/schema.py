"""One check at the door: what came from a file as JSON becomes a dataclass, whose annotations say what it may hold.

    @dataclass(frozen=True)
    class Listing:
        rows: Whole                                  # a whole number from 0
        scale: Annotated[float, Between(1e-6, 1e6)]  # a finite number in a range, ends included
        runs: tuple[RunRecord, ...] = ()             # a list of objects; entries with a default may be missing

    listing = read_object(Listing, read_json(path), str(path))

Nothing is converted but whole numbers to float and lists to tuples: "3" is no number, true is none either.
"""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Object = TypeVar("Object")
LARGEST = 3.4e38  # of float32, in which all that is computed with a number is computed
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Between:
    """Range of a number, ends included; of a string, a list or a table, the range of its length."""

    low: float
    high: float = math.inf


@dataclass(frozen=True)
class OneLine:
    """A string without line breaks and other control characters."""


Whole = Annotated[int, Between(0, 2**63 - 1)]
Count = Annotated[int, Between(1, 2**63 - 1)]
Positive = Annotated[float, Between(1e-30)]


def read_object(cls: type[Object], value: Any, where: str, *, ignore_unknown: bool = False) -> Object:
    """Make a dataclass of a JSON object.

    A field of a class that has `from_json` is made by it; other dataclasses are read as this one is.

    Args:
        cls: the dataclass.
        value: from JSON.
        where: file and entry, with which errors begin.
        ignore_unknown: leave out entries that are no fields, as newer versions may write them.

    Raises:
        ValueError: an entry is missing, unknown, of another type or out of its range; one sentence says which.
    """
    types = field_types(cls)  # type: ignore[arg-type]  # classes are hashable
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object of {sorted(types)}, got {brief(value)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in value if not ignore_unknown else ():
        if key not in fields:
            raise ValueError(f"{where} has an unknown entry {brief(key)}; its entries are {sorted(fields)}")
    read = {}
    for name, field in fields.items():
        if name in value:
            read[name] = read_value(types[name], value[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} has no entry {name!r}")
    return made(lambda: cls(**read), where)


def read_value(kind: Any, value: Any, where: str) -> Any:
    """Check a value from JSON against a type; raises as `read_object` does."""
    if get_origin(kind) is Annotated:
        kind, *limits = get_args(kind)
        value = read_value(kind, value, where)
        for limit in limits:
            check_range(limit, value, where)
        return value
    if get_origin(kind) in (Union, UnionType):
        kinds = get_args(kind)
        if value is None and NoneType in kinds:
            return None
        return read_one_of([k for k in kinds if k is not NoneType], value, where)
    if get_origin(kind) is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in get_args(kind)):
            raise ValueError(f"{where} must be one of {list(get_args(kind))}, got {brief(value)}")
        return value
    if get_origin(kind) in (list, tuple):
        return read_list(kind, value, where)
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where} must be an object, got {brief(value)}")
        each = get_args(kind)[1]
        return {key: read_value(each, entry, f"{where}: {brief(key)}") for key, entry in value.items()}
    if hasattr(kind, "from_json"):
        return made(lambda: kind.from_json(value), where)
    if dataclasses.is_dataclass(kind):
        return read_object(kind, value, where)  # type: ignore[arg-type]
    return read_plain(kind, value, where)


def read_plain(kind: Any, value: Any, where: str) -> Any:
    """A number, a string, true or false, or anything."""
    if kind is Any or (kind is not float and type(value) is kind):
        return value
    if kind is float and type(value) in (int, float) and abs(value) <= LARGEST:  # False for NaN
        return float(value)
    names = {float: "a finite number", int: "a whole number", str: "a string", bool: "true or false"}
    raise ValueError(f"{where} must be {names.get(kind, kind)}, got {brief(value)}")


def read_one_of(kinds: list[Any], value: Any, where: str) -> Any:
    """The first of several types that a value fits; the error is that of the last."""
    for kind in kinds[:-1]:
        try:
            return read_value(kind, value, where)
        except ValueError:
            continue
    return read_value(kinds[-1], value, where)


def read_list(kind: Any, value: Any, where: str) -> Any:
    """A list of any length of one type, or of fixed length of several."""
    each = get_args(kind)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} must be a list, got {brief(value)}")
    if get_origin(kind) is list or each[-1] is ...:
        found = [read_value(each[0], entry, f"{where}[{i}]") for i, entry in enumerate(value)]
        return found if get_origin(kind) is list else tuple(found)
    if len(value) != len(each):
        raise ValueError(f"{where} must be a list of {len(each)}, got {brief(value)}")
    return tuple(read_value(k, entry, f"{where}[{i}]") for i, (k, entry) in enumerate(zip(each, value, strict=True)))


def check_range(limit: Any, value: Any, where: str) -> None:
    """Refuse a number out of its range, a string, list or table of such a length, or control characters."""
    if isinstance(limit, OneLine) and CONTROL.search(value):
        raise ValueError(f"{where} must have no control characters, got {brief(value)}")
    if not isinstance(limit, Between):
        return
    number = value if isinstance(value, int | float) else len(value)
    if not limit.low <= number <= limit.high:
        ends = f"{limit.low:g} or more" if limit.high >= 2**63 - 1 else f"{limit.low:g} to {limit.high:g}"
        if number is value:
            raise ValueError(f"{where} must be {ends}, got {brief(value)}")
        raise ValueError(f"{where} must have {ends} {'letters' if isinstance(value, str) else 'entries'}, got {number}")


def made(make: Any, where: str) -> Any:
    """What `make` returns; its errors begin with the place."""
    try:
        return make()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{where}: {one_line(str(error))}") from error


@cache
def field_types(cls: Any) -> dict[str, Any]:
    """Annotations of a dataclass, resolved once."""
    return get_type_hints(cls, include_extras=True)


def one_line(text: str, most: int = 400) -> str:
    """Text from elsewhere for a message: control characters escaped, long ones cut in the middle."""
    if len(text) > most:
        text = f"{text[: most * 2 // 3]} ... {text[len(text) - most // 3 :]}"
    return CONTROL.sub(lambda match: repr(match[0])[1:-1] if ord(match[0]) > 31 else f"\\x{ord(match[0]):02x}", text)


def brief(value: Any, most: int = 60) -> str:
    """A value from elsewhere for a message: one line, the beginning of it, whatever its size."""
    if type(value) is int and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = most
    shortened.maxlist = shortened.maxtuple = shortened.maxdict = 8
    text = shortened.repr(value)
    return one_line(text if len(text) <= most else text[: most - 3] + "...")
