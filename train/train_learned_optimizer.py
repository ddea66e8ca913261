"""Train an optimizer, launched from a clone.

    python train/train_learned_optimizer.py --preset star-digits
    python train/train_learned_optimizer.py --preset star-digits --resume

Networks are trained by many slightly different optimizers at once, and what serves them is followed. The weights are
in <output>/optimizer.safetensors: gpt-harvest --rule star --rule.optimizer.weights FILE takes them.
--preset NAME takes settings that come with g-pt, --config FILE.yaml your own; every value of them is a flag.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from g_pt.command_line.output import check_writable
from g_pt.command_line.parsing import parse
from g_pt.command_line.terminal import exit_on_error, show_warnings
from g_pt.runtime.processes import let_waiting_threads_sleep
from g_pt.training.meta_config import MetaConfig

PROG, PRESETS = "train_learned_optimizer.py", Path(__file__).parent / "optimizer_presets"


@dataclass(frozen=True)
class Program(MetaConfig):
    """All settings of this program."""

    resume: bool = False
    """Continue from the newest checkpoint in the output folder."""


def main(arguments: list[str] | None = None) -> None:
    """Parse, train."""
    let_waiting_threads_sleep()
    with exit_on_error(PROG):
        program = parse_command(arguments)
        show_warnings(PROG)
        from g_pt.training.meta_training import meta_train

        check_writable(program.output, "--output")
        config = MetaConfig(**{field.name: getattr(program, field.name) for field in fields(MetaConfig)})
        print(f"saved {meta_train(config, resume=program.resume)}")


def parse_command(arguments: list[str] | None) -> Program:
    """Settings of a meta-training."""
    return parse(Program, arguments, prog=PROG, description=__doc__, presets=PRESETS)


if __name__ == "__main__":
    main()
