import dataclasses
import re

import pytest

from g_pt.training.config import (
    AlignmentConfig,
    DiffusionConfig,
    ModelConfig,
    OptimizerConfig,
    PairConfig,
    ProgressConfig,
    TrainConfig,
)

SENSELESS = [
    (ModelConfig, "width", 0),
    (ModelConfig, "num_heads", 3),
    (DiffusionConfig, "num_inference_steps", 5000),
    (OptimizerConfig, "learning_rate", float("nan")),
    (DiffusionConfig, "num_inference_steps", 0),
    (PairConfig, "batch_size", -4),
    (PairConfig, "init_share", 7.0),
    (PairConfig, "max_runs", 0),
    (OptimizerConfig, "num_steps", 0),
    (OptimizerConfig, "learning_rate", -1.0),
    (OptimizerConfig, "ema_decay", 1.0),
    (AlignmentConfig, "num_steps", -1),
    (AlignmentConfig, "batch_size", 0),
    (AlignmentConfig, "max_sampling_steps", 1),
    (AlignmentConfig, "gradient_steps", 0),
    (AlignmentConfig, "checkpoint_share", 1.5),
    (AlignmentConfig, "ema_decay", 1.0),
    (AlignmentConfig, "diffusion_weight", float("nan")),
    (ProgressConfig, "num_prompts", 1),
    (ProgressConfig, "num_prompts", 10**9),
    (OptimizerConfig, "learning_rate", float("inf")),
    (OptimizerConfig, "weight_decay", 1e300),
    (OptimizerConfig, "max_grad_norm", -1.0),
    (OptimizerConfig, "beta2", 2.0),
    (OptimizerConfig, "cpu_threads", 10**9),
    (ModelConfig, "mlp_ratio", -4.0),
    (ModelConfig, "max_metric_frequency", float("inf")),
    (DiffusionConfig, "behavioural_weight", float("inf")),
    (AlignmentConfig, "margin", 1e300),
    (ProgressConfig, "keep_checkpoints", 0),
]


def test_a_setting_that_makes_no_sense_is_refused_by_name(subtests):
    for section, setting, value in SENSELESS:
        message = f"{setting} must .*, got {re.escape(str(value))}"
        with subtests.test(f"{setting} = {value}"), pytest.raises(ValueError, match=message):
            section(**{setting: value})


def test_every_setting_is_documented():
    import inspect

    factories = [field.default_factory for field in dataclasses.fields(TrainConfig)]
    sections = [factory for factory in factories if dataclasses.is_dataclass(factory)]
    assert AlignmentConfig in sections
    for section in (TrainConfig, *sections):
        source = inspect.getsource(section)
        for field in dataclasses.fields(section):
            if field.default_factory not in sections:  # whose docstring is that of their class
                after = source.partition(f"    {field.name}: ")[2].splitlines()[1]
                assert after.strip().startswith('"""'), f"{section.__name__}.{field.name} has no docstring"
