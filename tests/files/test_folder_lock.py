"""Two harvests never write to one folder at the same time, and a dead one locks nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from dataset_fixtures import SMALL, environment, file_hashes, finished_harvest, run_command

from checkpoints_dataset.harvest import harvest
from g_pt.files.folder_lock import LOCK_FILE, FolderBusyError, folder_lock, is_file_at

pytest.importorskip("fcntl", reason="folders are not locked on this platform")
BUSY = "another harvest is writing to .*; wait until it ends, or name another folder"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of a folder until it is killed."""
    program = (
        "import sys, time\nfrom g_pt.files.folder_lock import folder_lock\n"
        "with folder_lock(sys.argv[1]): print('locked', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_harvest_is_refused_while_the_first_lives_and_works_when_it_is_dead(tmp_path, holder):
    folder = tmp_path / "data"
    with pytest.raises(FolderBusyError, match=BUSY):
        harvest(SMALL, folder)
    refused = run_command("--num-runs", "4", "--out", str(folder))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"gpt-harvest: another harvest is writing to {folder};")
    assert [file.name for file in folder.iterdir()] == [LOCK_FILE], "nothing was written"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    harvest(SMALL, folder)
    assert file_hashes(folder) == file_hashes(finished_harvest())  # and the lock's file is gone


def test_a_folder_is_locked_while_a_harvest_is_at_work(tmp_path):
    refused = []

    def second_harvest(_):
        with pytest.raises(FolderBusyError, match=BUSY):
            harvest(SMALL, tmp_path)
        refused.append(True)

    harvest(SMALL, tmp_path, progress=second_harvest)
    assert len(refused) == 3 * SMALL.num_steps
    assert file_hashes(tmp_path) == file_hashes(finished_harvest())


def test_the_lock_ends_with_the_block_also_after_an_error_and_holds_for_one_folder_only(tmp_path):
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path / "a"):
        raise KeyboardInterrupt
    with folder_lock(tmp_path / "a"), folder_lock(tmp_path / "b"), pytest.raises(FolderBusyError, match=BUSY):
        folder_lock(tmp_path / "a").__enter__()
    assert not list(tmp_path.glob("*/*"))


def test_a_lock_on_a_file_that_its_holder_removed_is_no_lock(tmp_path):
    path = tmp_path / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    assert is_file_at(path, descriptor)
    path.unlink()
    assert not is_file_at(path, descriptor)
    path.touch()
    assert not is_file_at(path, descriptor)
    os.close(descriptor)


def test_where_no_file_can_be_made_a_finished_dataset_still_opens(tmp_path, monkeypatch):
    harvest(SMALL, tmp_path)

    def read_only(*arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("g_pt.files.folder_lock.os.open", read_only)
    assert harvest(SMALL, tmp_path) == {}


def test_where_the_system_has_no_such_locks_the_library_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("g_pt.files.folder_lock.fcntl", None)  # as on Windows
    for _ in range(2):
        with folder_lock(tmp_path), pytest.raises(FolderBusyError, match="another training is writing to"):
            folder_lock(tmp_path, "training").__enter__()
        assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_training_whose_launcher_was_killed_keeps_the_folder(tmp_path):
    writer = (
        "import os, sys, time\nfrom g_pt.files.folder_lock import folder_lock\n"
        "with folder_lock(sys.argv[1], 'training'): print(os.getpid(), flush=True); time.sleep(100)"
    )
    launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    command = [sys.executable, "-c", launcher, writer, str(tmp_path)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        process.kill()
        process.wait()
        with pytest.raises(FolderBusyError, match="another training is writing to"):
            folder_lock(tmp_path, "training").__enter__()
        os.kill(pid, signal.SIGKILL)
        assert process.stdout.read() == ""  # its end is that of the pipe: the writer is dead
    with folder_lock(tmp_path, "training"):
        pass
    assert not list(tmp_path.iterdir())
