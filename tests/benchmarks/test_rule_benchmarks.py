"""The benchmarks of update rules run, and find what must be so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import rule_speed, rule_steps


def measured(program, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["program", *arguments.split(), "--json", str(file)])
    program.main()
    return json.loads(file.read_text())["rules"]


def test_many_networks_at_once_are_faster_than_one_by_one(tmp_path, monkeypatch) -> None:
    found = measured(rule_speed, "--rules foof --networks 100 --alone 1 --rounds 1", tmp_path, monkeypatch)
    assert found["foof"]["ratio"] > 5


@pytest.mark.slow
def test_foof_needs_fewer_steps_than_adam(tmp_path, monkeypatch) -> None:
    found = measured(rule_steps, "--rules adam foof lookahead --steps 30", tmp_path, monkeypatch)
    assert found["foof"]["steps"] <= 20  # measured: 15
    assert found["foof"]["test_loss"][-1] < found["adam"]["test_loss"][-1]
