"""Uploading a model and getting it back: exact, with a card whose snippet runs, for diffusers alone too."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml
from builders import build_pipeline

from g_pt.commands import push, sample
from g_pt.hub.download import resolve_model
from g_pt.model.model_folders import SHIM
from g_pt.model.pipeline import ParameterUpdatePipeline

REPO = "org/name"
ROOT = Path(__file__).parents[2]
REPORT = {
    "task": "digits",
    "networks": 16,
    "num_inference_steps": 3,
    "prompt_alignment": {"attainable": {"mean": 0.75, "low": 0.7, "high": 0.8, "range": [0.1, 2.3]}},
    "one_update": {"prompt": 0.1, "test_loss": {"mean": 0.25, "low": 0.2, "high": 0.3}},
    "starting": {"test_loss": {"mean": 2.3, "low": 2.2, "high": 2.4}},
}


@pytest.fixture
def hub(default_hub):
    """Short name."""
    return default_hub


def card_of(hub) -> tuple[dict, str]:
    header, _, body = hub.repos[REPO]["README.md"].decode().removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(header), body


def environment(hub, tmp_path: Path) -> dict[str, str]:
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    return {**os.environ, **home, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_round_trip_is_exact(hub, random_pipeline):
    address = random_pipeline.push_to_hub(REPO)
    assert address == f"{hub.url}/{REPO}"
    loaded = ParameterUpdatePipeline.from_pretrained(REPO)
    for part in ("transformer", "normalizer"):
        ours, theirs = getattr(random_pipeline, part), getattr(loaded, part)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
        assert without_path(ours.config) == without_path(theirs.config)
    assert without_path(random_pipeline.scheduler.config) == without_path(loaded.scheduler.config)
    settings = ("task", "num_inference_steps", "training")
    assert {k: random_pipeline.config[k] for k in settings} == {k: loaded.config[k] for k in settings}


def test_a_card_of_somebody_elses_stays_unless_it_is_asked_for(hub, tiny_pipeline, capsys, subtests):
    tiny_pipeline.push_to_hub(REPO)
    ours = hub.repos[REPO]["README.md"]
    for name, theirs in {
        "changed": ours.replace(b"A G.pt", b"My G.pt"),
        "of their own": b"# Mine\n",
        "no text": b"\xff",
    }.items():
        with subtests.test(name):
            hub.repos[REPO] = {"README.md": theirs}
            with pytest.warns(UserWarning, match=r"the card of org/name .* stays, and ours is README\.g-pt\.md"):
                tiny_pipeline.push_to_hub(REPO)
            assert hub.repos[REPO]["README.md"] == theirs
            assert hub.repos[REPO]["README.g-pt.md"] == ours
            tiny_pipeline.push_to_hub(REPO, replace_card=True)
            assert hub.repos[REPO]["README.md"] == ours
    hub.repos[REPO] = {"README.md": ours.replace(b"\n", b"\r\n")}
    tiny_pipeline.push_to_hub(REPO, license="mit")
    assert set(hub.repos[REPO]) > {"README.md"}
    assert b"license: mit" in hub.repos[REPO]["README.md"]


def without_path(config) -> dict:
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "_use_default_values")}


def test_a_second_upload_replaces_the_first(hub, random_pipeline, tiny_pipeline):
    random_pipeline.push_to_hub(REPO)
    tiny_pipeline.push_to_hub(REPO)
    loaded = ParameterUpdatePipeline.from_pretrained(REPO)
    assert torch.equal(loaded.transformer.norm.weight, tiny_pipeline.transformer.norm.weight)


def test_what_is_uploaded_names_no_folder_of_this_machine(hub, random_pipeline, tmp_path):
    random_pipeline.save_pretrained(tmp_path / "saved")
    ParameterUpdatePipeline.from_pretrained(tmp_path / "saved").push_to_hub(REPO)
    for path, data in hub.repos[REPO].items():
        assert str(tmp_path).encode() not in data, path


def test_python_files_are_one_import_of_this_package(hub, random_pipeline):
    random_pipeline.push_to_hub(REPO)
    programs = {path: data.decode() for path, data in hub.repos[REPO].items() if path.endswith(".py")}
    assert set(programs) == {f"{SHIM}.py", f"transformer/{SHIM}.py", f"normalizer/{SHIM}.py"}
    for text in programs.values():
        assert re.fullmatch(r"from g_pt import \w+  # noqa: F401\n", text)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["hub", "folder"])
def test_diffusers_alone_loads_it_where_remote_code_is_allowed(hub, random_pipeline, tmp_path, place):
    if place == "hub":
        random_pipeline.push_to_hub(REPO)
    else:
        random_pipeline.save_pretrained(tmp_path / "saved")
    name = REPO if place == "hub" else str(tmp_path / "saved")
    program = f"""
import sys
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained("{name}")
except ValueError as error:
    assert "trust_remote_code" in str(error), error
assert "g_pt" not in sys.modules
pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
from diffusers.utils import logging
assert logging._tqdm_active  # hidden only for the parts of this pipeline
assert type(pipeline).__name__ == "ParameterUpdatePipeline"
print(float(sum(p.double().sum() for p in pipeline.transformer.parameters())))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment(hub, tmp_path), capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    assert "Loading pipeline components" not in run.stderr
    wanted = sum(p.double().sum() for p in random_pipeline.transformer.parameters())
    assert float(run.stdout) == pytest.approx(float(wanted), rel=1e-12)


def test_the_card_says_what_is_known(hub, random_pipeline):
    random_pipeline.push_to_hub(REPO, report=REPORT, license="apache-2.0")
    header, body = card_of(hub)
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "g-pt"
    (model,) = header["model-index"]
    metrics = {m["name"]: m["value"] for result in model["results"] for m in result["metrics"]}
    assert metrics == {"prompt alignment, attainable range": 0.75, "test_loss after one update": 0.25}
    for expected in ("fc1.weight (16, 64)", "loss (nats)", "0.05 to 2.5", "0.7 to 0.8", "DDIMScheduler, 3 steps"):
        assert expected in body
    assert "(memorisation, novelty) was not measured" in body
    assert json.loads(hub.repos[REPO]["report.json"]) == REPORT


def test_figures_on_novelty_are_told_where_they_were_measured(hub, random_pipeline):
    row = {"quality": {"mean": 96.5}, "nearest_run": {"mean": 7.25}, "accurate_and_novel": {"mean": 0.5}}
    section = {"training_runs": 10800, "rows": {"G.pt": row, "fresh networks": row | {"copying_score": {"mean": -0.5}}}}
    random_pipeline.push_to_hub(REPO, report=REPORT | {"sections": {"novelty": section}})
    body = card_of(hub)[1]
    assert "| G.pt | 96.5 | 7.25 | - | 0.5 |" in body
    assert "| fresh networks | 96.5 | 7.25 | -0.5 | 0.5 |" in body
    assert "10,800 training runs" in body


def test_a_card_without_a_report_claims_nothing(hub, random_pipeline):
    random_pipeline.push_to_hub(REPO)
    header, body = card_of(hub)
    assert "model-index" not in header
    assert "Not measured" in body


def test_the_snippet_of_the_card_runs(hub, random_pipeline):
    random_pipeline.push_to_hub(REPO)
    (snippet,) = re.findall(r"```python\n(.*?)```", card_of(hub)[1], re.DOTALL)
    assert len([line for line in snippet.splitlines() if line]) == 5
    names: dict = {}
    exec(snippet, names)
    assert names["updated"].shape == (8, 1210)


@pytest.mark.slow
def test_the_snippet_runs_for_a_task_of_ones_own(hub, digits, tmp_path):
    """As printed, in a process that knows neither the task nor its file."""
    pipeline = build_pipeline(digits)
    pipeline.register_to_config(task="my-digits")
    pipeline.push_to_hub(REPO)
    (snippet,) = re.findall(r"```python\n(.*?)```", card_of(hub)[1], re.DOTALL)
    program = f"{snippet}\nprint(tuple(updated.shape))"
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment(hub, tmp_path), capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "(8, 1210)\n"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_of_a_model_follow_the_umask(random_pipeline, tmp_path, mask):
    earlier = os.umask(mask)
    try:
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "mine.txt").touch(0o600)
        random_pipeline.save_pretrained(tmp_path / "saved")
    finally:
        os.umask(earlier)
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert modes.pop(tmp_path / "saved" / "mine.txt") == 0o600
    assert set(modes.values()) == {0o666 & ~mask}


def test_the_command_takes_the_report_beside_the_model(hub, random_pipeline, tmp_path, capsys):
    random_pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "report.json").write_text(json.dumps(REPORT))
    push.main([str(tmp_path / "model"), REPO])
    assert capsys.readouterr().out == f"uploaded: {hub.url}/{REPO}\n"
    assert "model-index" in card_of(hub)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", REPO], "there is no folder nothing"),
        (["digits-loss", "name"], "the repository must be named org/name, got 'name'"),
        (["digits-loss", REPO, "--report", "none.json"], "none.json"),
    ],
)
def test_the_command_refuses_in_one_sentence(hub, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        push.main(arguments)
    assert stopped.value.code != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_upload_to_a_hub_out_of_reach_is_one_sentence(hub, random_pipeline):
    hub.stop()
    with pytest.raises(OSError, match=f"^{REPO} could not be reached on the Hub: ") as error:
        random_pipeline.push_to_hub(REPO)
    assert "\n" not in str(error.value)


def test_a_cold_cache_costs_less_than_three_seconds(hub, random_pipeline, tmp_path):
    """What `gpt-sample --model org/name` does before it does the same as for a folder."""
    random_pipeline.push_to_hub(REPO)
    started = time.perf_counter()
    resolve_model(REPO)
    assert time.perf_counter() - started < 3


def test_gpt_sample_takes_a_repository_and_then_its_cache_offline(hub, random_pipeline, tmp_path, monkeypatch, capsys):
    random_pipeline.push_to_hub(REPO)
    monkeypatch.chdir(tmp_path)

    def sampled() -> dict:
        sample.main(["--prompt-loss", "0.5", "--model", REPO, "--json"])
        return json.loads(capsys.readouterr().out)["samples"]

    first = sampled()
    hub.stop()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # what HF_HUB_OFFLINE=1 sets
    assert sampled() == first
