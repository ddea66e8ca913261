"""Small networks of many architectures, each with an input and the groups that its units form.

`ZOO[name]` is `(make, example_input)`, with a batch of two; `GROUPS[name]` are the group sizes, found by hand.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from zoo_attention import (
    CrossAttention,
    EncoderLayer,
    RotaryAttention,
    TextClassifier,
    TinyGPT,
    VisionTransformer,
    WrittenOutAttention,
)
from zoo_networks import (
    Actor,
    ActorCritic,
    Autoencoder2d,
    ChannelsLast,
    DenseNet,
    Functional,
    Gated,
    LastState,
    Mixture,
    PaddedShortcut,
    Recurrent,
    Recycled,
    ResidualMLP,
    ResNet,
    SqueezeExcite,
    TiedAutoencoder,
)

from g_pt.tasks.mlp import mlp


def paper_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def random(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def tokens(*shape: int) -> Tensor:
    return torch.randint(11, (2, *shape), generator=torch.Generator().manual_seed(0))


def conv(fan_in: int, width: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(fan_in, width, 3, padding=1, **options)


ZOO: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (lambda: mlp((5, 8, 3)), random(5)),
    "deep mlp": (lambda: mlp((4, 7, 7, 9, 2)), random(4)),
    "linear": (lambda: nn.Linear(4, 3), random(4)),
    "paper cnn": (paper_cnn, random(3, 9, 9)),
    "flatten": (
        lambda: nn.Sequential(
            conv(1, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)
        ),
        random(1, 6, 6),
    ),
    "batch norm": (
        lambda: nn.Sequential(
            conv(3, 4, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            conv(4, 5),
            nn.BatchNorm2d(5),
            nn.Dropout2d(),
            nn.Flatten(),
            nn.Linear(80, 6),
            nn.BatchNorm1d(6),
            nn.ELU(),
            nn.Linear(6, 2),
        ),
        random(3, 4, 4),
    ),
    "residual mlp": (ResidualMLP, random(5)),
    "resnet": (ResNet, random(3, 6, 6)),
    "padded shortcut": (PaddedShortcut, random(3, 6, 6)),
    "densenet": (DenseNet, random(1, 8, 8)),
    "depthwise separable": (
        lambda: nn.Sequential(
            conv(3, 6),
            nn.BatchNorm2d(6),
            nn.ReLU6(),
            conv(6, 12, groups=6),
            nn.Hardswish(),
            nn.Conv2d(12, 5, 1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(5, 2),
        ),
        random(3, 4, 4),
    ),
    "grouped conv": (
        lambda: nn.Sequential(
            conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), nn.ReLU(), conv(12, 4), nn.Flatten(), nn.Linear(64, 2)
        ),
        random(3, 4, 4),
    ),
    "group norm": (
        lambda: nn.Sequential(
            conv(3, 8), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 6), nn.GroupNorm(1, 6), nn.Flatten(), nn.Linear(96, 2)
        ),
        random(3, 4, 4),
    ),
    "instance norm": (
        lambda: nn.Sequential(conv(3, 4), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), conv(4, 2)),
        random(3, 4, 4),
    ),
    "layer norm": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 6), nn.RMSNorm(6), nn.Linear(6, 3)
        ),
        random(5),
    ),
    "tied autoencoder": (TiedAutoencoder, random(6)),
    "text classifier": (TextClassifier, tokens(5)),
    "encoder layer": (EncoderLayer, random(4, 5)),
    "tiny gpt": (TinyGPT, tokens(5)),
    "written-out attention": (WrittenOutAttention, random(4, 5)),
    "cross attention": (CrossAttention, random(3, 5)),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 6, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 4, 2), nn.Flatten(), nn.Linear(8, 3)
        ),
        random(2, 8),
    ),
    "prelu": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.PReLU(8), nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 3)),
        random(5),
    ),
    "actor": (Actor, random(4)),
    "actor critic": (ActorCritic, random(4)),
    "functional": (Functional, random(3, 5, 5)),
    "gated": (Gated, random(5)),
    "channels last": (ChannelsLast, random(1, 4, 4)),
    "recycled": (Recycled, random(5)),
    "autoencoder": (Autoencoder2d, random(1, 6, 6)),
    "lstm": (lambda: Recurrent(nn.LSTM), random(3, 4)),
    "bidirectional gru": (lambda: Recurrent(nn.GRU, bidirectional=True), random(3, 4)),
    "last state": (LastState, random(3, 4)),
    "rotary attention": (RotaryAttention, tokens(5)),
    "vision transformer": (VisionTransformer, random(1, 4, 4)),
    "squeeze and excite": (SqueezeExcite, random(1, 4, 4)),
    "mixture": (Mixture, random(4)),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.GLU(), nn.Linear(3, 2)),
        random(4),
    ),
}


def heads(label: str, num: int, entries: int) -> dict[str, int]:
    """Groups of the entries of each head: of queries and keys, and of values."""
    return {f"{label}.{kind}.head{head}": entries for kind in range(2) for head in range(num)}


GROUPS: dict[str, dict[str, int]] = {
    "mlp": {"fc1.units": 8},
    "deep mlp": {"fc1.units": 7, "fc2.units": 7, "fc3.units": 9},
    "linear": {},
    "paper cnn": {"0.units": 16, "2.units": 32},
    "flatten": {"0.units": 4, "3.units": 6},
    "batch norm": {"0.units": 4, "3.units": 5, "7.units": 6},
    "residual mlp": {"stem.units": 8, "blocks.0.0.units": 6, "blocks.1.0.units": 7},
    "resnet": {"conv.units": 4, "layer1.conv1.units": 4, "layer2.conv1.units": 6, "layer2.conv2.units": 6},
    "padded shortcut": {"conv1.units": 4, "conv2.units": 2, "conv2.units.1": 2},
    "densenet": {"stem.units": 4, "grow1.units": 3, "grow2.units": 5},
    "depthwise separable": {"0.units": 6, "5.units": 5},
    "grouped conv": {"0.units": 4, "4.units": 4},
    "group norm": {"0.units": 4, "3.units": 6},
    "instance norm": {"0.units": 4},
    "layer norm": {"0.units": 8, "3.units": 6},
    "tied autoencoder": {"encoder.units": 4},
    "text classifier": {"embedding.units": 6, "fc1.units": 7},
    "encoder layer": {"stem.units": 6, "layer.linear1.units": 10} | heads("layer.self_attn.units", 3, 2),
    "tiny gpt": {"tokens.units": 6, "mlp.0.units": 10} | heads("attention.qkv.units", 3, 2),
    "written-out attention": {"stem.units": 6, "q.units": 4, "v.units": 7},
    "cross attention": {
        "queries.units": 4, "stem.units": 6, "attention.out_proj.units": 6, **heads("attention.units", 2, 3),
    },
    "conv1d": {"0.units": 6, "3.units": 4},
    "prelu": {"0.units": 8, "2.units": 6},
    "actor": {"fc1.units": 7},
    "actor critic": {"trunk.units": 7, "critic.0.units": 5},
    "functional": {"conv.units": 6},
    "gated": {"both.units": 7, "left.units": 6},
    "channels last": {"conv.units": 5, "fc.units": 3, "fc.units.1": 5},
    "recycled": {"stem.units": 6},
    "autoencoder": {"down.units": 6, "up.units": 2},
    "lstm": {"memory.units": 5, "memory.units.1": 5},
    "bidirectional gru": {"memory.units": 5, "memory.units.1": 5, "memory.units.2": 5, "memory.units.3": 5},
    "last state": {"lstm.units": 5, "cell.units": 6},
    "rotary attention": {"tokens.units": 8, "q.units": 2},
    "vision transformer": {"patches.units": 6, "layer.linear1.units": 7} | heads("layer.self_attn.units", 2, 3),
    "squeeze and excite": {"conv.units": 6, "down.units": 2, "wide.units": 2},
    "mixture": {"gate.units": 3, "up.units": 6},
    "weight norm": {"0.units": 3},
}  # fmt: skip
