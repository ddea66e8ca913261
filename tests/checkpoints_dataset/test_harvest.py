"""A harvest equals plain PyTorch, is exact to continue, and leaves out what exploded."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from dataset_fixtures import SMALL, copied_harvest, file_hashes, finished_harvest
from torch import nn

from checkpoints_dataset.config import HarvestConfig, checkpoint_steps
from checkpoints_dataset.format import StoreError
from checkpoints_dataset.harvest import harvest, rejection, train_population
from checkpoints_dataset.store import CheckpointStore
from g_pt.files import tensor as tensor_files
from g_pt.runtime.seeds import keyed_generator
from g_pt.tasks import get_task
from g_pt.tasks.base import TrainableTask, TrainedPopulation
from g_pt.tasks.digits import Digits, load_digits_splits
from g_pt.update_rules.first_order import Adam
from g_pt.update_rules.gradient import AdamRule, NesterovRule
from g_pt.update_rules.mini_batches import mini_batches

SHARD = 12 * 15  # network-steps of a whole shard of SMALL


class Interrupted(Exception):
    pass


def interrupt_after(network_steps: int):
    done = 0

    def progress(taken: int) -> None:
        nonlocal done
        done += taken
        if done >= network_steps:
            raise Interrupted

    return progress


def train_alone(
    config: HarvestConfig, shard: int, network: int, learning_rate: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Checkpoints, losses and errors of one network of a shard, trained with nn.Module and torch.optim."""
    task, splits = get_task(config.task), load_digits_splits()
    generator = keyed_generator(config.seed, shard)
    if config.rule.learning_rate_range is not None:
        torch.rand(config.runs_per_shard, generator=generator, dtype=torch.float64)  # as the rates were drawn
    module = task.network()
    module.load_state_dict(task.layout.unflatten(task.init(config.runs_per_shard, generator)[network]))
    batches = mini_batches(len(splits["train"]), config.batch_size, generator)
    optimizer = torch.optim.SGD(module.parameters(), learning_rate, 0.9, weight_decay=5e-4, nesterov=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    steps, kept = checkpoint_steps(config.num_steps, config.num_checkpoints, config.spacing), []
    for step in range(config.num_steps + 1):
        if step in steps:
            with torch.no_grad():
                logits, labels = module(splits["validation"].inputs), splits["validation"].labels
            error = 100 * (logits.argmax(dim=1) != labels).float().mean()
            kept.append((task.layout.flatten(module.state_dict()).clone(), F.cross_entropy(logits, labels), error))
        examples = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(module(splits["train"].inputs[examples]), splits["train"].labels[examples]).backward()
        optimizer.step()
        cosine.step()
    params, losses, errors = zip(*kept, strict=True)
    return torch.stack(params), torch.stack(losses), torch.stack(errors)


@pytest.mark.parametrize("learning_rate_range", [None, (0.01, 0.3)])
def test_a_harvest_equals_plain_pytorch_network_by_network(tmp_path, learning_rate_range):
    config = replace(SMALL, num_steps=25, num_checkpoints=8, dtype="float32")  # more steps than batches in an epoch
    config = replace(config, rule=NesterovRule(learning_rate_range=learning_rate_range))
    harvest(config, tmp_path)
    store = CheckpointStore(tmp_path)
    for shard, network in [(0, 0), (1, 7), (1, 14)]:
        record = store.runs[15 * shard + network]
        assert record.metadata["optimizer"] == "nesterov"
        params, losses, errors = train_alone(config, shard, network, record.metadata["learning_rate"])
        first = record.first_row
        rows = slice(first, first + 8)
        stored = store.params(torch.arange(first, first + 8).numpy())
        assert (stored[1:] - stored[:-1]).abs().amax(dim=1).min() > 1e-4  # every checkpoint is another network
        torch.testing.assert_close(stored, params, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(store.metrics["loss"][rows]), losses, rtol=0, atol=2e-5)
        torch.testing.assert_close(torch.from_numpy(store.metrics["error"][rows]), errors, rtol=0, atol=1e-3)


def test_rates_of_a_range_are_log_uniform_and_differ_from_run_to_run(tmp_path):
    rule = NesterovRule(learning_rate_range=(0.001, 0.1))
    drawn, records = rule.draw(4000, torch.Generator().manual_seed(0))
    rates = [record["learning_rate"] for record in records]
    assert drawn.learning_rate == tuple(rates)
    assert 0.001 <= min(rates) < max(rates) < 0.1
    quarters = torch.histc(torch.tensor(rates).log10(), 4, min=-3, max=-1)
    assert (quarters - 1000).abs().max() < 120  # over 4 standard deviations
    harvest(replace(SMALL, rule=rule), tmp_path)
    recorded = [record.metadata["learning_rate"] for record in CheckpointStore(tmp_path).runs]
    assert len(set(recorded)) == 40  # over all shards
    assert NesterovRule(learning_rate_range=(0.3, 0.3)).draw(9, torch.Generator())[0].learning_rate == 0.3


def test_without_a_range_all_runs_record_the_rate_and_nothing_is_drawn():
    generator = torch.Generator().manual_seed(0)
    rule, records = SMALL.rule.draw(3, generator)
    assert (rule, records) == (SMALL.rule, [{"learning_rate": 0.1}] * 3)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())
    wanted = {"optimizer": "nesterov", "learning_rate": 0.1}
    assert all(record.metadata == wanted for record in CheckpointStore(finished_harvest()).runs)


def test_a_harvest_with_a_range_is_exact_to_continue_and_another_range_is_refused(tmp_path):
    config = replace(SMALL, rule=NesterovRule(learning_rate_range=(0.01, 0.3)))
    harvest(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        harvest(config, tmp_path / "parts", progress=interrupt_after(SHARD + 1))
    with pytest.raises(StoreError, match=r"source.rule.learning_rate_range = \[0.01, 0.3\], now it is None"):
        harvest(SMALL, tmp_path / "parts")
    harvest(config, tmp_path / "parts")
    assert file_hashes(tmp_path / "parts") == file_hashes(tmp_path / "whole")


def test_default_harvests_start_from_the_networks_and_mini_batches_they_always_did():
    # The data of the bundled models can be made again. What follows the start differs between CPUs in the last bit,
    # so it is compared with plain PyTorch above; inits and orders are exact everywhere.
    store = CheckpointStore(finished_harvest())
    starts = store.params(torch.arange(0, 200, 5).numpy()).half()
    assert sha256(starts) == "5cce57e76ba9b1643db21218a648903cf5170ba1dcf8fc32dc3953e2e9344cb7"
    generator = keyed_generator(0, 0)
    get_task("digits").init(15, generator)
    batches = mini_batches(1197, 64, generator)
    orders = torch.stack([next(batches) for _ in range(40)])
    assert sha256(orders) == "4eecb9dc4e46c43e1f3c6192d8e3067fc1de9b62923195a04cc7b6c6b730f0b3"


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stored_metrics_are_those_of_the_stored_rows_on_the_validation_split(tmp_path, dtype):
    harvest(replace(SMALL, dtype=dtype), tmp_path)
    store = CheckpointStore(tmp_path)
    rows = torch.arange(len(store)).numpy()
    for name, values in get_task("digits").evaluate(store.params(rows), "validation").items():
        torch.testing.assert_close(torch.from_numpy(store.metrics[name]), values, rtol=1e-5, atol=1e-5)
    first, last = store.step == 0, store.step == SMALL.num_steps
    assert store.metrics["loss"][last].mean() < 0.8 * store.metrics["loss"][first].mean()  # training took place


def test_runs_and_steps_are_listed_in_order():
    store = CheckpointStore(finished_harvest())
    assert [r.run for r in store.runs] == list(range(40))
    assert store.step.tolist() == checkpoint_steps(12, 5, "mixed") * 40


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_networks(tmp_path):
    harvest(SMALL, tmp_path / "again")
    assert file_hashes(tmp_path / "again") == file_hashes(finished_harvest())
    harvest(replace(SMALL, seed=1), tmp_path / "other")
    rows = torch.arange(200).numpy()
    ours, others = (CheckpointStore(f).params(rows) for f in (finished_harvest(), tmp_path / "other"))
    assert ((ours - others).abs().amax(dim=1) > 0.01).all()
    starts = ours[::5]
    assert len(torch.unique(starts, dim=0)) == 40  # nor do the shards of one harvest share networks


@pytest.mark.parametrize("network_steps", [1, SHARD // 2, SHARD, SHARD + 1, 2 * SHARD + 60])
def test_an_interrupted_harvest_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path, network_steps):
    with pytest.raises(Interrupted):
        harvest(SMALL, tmp_path, progress=interrupt_after(network_steps))
    with pytest.raises(StoreError, match=r"shard-0000\d\.json is missing.*run the same gpt-harvest command again"):
        CheckpointStore(tmp_path)
    (tmp_path / "shard-00001.arrow.4194305.tmp").write_text("partial")
    counted = []
    harvest(SMALL, tmp_path, progress=counted.append)
    assert sum(counted) == 40 * 12
    assert file_hashes(tmp_path) == file_hashes(finished_harvest())


def test_finished_shards_are_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr("checkpoints_dataset.harvest.train_population", lambda *_: pytest.fail("trained again"))
    assert harvest(SMALL, copied_harvest(tmp_path)) == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rule": NesterovRule(learning_rate=0.2)}, "source.rule.learning_rate = 0.1, now it is 0.2"),
        (
            {"rule": NesterovRule(learning_rate_range=(0.1, 0.2))},
            r"source.rule.learning_rate_range = None, now it is \[0.1, 0.2\]",
        ),
        ({"num_runs": 41}, "source.num_runs = 40, now it is 41"),
        ({"num_runs": 400}, "source.num_runs = 40, now it is 400"),
        ({"runs_per_shard": 20}, "source.runs_per_shard = 15, now it is 20"),
        ({"dtype": "float32"}, "dtype = 'float16', now it is 'float32'"),
        ({"rule": AdamRule()}, "source.rule.name = 'nesterov', now it is 'adam'"),
    ],
)
def test_continuing_with_other_settings_is_refused_by_name(tmp_path, change, named):
    dataset = copied_harvest(tmp_path)
    before = file_hashes(dataset)
    with pytest.raises(StoreError, match=named):
        harvest(replace(SMALL, **change), dataset)
    assert file_hashes(dataset) == before


@pytest.mark.parametrize("change", [{"batch_size": 1198}, {"task": "nothing"}])
def test_settings_that_cannot_be_harvested_leave_no_folder_behind(tmp_path, change):
    with pytest.raises(ValueError, match=str(*change.values())):
        harvest(replace(SMALL, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_keeps_finished_shards_and_the_harvest_continues(tmp_path, monkeypatch):
    save_file = tensor_files.save_file

    def save_until_full(tensors, path, metadata):
        save_file(tensors, path, metadata)
        if "shard-00001" in str(path):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "save_file", save_until_full)
        with pytest.raises(OSError, match="No space left"):
            harvest(SMALL, tmp_path)
    finished = file_hashes(finished_harvest())
    kept = ["dataset.json", *(f"shard-00000.{suffix}" for suffix in ("arrow", "json", "safetensors"))]
    assert file_hashes(tmp_path) == {name: finished[name] for name in kept}
    harvest(SMALL, tmp_path)
    assert file_hashes(tmp_path) == finished


def test_exploded_runs_are_left_out_and_counted(tmp_path):
    largest = {}
    harvest(replace(SMALL, max_abs_param=1e4), tmp_path / "all")
    everything = CheckpointStore(tmp_path / "all")
    for record in everything.runs:
        rows = torch.arange(record.first_row, record.first_row + record.num_checkpoints).numpy()
        largest[record.run] = everything.params(rows).abs().max().item()
    bound = sorted(largest.values())[25]
    left_out = harvest(replace(SMALL, max_abs_param=bound), tmp_path / "some")
    store = CheckpointStore(tmp_path / "some")
    assert set(left_out) == set(store.left_out) == {run for run, value in largest.items() if value > bound}
    assert 5 < len(left_out) < 20
    assert [r.run for r in store.runs] == [run for run in range(40) if run not in left_out]
    for record in store.runs:  # the right rows are kept, under the right number
        ours = store.params(torch.tensor([record.first_row + 4]).numpy())
        assert torch.equal(ours, everything.params(torch.tensor([record.run * 5 + 4]).numpy()))


def test_a_shard_of_which_nothing_is_left(tmp_path, monkeypatch):
    harvest(replace(SMALL, rule=NesterovRule(learning_rate=1e3)), tmp_path / "none")
    store = CheckpointStore(tmp_path / "none")
    assert (len(store), store.runs, sorted(store.left_out)) == (0, [], list(range(40)))
    assert store.params(torch.tensor([]).numpy()).shape == (0, 1210)
    # a dataset whose middle shard is empty
    monkeypatch.setattr(
        "checkpoints_dataset.harvest.rejection", lambda params, limit, seen=[]: seen.append(0) or middle(len(seen))
    )
    assert sorted(harvest(SMALL, tmp_path / "middle")) == list(range(15, 30))
    store = CheckpointStore(tmp_path / "middle")
    assert [r.run for r in store.runs] == [*range(15), *range(30, 40)]
    assert store.params(torch.tensor([124, 75, 74]).numpy()).shape == (3, 1210)


def middle(num_seen: int) -> str | None:
    return "exploded" if 15 < num_seen <= 30 else None


def test_rejection_names_the_reason():
    checkpoints = torch.ones(3, 4)
    assert rejection(checkpoints, 1.0) is None
    assert rejection(checkpoints * 2.5, 2.0) == "largest |parameter| 2.5 above 2"
    for value in (float("nan"), float("inf"), float("-inf")):
        checkpoints[1, 2] = value
        assert rejection(checkpoints, 1e9) == "non-finite parameters"


def test_bf16_products_train_nearly_the_same_networks():
    exact, rough = (
        trained(get_task("digits"), replace(SMALL, mixed_precision=precision), 4).metrics
        for precision in ("no", "bf16")
    )
    assert not torch.equal(rough["loss"], exact["loss"])
    torch.testing.assert_close(rough["loss"], exact["loss"], rtol=0.05, atol=0)


def trained(task: TrainableTask, config: HarvestConfig, num_runs: int) -> TrainedPopulation:
    """First and last checkpoint of some runs."""
    generators = keyed_generator(0), keyed_generator(1)
    return train_population(task, config, [0, config.num_steps], num_runs, *generators)


class Sum(nn.Module):
    """Weights that are a sum: autograd gives both parts one and the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 10, bias=False), nn.Linear(64, 10, bias=False)

    def forward(self, x):
        return x @ (self.first.weight + self.second.weight).T


class SumTask(Digits):
    def network(self):
        return Sum()

    def init(self, num_networks, generator):
        return 0.1 * torch.randn(num_networks, self.layout.num_params, generator=generator)

    def forward(self, tensors, inputs):
        weights = tensors["first.weight"] + tensors["second.weight"]  # (B, 10, 64)
        return weights @ inputs.T


def test_gradients_that_are_one_and_the_same_memory_are_not_written_into_twice():
    task, config = SumTask(), replace(SMALL, rule=AdamRule(Adam(weight_decay=0.5), learning_rate=0.01))
    params = trained(task, config, 1).params
    module, generator = Sum(), keyed_generator(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01, weight_decay=0.5)
    module.load_state_dict(task.layout.unflatten(task.init(1, generator)[0]))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    train = task.splits["train"]
    for _, batch in zip(range(config.num_steps), mini_batches(len(train), config.batch_size, generator), strict=False):
        optimizer.zero_grad()
        F.cross_entropy(module(train.inputs[batch]), train.labels[batch]).backward()
        optimizer.step()
        scheduler.step()
    expected = task.layout.flatten(module.state_dict())
    torch.testing.assert_close(params[0, 1].float(), expected, rtol=2e-3, atol=2e-4)  # float16 on disk


def test_a_parameter_without_a_part_in_the_loss_is_named():
    class Spare(SumTask):
        def forward(self, tensors, inputs):
            return tensors["first.weight"] @ inputs.T

    with pytest.raises(ValueError, match=r"'second.weight' of task 'digits' has no part in the training loss"):
        trained(Spare(), SMALL, 1)
