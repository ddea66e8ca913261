import sys

import pytest

from g_pt.lazy_names import lazy_names


def test_a_name_is_imported_when_it_is_asked_for():
    get = lazy_names("package", {"Fraction": "fractions", "absent": "no.such.module"})
    fraction = get("Fraction")
    assert fraction is sys.modules["fractions"].Fraction
    with pytest.raises(ModuleNotFoundError):
        get("absent")


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(AttributeError, match=r"module 'package' has no attribute 'b'; it has \['a'\]"):
        lazy_names("package", {"a": "fractions"})("b")
