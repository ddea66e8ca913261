"""Checkpoint datasets as parquet, in folders and on the Hub: what comes back equals what went there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dataset_fixtures import copied_harvest, file_hashes, finished_harvest, synthetic_header, write_synthetic

from checkpoints_dataset.exchange import export_parquet, import_parquet
from checkpoints_dataset.format import DatasetHeader, RunRecord, StoreError
from checkpoints_dataset.hub import CARD_BESIDE, export_dataset, pull_dataset, push_dataset
from checkpoints_dataset.store import CheckpointStore
from checkpoints_dataset.writer import DatasetWriter
from g_pt.commands import dataset
from g_pt.tasks import get_task

REPO = "org/checkpoints"
ROOT = Path(__file__).parents[2]


def awkward_store(folder: Path) -> CheckpointStore:
    """Runs of different lengths, float64 metrics, further arrays, runs left out, a split of its own, odd values."""
    header = synthetic_header(2)
    header = DatasetHeader(
        header.task, header.layout, header.metrics, 2, "float32", {"kind": "x"}, {"validation": 1, "test": 1}
    )
    writer = DatasetWriter(folder, header)
    params = torch.tensor([[0.0, -0.0, 1e-42, 3.4e38, 1e-7, -2.0]]).repeat(9, 1) + torch.arange(9.0)[:, None] * 1e-3
    records = [RunRecord(4, 0, 4, {"name": "a"}), RunRecord(7, 4, 5, {"rates": [0.1, 0.2]})]
    steps = np.array([0, 1, 5, 9, 0, 2, 4, 6, 8], dtype=np.int64)
    metrics = {"loss": np.linspace(0, 1, 9), "return": np.linspace(1, 2, 9) / 3}
    arrays = {"mask": torch.arange(54).reshape(9, 2, 3) % 2 == 0, "epoch": torch.arange(9, dtype=torch.int32)}
    writer.write_rows(0, params, steps, metrics, records, left_out={5: "diverged"}, arrays=arrays)
    arrays = {"mask": torch.zeros(2, 2, 3, dtype=torch.bool), "epoch": torch.zeros(2, dtype=torch.int32)}
    metrics = {name: values[:2] for name, values in metrics.items()}
    writer.write_rows(1, params[:2], steps[:2], metrics, [RunRecord(9, 0, 2)], arrays=arrays)
    return CheckpointStore(folder)


def store_of(kind: str, folder: Path) -> Path:
    if kind == "harvest":
        return finished_harvest()
    if kind == "synthetic":
        write_synthetic(folder)
    else:
        awkward_store(folder)
    return folder


@pytest.mark.parametrize("kind", ["harvest", "synthetic", "awkward"])
def test_a_round_trip_gives_the_same_bytes(kind, tmp_path):
    folder = store_of(kind, tmp_path / "store")
    export_parquet(CheckpointStore(folder), tmp_path / "parquet")
    back = import_parquet(tmp_path / "parquet", tmp_path / "back")
    assert file_hashes(tmp_path / "back") == file_hashes(folder)
    for split in ("train", "validation", "test"):
        assert back.runs_of(split) == CheckpointStore(folder).runs_of(split)


def test_a_round_trip_through_the_hub_gives_the_same_bytes(default_hub, tmp_path):
    store = CheckpointStore(finished_harvest())
    assert push_dataset(store, REPO) == f"{default_hub.url}/datasets/{REPO}"
    pull_dataset(REPO, tmp_path / "back")
    assert file_hashes(tmp_path / "back") == file_hashes(store.folder)


def test_an_interrupted_import_continues(tmp_path):
    export_parquet(CheckpointStore(finished_harvest()), tmp_path / "parquet")

    def interrupt(shards: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_parquet(tmp_path / "parquet", tmp_path / "back", progress=interrupt)
    (tmp_path / "parquet" / "shard-00000.json").write_text("not needed again")
    import_parquet(tmp_path / "parquet", tmp_path / "back")
    assert file_hashes(tmp_path / "back") == file_hashes(finished_harvest())


def test_files_are_uploaded_one_shard_at_a_time(default_hub):
    store = CheckpointStore(finished_harvest())
    push_dataset(store, REPO)
    rows = max(sum(r.num_checkpoints for r in store.runs[i : i + 15]) for i in (0, 15, 30))
    assert default_hub.largest_body < 1.5 * rows * store.header.layout.num_params * 2 + 100_000


def test_a_pulled_dataset_is_one_of_its_task(default_hub, tmp_path):
    push_dataset(CheckpointStore(finished_harvest()), REPO)
    store = pull_dataset(REPO, tmp_path / "back")
    store.check_task(get_task("digits"))
    measured = get_task("digits").evaluate(store.params(store.final_rows("test")), "validation")["loss"]
    torch.testing.assert_close(measured, torch.from_numpy(store.metrics["loss"][store.final_rows("test")].copy()))


def test_load_dataset_reads_it_without_this_package_streaming_or_not(default_hub, tmp_path):
    pytest.importorskip("datasets")
    store = CheckpointStore(finished_harvest())
    push_dataset(store, REPO)
    program = f"""
import json, sys
from datasets import List, Value, load_dataset
streamed = load_dataset("{REPO}", "digits", split="test", streaming=True)
rows = load_dataset("{REPO}", "digits", split="test")
assert rows.features["params"] == streamed.features["params"] == List(Value("float16"), length=1210), rows.features
rows = list(rows)
assert rows == list(streamed)
assert "g_pt" not in sys.modules
last = rows[-1]
print(json.dumps([len(rows), last["run"], last["step"], last["loss"], [float(v) for v in last["params"]]]))
"""
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": default_hub.url, "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | home,
        capture_output=True,
        text=True,
        timeout=250,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    num_rows, number, step, loss, params = json.loads(run.stdout)
    row = int(store.final_rows("test")[-1])
    assert num_rows == sum(r.num_checkpoints for r in store.runs_of("test"))
    assert (number, step) == (store.run[row], store.step[row])
    assert np.float32(loss) == store.metrics["loss"][row]
    assert params == store.params(np.array([row]))[0].tolist()


def test_the_card_lists_every_configuration_and_how_its_runs_were_made(default_hub, tmp_path):
    push_dataset(CheckpointStore(finished_harvest()), REPO, license="apache-2.0")
    write_synthetic(tmp_path / "other")
    push_dataset(CheckpointStore(tmp_path / "other"), REPO, configuration="other")
    files = default_hub.repos[f"datasets/{REPO}"]
    header, _, body = files["README.md"].decode().removeprefix("---\n").partition("\n---\n")
    entries = yaml.safe_load(header)
    assert [config["config_name"] for config in entries["configs"]] == ["digits", "other"]
    assert entries["license"] == "apache-2.0"
    assert body.count("## Configuration ") == 2
    assert "- rule.name: nesterov" in body
    assert "- kind: synthetic" in body
    assert 'load_dataset("org/checkpoints", "digits"' in body
    assert {path.split("/")[0] for path in files} >= {"digits", "other"}


def test_pushing_again_replaces_the_shards(default_hub, tmp_path):
    write_synthetic(tmp_path / "three", num_shards=3)
    write_synthetic(tmp_path / "two", num_shards=2)
    push_dataset(CheckpointStore(tmp_path / "three"), REPO, configuration="x")
    push_dataset(CheckpointStore(tmp_path / "two"), REPO, configuration="x")
    assert not [path for path in default_hub.repos[f"datasets/{REPO}"] if "00002" in path]
    pull_dataset(REPO, tmp_path / "back")
    assert file_hashes(tmp_path / "back") == file_hashes(tmp_path / "two")


def test_other_networks_do_not_replace_a_configuration(default_hub, tmp_path):
    push_dataset(CheckpointStore(finished_harvest()), REPO)
    write_synthetic(tmp_path / "other")
    with pytest.raises(ValueError, match="has a configuration 'digits' of other networks"):
        push_dataset(CheckpointStore(tmp_path / "other"), REPO)


def test_of_several_configurations_one_must_be_named(default_hub, tmp_path):
    write_synthetic(tmp_path / "store", num_shards=1)
    for name in ("a", "b"):
        push_dataset(CheckpointStore(tmp_path / "store"), REPO, configuration=name)
    with pytest.raises(ValueError, match=r"has the configurations \['a', 'b'\]: name one"):
        pull_dataset(REPO, tmp_path / "back")
    pull_dataset(REPO, tmp_path / "back", configuration="b")
    assert file_hashes(tmp_path / "back") == file_hashes(tmp_path / "store")


def test_the_command_pushes_and_pulls(default_hub, tmp_path, capsys):
    folder = copied_harvest(tmp_path)
    dataset.main(["push", str(folder), REPO])
    dataset.main(["pull", REPO, "--out", str(tmp_path / "back")])
    dataset.main(["export", str(folder), "--out", str(tmp_path / "parquet")])
    dataset.main(["import", str(tmp_path / "parquet"), "--out", str(tmp_path / "again")])
    assert file_hashes(tmp_path / "back") == file_hashes(tmp_path / "again") == file_hashes(folder)
    assert f"uploaded: {default_hub.url}/datasets/{REPO}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "org/none", "--out", "x"], "no such repository on the Hub"),
        (["pull", "org", "--out", "x"], "must be named org/name"),
        (["push", "none", REPO], "none is not a checkpoint dataset"),
    ],
)
def test_the_command_refuses_in_one_sentence(default_hub, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        dataset.main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0


def test_an_export_has_a_card_that_names_its_configuration(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    params, _ = write_synthetic(tmp_path / "store", num_shards=1)
    export_dataset(CheckpointStore(tmp_path / "store"), tmp_path / "out", configuration="wide")
    assert datasets.get_dataset_config_names(str(tmp_path / "out")) == ["wide"]
    rows = datasets.load_dataset(str(tmp_path / "out"), "wide", split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[0]["params"] == params[0].tolist()
    assert file_hashes(import_parquet(tmp_path / "out", tmp_path / "back").folder) == file_hashes(tmp_path / "store")
    export_dataset(CheckpointStore(tmp_path / "store"), tmp_path / "named by its task")
    assert "config_name: digits" in (tmp_path / "named by its task" / "README.md").read_text()
    with pytest.raises(ValueError, match="a configuration must be named in letters"):
        export_dataset(CheckpointStore(tmp_path / "store"), tmp_path / "no", configuration="../../escape")
    with pytest.raises(StoreError, match="is not an empty folder"):
        export_dataset(CheckpointStore(tmp_path / "store"), tmp_path / "out")


CARDS = {
    "YAML that does not parse": b"---\ntags: [a\n---\ntext\n",
    "a tag that runs code": b"---\ntags: !!python/object/apply:os.system ['touch executed']\n---\ntext\n",
    "tags a number": b"---\ntags: 7\n---\ntext\n",
    "tags of numbers": b"---\ntags: [7]\n---\ntext\n",
    "configs a string": b"---\nconfigs: all\n---\ntext\n",
    "configs without names": b"---\nconfigs: [{data_files: x}]\n---\ntext\n",
    "metadata a list": b"---\n- a\n---\ntext\n",
    "aliases that multiply": b"---\na: &a [1, 1]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghi"
    ) + b"---\ntext\n",
    "bytes that are no UTF-8": b"---\ntags: [a]\n---\n\xff\xfe\n",
}  # fmt: skip


def test_a_card_that_cannot_be_read_is_left_and_said(default_hub, tmp_path, monkeypatch, capsys, subtests):
    monkeypatch.chdir(tmp_path)
    write_synthetic(tmp_path / "store")
    for name, card in CARDS.items():
        with subtests.test(name):
            default_hub.repos[f"datasets/{REPO}"] = {"README.md": card}
            with pytest.raises(SystemExit) as stopped:
                dataset.main(["push", "store", REPO])
            assert stopped.value.code == 1
            said = capsys.readouterr().err.strip().splitlines()[-1]
            assert f"the card of {REPO} cannot be kept: it" in said
            assert "--card-beside" in said
            assert default_hub.repos[f"datasets/{REPO}"] == {"README.md": card}
            dataset.main(["push", "store", REPO, "--card-beside"])
            files = default_hub.repos[f"datasets/{REPO}"]
            assert files["README.md"] == card
            assert b"How the runs were made" in files[CARD_BESIDE]
    assert not Path("executed").exists()


@pytest.mark.parametrize("card", [b"", b"only text\n", b"---\n---\ntext\n", b"---\r\ntags: [a]\r\n---\r\ntext\r\n"])
def test_cards_of_people_are_kept_with_ours_in_them(default_hub, tmp_path, card):
    write_synthetic(tmp_path / "store")
    default_hub.repos[f"datasets/{REPO}"] = {"README.md": card}
    push_dataset(CheckpointStore(tmp_path / "store"), REPO)
    written = default_hub.repos[f"datasets/{REPO}"]["README.md"].decode()
    header = yaml.safe_load(written.split("---")[1])
    assert {"g-pt", *(["a"] if b"tags" in card else [])} <= set(header["tags"])
    assert ("text" in written) == (b"text" in card)
