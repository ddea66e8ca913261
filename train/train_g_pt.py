"""Train a G.pt, launched from a clone: the same program as gpt-train.

    accelerate launch train/train_g_pt.py --preset digits
    accelerate launch train/train_g_pt.py --preset digits --resume

`--help` says the rest.
"""

from __future__ import annotations

from g_pt.commands import train


def main(arguments: list[str] | None = None) -> None:
    """Parse, harvest, train."""
    train.main(arguments, prog="train_g_pt.py")


if __name__ == "__main__":
    main()
