import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from alignment_losses import Recorder, pairs_of
from tiny_training import replace, tiny_config, tiny_store, train, weights

from checkpoints_dataset.facts import fit_normalizer
from checkpoints_dataset.pair_sampler import PairSampler
from checkpoints_dataset.store import CheckpointStore
from g_pt.files.folder_lock import FolderBusyError, folder_lock
from g_pt.model.diffusion import Objective, diffusion_loss
from g_pt.model.noise import NoiseSchedule
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.model.transformer import ParameterTransformer
from g_pt.tasks import get_task
from g_pt.tasks.digits import Digits
from g_pt.training.config import OptimizerConfig, PairConfig, TrainConfig
from g_pt.training.denoising import DenoisingLoss, draw_noise
from g_pt.training.loop import learning_rate
from g_pt.training.setup import make_model, make_optimizer, permuted_pairs, process_share


def new_model(config: TrainConfig) -> ParameterTransformer:
    return make_model(get_task("digits"), "loss", config.model, num_train_timesteps=1000, seed=config.seed)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    return tiny_store(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(store: CheckpointStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    train(tiny_config(output), store)
    return output


@pytest.mark.parametrize("stop_at", [5, 8, 11])
def test_a_resumed_run_is_the_uninterrupted_run(
    store: CheckpointStore, uninterrupted: Path, tmp_path: Path, stop_at: int
) -> None:
    config = tiny_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, store, stop_at=stop_at)
    train(config, store, resume=True)
    resumed, whole = weights(config), weights(tiny_config(uninterrupted))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert (tmp_path / "log.jsonl").read_text() == (uninterrupted / "log.jsonl").read_text()


def test_two_trainings_with_one_seed_agree_and_with_two_seeds_differ(
    store: CheckpointStore, uninterrupted: Path, tmp_path: Path
) -> None:
    same, other = tiny_config(tmp_path / "same"), replace(tiny_config(tmp_path / "other"), seed=1)
    train(same, store)
    train(other, store)
    first, again, different = weights(tiny_config(uninterrupted)), weights(same), weights(other)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.qkv.weight"], different["blocks.0.qkv.weight"])


def test_training_is_adamw_on_the_denoising_loss(store: CheckpointStore, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, num_steps=4)
    config = replace(config, optimizer=replace(config.optimizer, ema_decay=0.0))  # saves the last weights
    train(config, store)
    task, options = get_task("digits"), config.optimizer
    model, normalizer = new_model(config), fit_normalizer(store, "global")
    optimizer = make_optimizer(model, options)
    sampler = PairSampler(store, "loss", batch_size=8, seed=0)
    for step in range(4):
        times, noise = draw_noise(0, step, 1000, (8, task.layout.num_params))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        optimizer.zero_grad()
        diffusion_loss(
            model, normalizer, sampler.batch(step), times, noise, NoiseSchedule.linear(1000, 1e-4, 0.02)
        ).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
    saved = weights(config)
    torch.testing.assert_close(dict(model.state_dict()), saved)
    assert not torch.equal(saved["norm.weight"], torch.ones(16))


def test_training_lowers_the_denoising_error(store: CheckpointStore, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, num_steps=150)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=5e-3))
    train(replace(config, progress=replace(config.progress, evaluate_every=0)), store)
    losses = [
        line["loss"] for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines()) if "loss" in line
    ]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_the_saved_pipeline_holds_the_averaged_weights(store: CheckpointStore, uninterrupted: Path) -> None:
    from safetensors.torch import load_file

    last = load_file(uninterrupted / "checkpoints" / "step-00000012" / "model.safetensors")
    averaged = weights(tiny_config(uninterrupted))
    assert not torch.equal(last["blocks.0.qkv.weight"], averaged["blocks.0.qkv.weight"])
    gap = (last["blocks.0.qkv.weight"] - averaged["blocks.0.qkv.weight"]).abs().max()
    assert gap < 0.05


def test_the_pipeline_knows_its_training_data(store: CheckpointStore, uninterrupted: Path) -> None:
    facts = ParameterUpdatePipeline.from_pretrained(uninterrupted / "pipeline").facts
    losses = store.metrics["loss"]
    assert facts.prompt_range[0] >= losses.min()
    assert facts.attainable_range[0] < facts.attainable_range[1]
    assert facts.dataset.num_runs == 36


def test_a_second_run_does_not_overwrite_the_first(store: CheckpointStore, uninterrupted: Path) -> None:
    with pytest.raises(FileExistsError, match="--resume"):
        train(tiny_config(uninterrupted), store)


def test_resuming_with_other_settings_is_refused(store: CheckpointStore, uninterrupted: Path) -> None:
    config = tiny_config(uninterrupted)
    changed = replace(config, optimizer=replace(config.optimizer, learning_rate=0.5))
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate = 0\.002, now it is 0\.5"):
        train(changed, store, resume=True)


def test_resuming_nothing_is_refused(store: CheckpointStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        train(tiny_config(tmp_path), store, resume=True)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    options = OptimizerConfig(num_steps=1000, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=100)
    assert learning_rate(0, options) == pytest.approx(0.01, rel=1e-3)
    assert learning_rate(500, options) == pytest.approx(0.55)
    assert learning_rate(1000, options) == pytest.approx(0.1)
    assert learning_rate(99, options) > 0.97


def test_only_matrices_are_decayed() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    decayed, others = make_optimizer(module, OptimizerConfig(weight_decay=0.3)).param_groups
    assert [p.shape for p in decayed["params"]] == [(3, 3)]
    assert decayed["weight_decay"] == 0.3
    assert others["weight_decay"] == 0.0
    assert len(others["params"]) == 3


def test_two_processes_draw_the_halves_of_what_one_draws(
    digits: Digits, random_pipeline: ParameterUpdatePipeline
) -> None:
    pairs, pipeline = pairs_of(digits), random_pipeline
    calls = []
    for num, index in ((1, 0), (2, 0), (2, 1)):
        process = SimpleNamespace(num_processes=num, process_index=index, device=torch.device("cpu"))
        loss = DenoisingLoss(pipeline, pairs, lambda step: Objective(), process, batch_size=8, seed=0)
        model = Recorder(pipeline.transformer)
        loss(model, 3)
        calls += model.calls
    whole, *halves = calls
    for name in ("t", "x_t", "x_start"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name))
    noise = draw_noise(0, 3, 1000, (8, 50))[1]
    assert not torch.equal(draw_noise(0, 4, 1000, (8, 50))[1], noise)
    assert noise.std() == pytest.approx(1.0, abs=0.1)


def test_permutations_of_pairs_are_the_same_however_they_are_split(store: CheckpointStore) -> None:
    options = PairConfig(batch_size=8, augmentation="permute")
    sampler = PairSampler(store, "loss", batch_size=8, seed=0)
    permuted = permuted_pairs(sampler.batch, get_task("digits"), options, seed=0)
    whole, halves = permuted(3, slice(0, 8)), [permuted(3, slice(0, 4)), permuted(3, slice(4, 8))]
    for name in vars(whole):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves]))
    assert not torch.equal(whole.starting_params, sampler.batch(3).starting_params)


def test_a_new_model_is_decided_by_its_seed_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    before = torch.get_rng_state()
    first, again = new_model(config), new_model(config)  # the task has derived its permutations by now
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_returned_pipeline_samples_like_the_saved_one_after_bf16_training(
    store: CheckpointStore, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, num_steps=3)
    config = replace(config, optimizer=replace(config.optimizer, mixed_precision="bf16", learning_rate=0.02))
    returned = train(config, store)
    loaded = ParameterUpdatePipeline.from_pretrained(config.pipeline_folder)
    starts = loaded.task.init(3, torch.Generator().manual_seed(0))
    samples = [
        pipeline(starts, 0.5, num_inference_steps=2, generator=torch.Generator().manual_seed(1)).params
        for pipeline in (returned, loaded)
    ]
    assert torch.equal(*samples)
    assert not torch.equal(samples[0], starts)


def test_a_pipeline_folder_is_replaced_whole(store: CheckpointStore, uninterrupted: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(tmp_path / "out", num_steps=2), pipeline=tmp_path / "bundled")
    shutil.copytree(tiny_config(uninterrupted).pipeline_folder, tmp_path / "bundled")
    (tmp_path / "bundled" / "README.md").write_text("a card")
    older = tmp_path / "bundled" / "transformer" / "diffusion_pytorch_model-of-an-older-model.safetensors"
    older.touch()
    (tmp_path / "bundled.tmp").mkdir()
    (tmp_path / "bundled.tmp" / "thesis.tex").touch()
    train(config, store)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundled", "bundled.tmp", "out"]
    assert not older.exists()
    assert (tmp_path / "bundled" / "README.md").read_text() == "a card"
    assert (tmp_path / "bundled.tmp" / "thesis.tex").exists()
    assert ParameterUpdatePipeline.from_pretrained(tmp_path / "bundled").config.task == "digits"
    weights = tmp_path / "bundled" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_mode & 0o777 == (tmp_path / "bundled" / "model_index.json").stat().st_mode & 0o777


def test_a_second_training_into_the_folder_is_refused(store: CheckpointStore, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "out", num_steps=2)
    with folder_lock(config.output, "training"), pytest.raises(FolderBusyError, match="another training is writing to"):
        train(config, store)
    assert not any(config.output.iterdir())
    train(config, store)
    before = (config.output / "log.jsonl").read_bytes()
    with folder_lock(config.output, "training"), pytest.raises(FolderBusyError, match="another training is writing to"):
        train(config, store, resume=True)
    assert (config.output / "log.jsonl").read_bytes() == before
    train(config, store, resume=True)
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        train(tiny_config(tmp_path / "none", num_steps=2), store, resume=True)
    assert not (tmp_path / "none").exists()


def test_resuming_on_other_data_is_refused(store: CheckpointStore, uninterrupted: Path, tmp_path: Path) -> None:
    config = tiny_config(uninterrupted)
    fewer = replace(config, pairs=replace(config.pairs, max_runs=10))
    with pytest.raises(ValueError, match="cannot resume: the run was started with"):
        train(fewer, store, resume=True)


def test_batches_must_divide_among_processes() -> None:
    class Three:
        num_processes, process_index = 3, 1

    assert process_share(9, Three()) == slice(3, 6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of the number of processes, got 8 and 3"):
        process_share(8, Three())  # type: ignore[arg-type]
