"""Files about the project agree with each other: citation, version, source distribution, workflow."""

import os
import tomllib

import yaml
from documents import PROJECT, ROOT

import g_pt


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation), "required by the format"
    assert str(citation["version"]) == PROJECT["version"] == g_pt.__version__
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]][0::4] == ["Peebles", "Malik"]
    assert paper["url"] == PROJECT["urls"]["Paper"]


def test_the_source_distribution_holds_what_the_repository_holds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    assert {path.name for path in ROOT.glob("*.md")} <= included
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders <= included
    assert {"tests", "docs", ".ci", "CITATION.cff", "LICENSE"} <= included


def test_the_workflow_runs_the_gate() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["gate"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    (setup,) = [step for step in steps if "setup-python" in step.get("uses", "")]
    assert setup["with"]["python-version"] in PROJECT["requires-python"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
