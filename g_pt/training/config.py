"""Settings of a training run. This file imports no torch, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from g_pt.files.config import check_at_least

StageName = Literal["diffusion", "alignment"]
LARGEST = 1e30
MOST_THREADS = 1024  # the library ends the process where it cannot make them
TRACKERS = ("tensorboard", "wandb", "trackio")


def check_numbers(config: Any, **lowest: float) -> None:
    """Refuse values below their lowest, and any that float32 has not."""
    for name, value in vars(config).items():
        if isinstance(value, float) and not abs(value) <= LARGEST:  # NaN is not
            raise ValueError(f"{name} must be a number of at most {LARGEST:g}, got {value}")
    check_at_least(config, **lowest)


@dataclass(frozen=True)
class ModelConfig:
    """Size of the transformer."""

    width: int = 128
    """Width of every token."""
    num_layers: int = 4
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads; divides the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLPs over the width."""
    num_frequencies: int = 32
    """Of the embedding of each scalar."""
    max_metric_frequency: float = 64.0
    """Highest frequency of the metrics' embeddings, per unit of the transformed metric."""
    tokenization: Literal["units", "slices", "chunks", "kinds"] = "units"
    """units and kinds are equivariant to reorderings of units, kinds shares its weights over layers and sizes, and is
    what families take; slices and chunks are there to compare with."""
    edge_width: int = 32
    """Numbers kept for each pair of units between two permutable layers."""
    chunk_size: int = 256
    """Most parameters of a token that is not a unit."""
    prediction_type: Literal["sample", "v_prediction", "flow_prediction"] = "sample"
    """Prediction of the transformer: the future parameters x_0, v (Salimans and Ho 2022), or, which makes the training
    flow matching instead of diffusion, the velocity noise - x_0 of straight paths (Lipman et al. 2023)."""

    def __post_init__(self) -> None:
        check_numbers(self, width=1, num_layers=1, num_heads=1, num_frequencies=1, edge_width=1, chunk_size=1)
        check_numbers(self, mlp_ratio=1 / self.width, max_metric_frequency=1)
        if self.width % self.num_heads:
            raise ValueError(f"num_heads must divide width, got {self.num_heads} and {self.width}")


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule and objective."""

    num_train_timesteps: int = 1000
    """Diffusion times."""
    beta_start: float = 1e-4
    """First beta of the linear schedule."""
    beta_end: float = 0.02
    """Last beta of the linear schedule."""
    weighting: Literal["uniform", "snr"] = "uniform"
    """Of the error over diffusion time; snr is min(SNR, 5)."""
    tensor_weighting: Literal["uniform", "tensor"] = "uniform"
    """Of the error over the parameters: all alike, or every tensor alike whatever its size."""
    behavioural_weight: float = 0.0
    """Weight of the squared difference between the outputs of predicted and true networks."""
    behavioural_examples: int = 64
    """Training examples on which outputs are compared, drawn anew every step."""
    num_inference_steps: int = 20
    """Default number of sampling steps of the trained pipeline."""

    def __post_init__(self) -> None:
        check_numbers(self, num_train_timesteps=1, num_inference_steps=1, behavioural_weight=0, behavioural_examples=1)
        if self.num_inference_steps > self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps must be at most num_train_timesteps = {self.num_train_timesteps}, "
                f"got {self.num_inference_steps}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"betas must rise within (0, 1), got {self.beta_start} to {self.beta_end}")


@dataclass(frozen=True)
class PairConfig:
    """Which pairs of checkpoints are learned from, and in which scale."""

    batch_size: int = 256
    """Pairs per step, over all processes."""
    init_share: float = 0.3
    """Probability that a pair starts at the first checkpoint of its run."""
    max_runs: int | None = None
    """Use only the first runs of the train split."""
    rules: tuple[str, ...] = ()
    """Use only runs of these update rules, by name, in every split; all where not given."""
    normalization: Literal["global", "tensor"] = "global"
    """One scale for all parameters, or mean and standard deviation of each tensor."""
    augmentation: Literal["none", "permute"] = "none"
    """permute: both networks of a pair in the same random order of units; equivariant tokens need none."""

    def __post_init__(self) -> None:
        check_numbers(self, batch_size=1, max_runs=1)
        if not 0 <= self.init_share <= 1:
            raise ValueError(f"init_share must lie between 0 and 1, got {self.init_share}")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine, gradient clipping, EMA."""

    num_steps: int = 20000
    """Optimizer steps."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    final_learning_rate: float = 0.02
    """Last learning rate over the peak."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices only."""
    beta2: float = 0.99
    """Second-moment decay of AdamW; the first is 0.9."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is saved and sampled."""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    """Precision of matrix products."""
    cpu_threads: int | None = None
    """Threads of each process on the CPU; OMP_NUM_THREADS where not given, else all cores over the host's processes."""
    compile: bool = False
    """Compile the model by torch.compile: a slow first step, then faster ones; see docs/training.md."""
    gradient_checkpointing: bool = False
    """Compute the activations of each layer anew in the backward pass: less memory, slower; see docs/training.md."""

    def __post_init__(self) -> None:
        check_numbers(
            self, num_steps=1, learning_rate=0, warmup_steps=0, weight_decay=0, cpu_threads=1,
            final_learning_rate=0, max_grad_norm=1e-30,
        )  # fmt: skip
        if self.cpu_threads is not None and self.cpu_threads > MOST_THREADS:
            raise ValueError(f"cpu_threads must be at most {MOST_THREADS}, got {self.cpu_threads}")
        for name in ("ema_decay", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True)
class AlignmentConfig:
    """The second stage: learn to hit the prompt, through the sampler and the metric of the training data."""

    num_steps: int = 0
    """Optimizer steps; 0 for no second stage."""
    batch_size: int = 64
    """Networks updated per step, over all processes."""
    num_examples: int = 512
    """Training examples, or episodes, on which the updated networks are measured."""
    gradient: Literal["auto", "exact", "evolution"] = "auto"
    """Of the metric: exact needs a differentiable one; auto takes exact where it can, else evolution strategies."""
    evolution_pairs: int = 8
    """Pairs of opposite perturbations of every updated network, where the gradient is estimated."""
    evolution_noise: float = 0.1
    """Standard deviation of the perturbations, in units of the normalised parameters."""
    checkpoint_share: float = 0.25
    """Share of the starts that are harvested checkpoints; the others are fresh inits."""
    recursive_share: float = 0.0
    """Share of the starts that are what the model itself made of them in 1, 2 or 4 updates at other prompts:
    without any, a model need not stand being given its own results."""
    max_sampling_steps: int = 6
    """Sampling steps are drawn anew for every batch, from 2 to this many."""
    gradient_steps: int = 2
    """Last sampling steps through which the gradient flows."""
    margin: float = 0.05
    """How far prompts go past the attainable range, on both sides, over its width in the transformed metric."""
    full_range_share: float = 0.1
    """Share of the prompts drawn from between the lowest and the highest metric of any checkpoint instead."""
    diffusion_weight: float = 0.1
    """Weight of the denoising loss, which keeps the samples near the runs."""
    num_inference_steps: int = 5
    """Default number of sampling steps of the aligned pipeline; few are enough, see docs/alignment.md."""
    teacher_runs: int = 0
    """Harvested runs whose length, and whose mean answer, make the loss that networks are taught by; 0 for the training
    loss as it is, and for no prompts beyond the runs."""
    teacher_weight: float = 0.0
    """Share of the runs' mean answer in what is to be answered; the labels have the rest."""
    teacher_noise: float = 0.3
    """Standard deviation of noise on the training inputs that runs and networks answer."""
    teacher_penalty: float = 0.05
    """Weight, in units of the loss, of a network's squared length over that of the runs."""
    teacher_examples: int = 16384
    """Noised training inputs, drawn and answered by the runs once."""
    teacher_share: float = 0.5
    """Share of the prompts drawn from below the runs' mean best metric."""
    teacher_reach: float = 0.2
    """How far below those are, over the width of the attainable range in the transformed metric."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    ema_decay: float = 0.99
    """Decay of the moving average of the weights."""

    def __post_init__(self) -> None:
        check_numbers(
            self, num_steps=0, batch_size=1, num_examples=1, max_sampling_steps=2,
            gradient_steps=1, margin=0, num_inference_steps=1, diffusion_weight=0, learning_rate=0, ema_decay=0,
            evolution_pairs=1, teacher_runs=0, teacher_noise=0, teacher_penalty=0, teacher_examples=1, teacher_reach=0,
        )  # fmt: skip
        for name in ("checkpoint_share", "full_range_share", "recursive_share", "teacher_weight", "teacher_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.ema_decay >= 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if not self.evolution_noise > 0:
            raise ValueError(f"evolution_noise must be positive, got {self.evolution_noise}")


@dataclass(frozen=True)
class FamilyConfig:
    """Sizes of the networks, where the task is a family such as digits[64-**-10]."""

    start_from: str | None = None
    """Begin with the weights of a trained model of one size: a folder or a bundled name."""
    layer_weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    """How often networks with one, two, three hidden layers are drawn, relative to each other; sizes of as many layers
    are drawn alike."""
    unseen_share: float = 0.5
    """Share of the steps of the last stage that take sizes which were not harvested."""
    width_range: tuple[int, int] = (6, 64)
    """Widths of these with one hidden layer, drawn log-uniformly."""
    deep_width_range: tuple[int, int] = (6, 32)
    """Widths of these with more layers, whose cost grows with the product of neighbours."""
    held_out: tuple[str, ...] = ()
    """Sizes that are never drawn, such as 20 and 24,12: kept for evaluations."""
    batch_cost: int = 40000
    """Batches of large networks are smaller: products of neighbouring widths plus eight times the widths add up to at
    most this many."""

    def __post_init__(self) -> None:
        check_numbers(self, batch_cost=1, unseen_share=0)
        if self.unseen_share > 1 or min(self.layer_weights, default=0) < 0 or not sum(self.layer_weights):
            raise ValueError("unseen_share must be at most 1, layer_weights not negative and some of them positive")
        for name in ("width_range", "deep_width_range"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be two widths from 1, the smaller first, got {low} and {high}")


@dataclass(frozen=True)
class ProgressConfig:
    """Evaluations and checkpoints during training."""

    evaluate_every: int = 1000
    """Steps between evaluations on held-out inits; 0 for none."""
    num_networks: int = 64
    """Held-out inits of an evaluation."""
    num_prompts: int = 5
    """Prompts of an evaluation, spaced over the attainable range."""
    save_every: int = 1000
    """Steps between checkpoints to resume from; 0 for none."""
    keep_checkpoints: int = 2
    """Older checkpoints are removed."""
    choose: Literal["last", "best"] = "last"
    """Weights of a stage that are kept: the last, or those of the best evaluation on held-out validation data."""
    patience: int = 0
    """End a stage after this many evaluations without a better one; 0 for never."""
    report_to: str = "none"
    """Trackers beside log.jsonl, separated by commas: tensorboard, wandb, trackio."""

    def __post_init__(self) -> None:
        check_numbers(
            self, evaluate_every=0, num_networks=1, num_prompts=2, save_every=0, keep_checkpoints=1, patience=0
        )
        for name, most in (("num_networks", 1_000_000), ("num_prompts", 10_000)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most:,}, got {getattr(self, name)}")
        if (self.patience or self.choose == "best") and not self.evaluate_every:
            raise ValueError("evaluate_every must be at least 1 to choose the best weights or to stop early, got 0")
        if unknown := [name for name in self.trackers if name not in TRACKERS]:
            raise ValueError(f"report_to must be none or of {', '.join(TRACKERS)}, got {', '.join(unknown)}")

    @property
    def trackers(self) -> tuple[str, ...]:
        """Names in `report_to`."""
        names = [name.strip() for name in self.report_to.split(",")]
        return tuple(name for name in names if name not in ("", "none"))


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    task: str = "digits"
    """Task whose networks are learned: a name, path/to/file.py:Class or package.module:Class."""
    metric: str = "loss"
    """Metric that is prompted."""
    seed: int = 0
    """Of the model, the pairs and the noise."""
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    family: FamilyConfig = field(default_factory=FamilyConfig)
    progress: ProgressConfig = field(default_factory=ProgressConfig)
    dataset: Path = Path("runs/digits/checkpoints")
    """Checkpoint dataset; harvested first where it does not exist or is unfinished."""
    output: Path = Path("runs/digits/loss")
    """Folder for the trained pipeline, the log, the curve and the checkpoints."""
    pipeline: Path | None = None
    """Folder of the trained pipeline; <output>/pipeline where not given."""

    @property
    def pipeline_folder(self) -> Path:
        """Where the trained pipeline is saved."""
        return self.pipeline or self.output / "pipeline"


@dataclass(frozen=True)
class StageConfig:
    """One stage of a training run."""

    name: StageName
    seed: int
    optimizer: OptimizerConfig
    progress: ProgressConfig
    output: Path
    """Folder of the log and the checkpoints."""
    pipeline_folder: Path
    """Where the trained pipeline is saved."""
    settings: dict[str, Any]
    """All that decides the stage, as JSON: a resumed run must have the same."""
