from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from g_pt.files.atomic import write_json
from g_pt.training.checkpoints import TrainingCheckpoints, check_replaceable, check_resumable, jsonable
from g_pt.training.config import OptimizerConfig, TrainConfig
from g_pt.training.loop import make_stage


@pytest.fixture
def prepared(tmp_path):
    """Checkpoints of a linear layer, and the layer."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    layer = accelerator.prepare(torch.nn.Linear(2, 2))
    return TrainingCheckpoints(tmp_path, {"seed": 0, "data": {"prompt_range": [0.1, 2.0]}}, accelerator, keep=2), layer


def test_old_checkpoints_are_removed_and_the_newest_is_loaded(prepared):
    checkpoints, layer = prepared
    assert checkpoints.start(resume=False) == 0
    for step in (10, 200, 3000):
        torch.nn.init.constant_(layer.weight, step)
        checkpoints.save(step)
    assert checkpoints.saved_steps() == [200, 3000]
    torch.nn.init.zeros_(layer.weight)
    assert checkpoints.start(resume=True) == 3000
    assert (layer.weight == 3000).all()


def test_a_half_written_checkpoint_is_not_resumed_from(prepared):
    checkpoints, _ = prepared
    checkpoints.start(resume=False)
    checkpoints.save(10)
    (checkpoints.folder / "step-00000020.tmp").mkdir()  # killed while writing
    assert checkpoints.saved_steps() == [10]
    checkpoints.save(20)
    assert checkpoints.saved_steps() == [10, 20]
    assert not list(checkpoints.folder.glob("*.tmp"))


def test_folders_and_evaluations_may_change_but_not_what_decides_the_run():
    old = jsonable({**vars(TrainConfig()), "optimizer": vars(OptimizerConfig()), "data": {"rows": 5}})
    check_resumable(old, {**old, "output": "elsewhere", "progress": {"save_every": 7}})
    faster = vars(replace(OptimizerConfig(), num_steps=7))
    with pytest.raises(ValueError, match=r"optimizer\.num_steps = 20000, now it is 7"):
        check_resumable(old, {**old, "optimizer": faster})
    with pytest.raises(ValueError, match=r"data\.rows = 5, now it is 6"):
        check_resumable(old, {**old, "data": {"rows": 6}})


def test_each_stage_refuses_other_settings_of_its_own(tmp_path, tiny_pipeline):
    old = TrainConfig(output=tmp_path)
    new = replace(
        old, alignment=replace(old.alignment, learning_rate=0.5), optimizer=OptimizerConfig(learning_rate=0.5)
    )
    first, second = (
        [make_stage(config, tiny_pipeline, stage).settings for config in (old, new)]
        for stage in ("diffusion", "alignment")
    )
    check_resumable(first[0], {**first[1], "optimizer": first[0]["optimizer"]})
    with pytest.raises(ValueError, match=r"started with alignment\.learning_rate = 0\.0003, now it is 0\.5"):
        check_resumable(*second)  # not with optimizer.learning_rate, which is a copy


def test_a_run_killed_before_its_first_checkpoint_resumes_from_the_beginning(prepared):
    checkpoints, _ = prepared
    checkpoints.start(resume=False)
    assert checkpoints.start(resume=True) == 0
    assert checkpoints.start(resume=False) == 0


def truncate(file):
    file.write_bytes(file.read_bytes()[:-5])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, lambda file: file.unlink()], ids=["cut", "flipped", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "random_states_0.pkl", "average.pt", "files.json"])
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(prepared, damage, name):
    checkpoints, layer = prepared
    checkpoints.states["average"] = average = Average()
    checkpoints.start(resume=False)
    for step in (10, 20):
        torch.nn.init.constant_(layer.weight, step)
        average.value = torch.tensor([step, 1])
        checkpoints.save(step)
    damage(checkpoints.path(20) / name)
    with pytest.warns(UserWarning, match=r"skipped .*step-00000020, which is damaged: .*(files|model|random|average)"):
        assert checkpoints.start(resume=True) == 10
    assert (layer.weight == 10).all()
    assert average.value.tolist() == [10, 1]
    checkpoints.save(20)
    assert checkpoints.start(resume=True) == 20
    assert checkpoints.path(20).with_name("step-00000020.damaged").is_dir()


class Average:
    value = torch.zeros(2)

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_where_all_checkpoints_are_damaged_nothing_starts_over_in_silence(prepared):
    checkpoints, _ = prepared
    checkpoints.start(resume=False)
    checkpoints.save(10)
    truncate(checkpoints.path(10) / "model.safetensors")
    for _ in range(2):
        with pytest.warns(UserWarning, match="skipped"), pytest.raises(ValueError, match=r"all checkpoints in .* are"):
            checkpoints.start(resume=True)


@pytest.mark.parametrize("left", ["checkpoints", "pipeline", "log.jsonl"])
def test_an_earlier_run_is_not_overwritten(prepared, tmp_path, left):
    (tmp_path / left).mkdir()
    with pytest.raises(FileExistsError, match="--resume"):
        prepared[0].start(resume=False)


def saved_pipeline(folder):
    """What saving and uploading a pipeline leaves in a folder, as far as names go."""
    names = ["config.json", "diffusion_pytorch_model.safetensors", "g_pt_class.py"]
    names = [f"{part}/{name}" for part in ("transformer", "normalizer") for name in names]
    for name in (*names, "scheduler/scheduler_config.json", "g_pt_class.py", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    write_json(folder / "model_index.json", {"_class_name": "ParameterUpdatePipeline"})
    return folder


def test_only_pipelines_and_empty_folders_are_replaced(tmp_path):
    check_replaceable(tmp_path / "new")
    check_replaceable(tmp_path)
    check_replaceable(saved_pipeline(tmp_path / "model"))
    write_json(tmp_path / "model" / "model_index.json", {"_class_name": ["g_pt_class", "ParameterUpdatePipeline"]})
    check_replaceable(tmp_path / "model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for wrong in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex", type(tmp_path)(".")):
        with pytest.raises(FileExistsError):
            check_replaceable(wrong)
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["notes.txt", "figures/a.png", "transformer/notes.txt", "transformer/old/config.json"])
def test_a_pipeline_with_files_of_the_user_is_not_replaced(tmp_path, name):
    file = saved_pipeline(tmp_path / "model") / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    top = name.split("/")[0] if name.startswith("figures") else name.removesuffix("/config.json")
    with pytest.raises(FileExistsError, match=f"holds '{top}', which is no part of a saved pipeline"):
        check_replaceable(tmp_path / "model")


@pytest.mark.parametrize("index", ['{"_class_name": "StableDiffusionPipeline"}', "", "[]", "{}"])
def test_a_pipeline_of_something_else_is_not_replaced(tmp_path, index):
    (saved_pipeline(tmp_path / "model") / "model_index.json").write_text(index)
    with pytest.raises(FileExistsError, match="neither empty nor a saved pipeline"):
        check_replaceable(tmp_path / "model")
