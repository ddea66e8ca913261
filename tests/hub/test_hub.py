import socket
import threading
import time
from contextlib import suppress

import huggingface_hub
import pytest
import torch
from local_hub import HubRequest

from g_pt.hub import download as hub
from g_pt.hub.download import answered_within, bundled_models, resolve_model
from g_pt.model.pipeline import ParameterUpdatePipeline

REPO = "org/name"


@pytest.fixture
def pushed(local_hub, random_pipeline, tmp_path):
    """The Hub with the random pipeline in it, as files."""
    random_pipeline.save_pretrained(tmp_path / "saved")
    local_hub.push(REPO, tmp_path / "saved")
    return local_hub


def resolve(hub, tmp_path, name=REPO, **options):
    return resolve_model(name, endpoint=hub.url, cache_dir=tmp_path / "cache", token=False, **options)


def sample(pipeline, digits):
    starts = digits.init(2, torch.Generator().manual_seed(7))
    return pipeline(starts, 0.5, generator=torch.Generator().manual_seed(0)).params


def refused(hub, tmp_path, **options) -> str:
    with pytest.raises(OSError, match=r"\S") as error:
        resolve(hub, tmp_path, **options)
    assert type(error.value) is OSError
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 200
    return message


def test_a_pipeline_from_the_hub_samples_the_same(pushed, random_pipeline, digits, tmp_path):
    loaded = ParameterUpdatePipeline.from_pretrained(resolve(pushed, tmp_path))
    assert torch.equal(sample(loaded, digits), sample(random_pipeline, digits))


def test_a_cached_pipeline_is_loaded_by_its_name(pushed, random_pipeline, digits, tmp_path):
    resolve(pushed, tmp_path)
    pushed.stop()
    loaded = ParameterUpdatePipeline.from_pretrained(REPO, cache_dir=tmp_path / "cache", local_files_only=True)
    assert torch.equal(sample(loaded, digits), sample(random_pipeline, digits))


@pytest.mark.parametrize("options", [{"local_files_only": True}, {}])
def test_the_second_load_needs_no_hub(pushed, tmp_path, options):
    first = resolve(pushed, tmp_path)
    num_requests = len(pushed.requests)
    pushed.stop()
    assert resolve(pushed, tmp_path, **options) == first
    assert len(pushed.requests) == num_requests


def test_cached_files_are_not_fetched_again(pushed, tmp_path):
    resolve(pushed, tmp_path)
    pushed.requests.clear()
    resolve(pushed, tmp_path)
    assert not [path for path in pushed.requests if "/resolve/" in path]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "transformer/weights.pt", "pipeline.py", "data.pkl"])
def test_files_that_could_be_executed_are_never_asked_for(pushed, tmp_path, name):
    pushed.repos[REPO][name] = b"payload"
    folder = resolve(pushed, tmp_path)
    assert not (folder / name).exists()
    assert not [path for path in pushed.requests if path.endswith(name)]
    assert b"payload" not in [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_revision_is_a_commit_of_the_repository(pushed, tmp_path):
    folder = resolve(pushed, tmp_path, revision=pushed.commit(REPO))
    assert folder.name == pushed.commit(REPO)


def test_a_missing_repository_is_one_sentence(pushed, tmp_path):
    assert "there is no folder org/other and no such repository on the Hub" in refused(
        pushed, tmp_path, name="org/other"
    )


def test_a_missing_revision_is_one_sentence(pushed, tmp_path):
    assert refused(pushed, tmp_path, revision="v9") == "org/name has no revision 'v9'"


@pytest.mark.parametrize("options", [{}, {"local_files_only": True}])
def test_an_unreachable_hub_with_an_empty_cache_is_one_sentence(local_hub, tmp_path, options):
    local_hub.stop()
    assert "org/name is not cached and the Hub is out of reach" in refused(local_hub, tmp_path, **options)


def test_a_gated_repository_is_one_sentence(pushed, tmp_path):
    pushed.gated.add(REPO)
    assert refused(pushed, tmp_path) == "org/name is gated: accept its terms on the Hub and run `hf auth login`"


def test_a_partly_cached_repository_without_a_hub_is_one_sentence(pushed, tmp_path):
    folder = resolve(pushed, tmp_path)
    (folder / "transformer" / "config.json").unlink()
    pushed.stop()
    for options in ({}, {"local_files_only": True}):
        message = refused(pushed, tmp_path, **options)
        assert "partly cached" in message or "not cached" in message


def test_offline_by_the_environment_is_one_sentence(pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refused(pushed, tmp_path) == (
        "there is no folder org/name; as a repository of the Hub: org/name is not cached and the Hub is out of reach "
        "(HF_HUB_OFFLINE=1)"
    )
    assert pushed.requests == []


def test_a_hub_that_breaks_down_in_between_is_one_sentence(pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(HubRequest, "send_file", lambda self, *args: self.send(500, b"", {}))
    assert REPO in refused(pushed, tmp_path)


def test_a_connection_that_is_cut_in_a_file_is_one_sentence(pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    send_file = HubRequest.send_file
    monkeypatch.setattr(
        HubRequest, "send_file", lambda self, *args: send_file(self, *args) if self.command == "HEAD" else None
    )
    assert REPO in refused(pushed, tmp_path)


def test_a_repository_of_something_else_is_one_sentence(local_hub, tmp_path):
    local_hub.repos[REPO] = {"config.json": b"{}", "README.md": b"hello"}
    assert "org/name has no model_index.json" in refused(local_hub, tmp_path)


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "./runs/none", "/runs/none"])
def test_what_is_neither_folder_nor_model_nor_repository_is_refused_without_asking(local_hub, tmp_path, name):
    message = refused(local_hub, tmp_path, name=name)
    assert f"there is no folder {name}; bundled models are" in message
    assert local_hub.requests == []


def test_a_name_that_the_hub_does_not_allow_is_refused(local_hub, tmp_path):
    assert "nor a valid Hub repository name" in refused(local_hub, tmp_path, name="org/na me")


def test_a_folder_is_taken_as_it_is(random_pipeline, tmp_path):
    random_pipeline.save_pretrained(tmp_path / "saved")
    assert resolve_model(tmp_path / "saved") == tmp_path / "saved"
    assert resolve_model(str(tmp_path / "saved")) == tmp_path / "saved"


def test_bundled_models_are_found_by_name(random_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "BUNDLED", tmp_path)
    random_pipeline.save_pretrained(tmp_path / "digits-loss")
    (tmp_path / "unfinished").mkdir()
    assert bundled_models() == ["digits-loss"]
    assert resolve_model("digits-loss") == tmp_path / "digits-loss"
    with pytest.raises(OSError, match="bundled models are digits-loss,"):
        resolve_model("unfinished")


def test_a_bundled_name_is_not_taken_by_a_folder_here(random_pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "BUNDLED", tmp_path / "package")
    random_pipeline.save_pretrained(tmp_path / "package" / "digits-loss")
    random_pipeline.save_pretrained(tmp_path / "digits-loss")
    assert resolve_model("digits-loss") == tmp_path / "package" / "digits-loss"
    assert resolve_model("./digits-loss").absolute() == tmp_path / "digits-loss"


def test_a_hub_that_accepts_and_stays_silent_is_one_sentence(monkeypatch, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:  # the system accepts, nobody ever answers
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("g_pt.hub.download.READ_SECONDS", 1.0)
        started = time.perf_counter()
        with pytest.raises(OSError, match=r"it did not answer within 1 s|out of reach"):
            resolve_model("org/silent")
        assert time.perf_counter() - started < 30


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
def test_a_hub_that_drips_is_left(begin, monkeypatch, tmp_path):
    """A byte comes well within the time limit of a read, of the head of an answer or of its body."""

    def drip(server: socket.socket) -> None:
        with suppress(OSError):  # closed at the end
            while True:
                connection = server.accept()[0]
                with connection, suppress(OSError):
                    connection.recv(10_000)
                    connection.sendall(begin)
                    while True:
                        connection.sendall(b"a")
                        time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: drip(server), daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("g_pt.hub.download.READ_SECONDS", 0.5)
        started = time.perf_counter()
        with pytest.raises(OSError, match=r"it did not answer within 0.5 s|out of reach"):
            resolve_model("org/drips")
        assert time.perf_counter() - started < 30


def test_the_limit_on_answers_ends_with_the_question():
    session = huggingface_hub.get_session()
    before = session.event_hooks
    with answered_within(5):
        assert session.event_hooks != before
    assert session.event_hooks == before
