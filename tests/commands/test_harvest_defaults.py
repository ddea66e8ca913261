"""Settings of a harvest that come with the task: below those of files, which stand below flags."""

from pathlib import Path

import pytest

from checkpoints_dataset.config import HarvestConfig
from g_pt.commands import harvest, train
from g_pt.files.config import merge
from g_pt.tasks import get_task, task_names

OWN = """
from g_pt.tasks.toys import Wave
class Own(Wave):
    name = "own-wave"
    harvest_defaults = {defaults}
"""


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> HarvestConfig:
    """What gpt-harvest would do."""
    found: list[HarvestConfig] = []
    monkeypatch.setattr("checkpoints_dataset.harvest.harvest_with_progress", lambda config, *_: found.append(config))
    harvest.main([*arguments])
    return found[0]


def sizes(config: HarvestConfig) -> tuple[int, int, int, int]:
    return config.num_runs, config.num_steps, config.num_checkpoints, config.runs_per_shard


def test_flags_count_over_files_and_files_over_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = sizes(merge(HarvestConfig(), get_task("cartpole").harvest_defaults, "task"))
    assert own != sizes(HarvestConfig())
    assert sizes(parsed(monkeypatch, "--task", "cartpole")) == own
    assert sizes(parsed(monkeypatch, "--task=cartpole", "--num-runs", "7")) == (7, *own[1:])
    Path("some.yaml").write_text("task: cartpole\nnum_runs: 8\nruns-per-shard: 3\n")
    assert sizes(parsed(monkeypatch, "--config", "some.yaml")) == (8, *own[1:3], 3)
    assert sizes(parsed(monkeypatch, "--config", "some.yaml", "--num-runs", "9")) == (9, *own[1:3], 3)
    assert sizes(parsed(monkeypatch, "--config", "some.yaml", "--task", "digits")) == (
        8,
        *sizes(HarvestConfig())[1:3],
        3,
    )
    assert sizes(parsed(monkeypatch)) == sizes(HarvestConfig())


def test_training_harvests_by_them_too() -> None:
    assert train.parse_command(["--task", "pendulum"]).harvest.ppo.gamma == 0.9
    assert train.parse_command(["--task", "pendulum", "--harvest.ppo.gamma", "0.8"]).harvest.ppo.gamma == 0.8
    assert train.parse_command(["--preset", "cartpole", "--harvest.num-runs", "5"]).harvest.num_runs == 5


def test_those_of_every_task_are_settings_of_a_harvest(subtests: pytest.Subtests) -> None:
    for name in task_names():
        with subtests.test(task=name):
            try:
                defaults = get_task(name).harvest_defaults
            except ValueError as error:
                pytest.skip(str(error))
            config = merge(HarvestConfig(), {"task": name, **defaults}, name)
            assert bool(defaults) == (config != HarvestConfig(task=name))


def test_wrong_ones_of_a_task_of_ones_own_end_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN.format(defaults={"num_run": 3}))
    with pytest.raises(SystemExit) as caught:
        harvest.main(["--task", "own.py:Own"])
    assert caught.value.code == 1
    assert "harvest_defaults of task 'own.py:Own': there is no setting 'num_run'" in capsys.readouterr().err
