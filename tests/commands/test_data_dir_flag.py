"""Every command looks for images where `--data-dir` says."""

import pytest
from image_builders import write_idx_folder

from g_pt.commands import evaluate, harvest, sample
from g_pt.tasks.data_folders import DATA_DIR_VARIABLE
from train import train_g_pt


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setenv(DATA_DIR_VARIABLE, "to be restored")


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(harvest.main, []), (evaluate.main, []), (sample.main, ["--prompt-loss", "1"]), (train_g_pt.main, [])],
)
def test_a_folder_that_is_none_is_refused_before_anything_else(tmp_path, capsys, main, arguments):
    with pytest.raises(SystemExit):
        main([*arguments, "--data-dir", str(tmp_path / "nowhere")])
    assert "--data-dir must be a folder" in capsys.readouterr().err


def test_images_are_read_from_the_folder(tmp_path, capsys):
    write_idx_folder(tmp_path / "mnist", num_train=7)
    with pytest.warns(UserWarning, match="not the file of mnist"), pytest.raises(SystemExit):
        harvest.main(["--task", "mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "more are needed; got 7" in capsys.readouterr().err
