"""gpt-train: harvest the checkpoints of a G.pt where they are missing, learn them, save a pipeline.

Examples:
    gpt-train --preset digits
    gpt-train --preset digits --optimizer.num-steps 500 --output runs/short
    gpt-train --preset digits --resume

On many devices: accelerate launch -m g_pt.commands.train --preset digits; in a clone train/train_g_pt.py is the same.
With alignment.num-steps the trained pipeline is kept in <output>/base, and a second stage makes it hit its prompts.
--preset NAME takes settings that come with g-pt, --config FILE.yaml your own; every value of them is a flag.
"""

from __future__ import annotations

import dataclasses
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints_dataset.config import HarvestConfig, dotted
from g_pt.command_line.output import check_fits, check_writable, json_line
from g_pt.command_line.parsing import named_settings, parse
from g_pt.command_line.terminal import exit_on_error, is_first_process, quiet_unless_first, show_warnings
from g_pt.commands.harvest import task_defaults
from g_pt.files.schema import read_value
from g_pt.runtime.processes import let_waiting_threads_sleep
from g_pt.tasks.data_folders import use_data_dir
from g_pt.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from checkpoints_dataset.pair_sampler import PairSampler
    from checkpoints_dataset.store import CheckpointStore
    from g_pt.tasks.base import Split
    from g_pt.tasks.family import TaskFamily

# bytes, float32: a weight with its gradient, AdamW's two moments and the average; of the parameters of a pair the start
# and the future, raw and normalised, noise and the prediction
TRAINED, BATCH = 5 * 4, 6 * 4
PAIR_SPLITS: tuple[Split, Split] = ("train", "validation")


@dataclass(frozen=True)
class Program(TrainConfig):
    """All settings of this program."""

    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    """How the dataset is made where it does not exist; its task is that of the training."""
    resume: bool = False
    """Continue from the newest checkpoint in the output folder."""
    data_dir: Path | None = None
    """Folder in which image sets are looked for first."""
    json: bool = False
    """Print one JSON object about the pipeline on standard output, everything else on standard error."""


def main(arguments: list[str] | None = None, *, prog: str = "gpt-train") -> None:
    """Entry point of the command; `prog` is the name under which it speaks."""
    let_waiting_threads_sleep()
    with exit_on_error(prog):
        with quiet_unless_first():
            program = parse_command(arguments, prog)
        show_warnings(prog)
        use_data_dir(program.data_dir)
        named = named_settings(arguments)
        with redirect_stdout(sys.stderr if program.json else sys.stdout):
            made = run(program, prog, wants_other_data="harvest" in named or "dataset" not in named)
        if program.json and is_first_process():
            print(json_line(made))


def parse_command(arguments: list[str] | None, prog: str = "gpt-train") -> Program:
    """Settings of a training."""
    return parse(
        Program,
        arguments,
        prog=prog,
        description=__doc__,
        presets=presets_folder(),
        task_defaults=lambda task: {"harvest": task_defaults(task)},
    )


def presets_folder() -> Path:
    """Folder of the presets: in the installed package, or in train/ of a clone."""
    package = Path(__file__).parents[1]
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "train" / "presets"


def run(program: Program, prog: str, *, wants_other_data: bool = True) -> dict[str, Any]:
    """Harvest where needed, then train; returns what `--json` prints.

    Args:
        program: all settings.
        prog: under which warnings speak.
        wants_other_data: whether to say so where a finished dataset was not made by these settings.
    """
    import torch

    from checkpoints_dataset.facts import fit_normalizer, training_facts
    from checkpoints_dataset.family_store import harvest_family, is_family_finished
    from checkpoints_dataset.harvest import describe_source, harvest_with_progress
    from checkpoints_dataset.store import CheckpointStore, is_finished
    from g_pt.runtime.processes import Team, leave_team
    from g_pt.tasks import get_family, get_task, is_family
    from g_pt.tasks.base import PopulationTask, TrainableTask
    from g_pt.training.accelerators import use_cpu_threads
    from g_pt.training.alignment import align, check_alignment
    from g_pt.training.checkpoints import begin, check_output, check_replaceable
    from g_pt.training.loop import fit, join_processes, stage_settings
    from g_pt.training.setup import process_share
    from g_pt.update_rules.registry import rule_name, single_rules

    for flag, folder in (("--output", program.output), ("--dataset", program.dataset)):
        check_writable(folder, flag)
    if program.pipeline is not None:
        check_writable(program.pipeline, "--pipeline")
        if program.pipeline.resolve() == program.output.resolve():
            raise ValueError(f"--pipeline must be another folder than --output, both are {program.output}")
    family = get_family(program.task) if is_family(program.task) else None
    task = get_task(program.task) if family is None else family.member(family.default)
    check_size(program, task.layout.num_params)
    check_output(program.output, resume=program.resume)
    check_replaceable(program.pipeline_folder)
    metric = task.metric(program.metric).name
    config = TrainConfig(**{f.name: getattr(program, f.name) for f in dataclasses.fields(TrainConfig)})
    first_stage = dataclasses.replace(config, pipeline=config.output / "base") if config.alignment.num_steps else config
    accelerator = join_processes(first_stage)
    team = Team(accelerator.process_index, accelerator.num_processes)
    process_share(config.pairs.batch_size, accelerator)  # refused before a long harvest, not after it
    if program.alignment.num_steps:
        check_alignment(program, task, accelerator)
    if accelerator.device.type == "cpu":
        use_cpu_threads(config.optimizer.cpu_threads, accelerator.device)
        accelerator.print(f"CPU threads of each process: {torch.get_num_threads()}")
    harvest = dataclasses.replace(program.harvest, task=program.task)
    finished = is_finished(program.dataset) if family is None else is_family_finished(program.dataset, harvest)
    if not team.from_first(finished):
        rules = {rule_name(rule) for rule in single_rules(harvest.rule)}
        if unknown := set(program.pairs.rules) - rules:
            raise ValueError(f"pairs.rules must be of the rules of the harvest, {sorted(rules)}, got {sorted(unknown)}")
        if team.is_first and not program.resume:  # a kill from here on is resumed
            begin(config.output, stage_settings(first_stage, "diffusion"))
        use_cpu_threads(config.optimizer.cpu_threads, torch.device("cpu"))
        (harvest_with_progress if family is None else harvest_family)(harvest, program.dataset, team)
    team.wait()
    if family is not None:
        made = train_family(program, first_stage, family, metric, accelerator)
        leave_team(team)
        return made
    whole = CheckpointStore(program.dataset)
    whole.check_task(task)
    store = whole.of_rules(program.pairs.rules)
    if wants_other_data and accelerator.is_main_process and isinstance(task, TrainableTask | PopulationTask):
        warn_of_other_data(whole.header.source, describe_source(harvest, task), program.dataset, prog=prog)
    pairs, held_out = (make_pairs(program, store, metric, split) for split in PAIR_SPLITS)
    accelerator.print(
        f"{program.dataset}: {len(store)} checkpoints of {len(store.runs)} runs; {pairs.num_runs} to learn from"
    )
    pipeline = fit(
        first_stage,
        task,
        pairs.batch,
        fit_normalizer(store, program.pairs.normalization, max_runs=program.pairs.max_runs, seed=program.seed),
        training_facts(store, task, metric, max_runs=program.pairs.max_runs),
        held_out=held_out.batch,
        accelerator=accelerator,
        resume=program.resume,
    )
    if config.alignment.num_steps:
        ends = (
            store.params(store.final_rows("train")[: program.pairs.max_runs]) if config.alignment.teacher_runs else None
        )
        align(config, task, pipeline, pairs.batch, held_out=held_out.batch, run_ends=ends, resume=program.resume)
    made = conclude(config, metric, pairs.num_runs, accelerator)
    leave_team(team)
    return made


def check_size(program: Program, num_params: int) -> None:
    """Refuse a training that cannot fit, whatever else takes memory, or whose model would be refused when it is loaded.

    Raises:
        ValueError: a size is beyond those of saved models; the blocks of the model, or a batch, exceed the memory.
    """
    from g_pt.model.model_configs import ENTRIES, Timesteps

    model = program.model
    for name, kind in ENTRIES["ParameterTransformer"].items():
        if hasattr(model, name):
            read_value(kind, getattr(model, name), f"model.{name}")
    read_value(Timesteps, program.diffusion.num_train_timesteps, "diffusion.num_train_timesteps")
    blocks = model.num_layers * (4 + 2 * model.mlp_ratio) * model.width**2
    check_fits(TRAINED * blocks, f"a model of {model.num_layers:,} layers of width {model.width:,}")
    pairs = program.pairs.batch_size
    check_fits(BATCH * pairs * num_params, f"a batch of {pairs:,} pairs")


def train_family(
    program: Program, first_stage: TrainConfig, family: TaskFamily, metric: str, accelerator: Accelerator
) -> dict[str, Any]:
    """Train one model for networks of many sizes, whose datasets are there; returns what `--json` prints."""
    from checkpoints_dataset.facts import family_facts, fit_family_normalizer
    from checkpoints_dataset.family_store import open_family
    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.training.alignment import align
    from g_pt.training.families import FamilyTraining
    from g_pt.training.loop import fit

    stores, options = open_family(program.dataset, family.name), program.pairs
    stores = {hidden: store.of_rules(options.rules) for hidden, store in stores.items()}
    drawn = [*program.family.width_range, *program.family.deep_width_range]
    width_range = (min(drawn), max(drawn)) if program.alignment.num_steps and program.family.unseen_share else None
    normalizer = fit_family_normalizer(stores, family, max_runs=options.max_runs, seed=program.seed)
    facts = family_facts(stores, family, metric, max_runs=options.max_runs, width_range=width_range)
    if program.family.start_from is not None:
        trained = ParameterUpdatePipeline.from_pretrained(program.family.start_from)
        normalizer.rescale(trained.normalizer.std[0].item())
    samplers = {hidden: make_pairs(program, store, metric, PAIR_SPLITS[0]) for hidden, store in stores.items()}
    pairs = {hidden: sampler.batch for hidden, sampler in samplers.items()}
    num_runs = sum(sampler.num_runs for sampler in samplers.values())
    accelerator.print(f"{program.dataset}: {len(stores)} sizes; {num_runs} runs to learn from")
    config = dataclasses.replace(first_stage, pipeline=program.pipeline)
    sizes = FamilyTraining(config, family, pairs, normalizer)
    held_out = None
    if family.default in stores:
        held_out = make_pairs(program, stores[family.default], metric, PAIR_SPLITS[1]).batch
    task, own = family.member(family.default), next(iter(pairs.values()))
    pipeline = fit(
        first_stage, task, own, normalizer, facts, held_out=held_out, sizes=sizes, accelerator=accelerator,
        resume=program.resume,
    )  # fmt: skip
    if program.alignment.num_steps:
        align(config, task, pipeline, own, held_out=held_out, sizes=sizes, resume=program.resume)
    return conclude(config, metric, num_runs, accelerator)


def conclude(config: TrainConfig, metric: str, num_runs: int, accelerator: Accelerator) -> dict[str, Any]:
    """Say how the trained model follows its prompts; returns what `--json` prints."""
    made = {"pipeline": str(config.pipeline_folder), "task": config.task, "metric": metric}
    if accelerator.is_main_process:
        made |= outcome(config, metric, num_runs)
        print(f"saved {config.pipeline_folder}")
    return made


def outcome(config: TrainConfig, metric: str, num_runs: int) -> dict[str, Any]:
    """What the last evaluation found."""
    from g_pt.training.outcome import last_evaluation, summarize

    aligned = config.alignment.num_steps > 0
    folder = config.output / "alignment" if aligned else config.output
    evaluation = last_evaluation(folder, "alignment" if aligned else "diffusion", config.progress.choose)
    if evaluation is None:
        return {}
    print(summarize(evaluation, metric, config.progress.num_networks, num_runs))
    return {"alignment": evaluation["alignment"]}


def make_pairs(program: Program, store: CheckpointStore, metric: str, split: Split) -> PairSampler:
    """Pairs of one split of the runs, as the settings want them."""
    from checkpoints_dataset.pair_sampler import PairSampler

    options = program.pairs
    return PairSampler(
        store,
        metric,
        split=split,
        batch_size=options.batch_size,
        seed=program.seed,
        init_share=options.init_share,
        max_runs=options.max_runs,
    )


def warn_of_other_data(source: dict[str, Any], harvest: dict[str, Any], dataset: Path, *, prog: str) -> None:
    """Say so where a finished dataset was not made by the settings of this run: it is used as it is."""
    ours = source.get("kind") == "harvest"  # then a setting that is not recorded was not set, or not there yet
    if ours:
        source = HarvestConfig().to_json(policies="ppo" in harvest) | HarvestConfig.current_settings(source)
    source, harvest = dotted(source), dotted(harvest)
    unset = {"kind"} if "runs_per_shard" in harvest else {"kind", "runs_per_shard"}
    settings = [key for key in {**harvest, **source} if key not in unset and (ours or key in harvest.keys() & source)]
    others = {key: (source.get(key), harvest.get(key)) for key in settings if source.get(key) != harvest.get(key)}
    for key, (made, asked) in others.items():
        print(f"{prog}: warning: {dataset} was made with {key} = {made!r}, not {asked!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
