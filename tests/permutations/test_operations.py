"""Specs follow operations along axes that do not move, masks of attention, and networks with several inputs."""

import torch
import torch.nn.functional as F
from applied import Applied, set_entries, written
from torch import nn

from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec


def guarded(x):
    assert torch.isfinite(x).all(), "undefined"
    torch._assert((x.abs() < 1e9).all(), "too large")
    if torch.isnan(x).any() or torch.isinf(x).any().item():
        x = torch.nan_to_num(x)
    if (x.abs() > 1e9).any():
        raise ValueError("too large")
    return x


def in_bfloat16(x):
    with torch.autocast("cpu", torch.bfloat16):
        return torch.relu(x) * x


ROWS = torch.tensor([1, 0])
FOLLOWED = {
    "row of a slice": lambda x: written(x, lambda y: y[0].mul_(2.0)),
    "copy into a new tensor": lambda x: torch.zeros(2, 6).copy_(x),
    "masked fill": lambda x: written(x, lambda y: y.masked_fill_(y < 0, 0.5)),
    "mask of entries": lambda x: set_entries(x, x > 0, 0.0),
    "numbered rows": lambda x: set_entries(x, ROWS[:1], 1.0),
    "rows from elsewhere": lambda x: set_entries(x, ROWS, x.tanh()),
    "another shape in place": lambda x: written(x.clone(), lambda y: y.unsqueeze_(1)).squeeze(1),
    "einsum with ellipsis": lambda x: torch.einsum("...i,...i,...j->...j", x, x, x),
    "einsum without output": lambda x: x * torch.einsum("bi,bi", x, x),
    "einsum of a trace": lambda x: x * torch.einsum("ii->", x.T @ x),
    "gather of rows": lambda x: x.gather(0, ROWS[:, None].expand(2, 6)),
    "index_select": lambda x: x.index_select(0, ROWS),
    "take_along_dim": lambda x: torch.take_along_dim(x, ROWS[:, None], dim=0),
    "index_add": lambda x: torch.zeros(3, 6).index_add(0, ROWS, x)[:2],
    "index_add_": lambda x: torch.zeros(3, 6).index_add_(0, ROWS + 1, x)[:2],
    "scatter_add": lambda x: torch.zeros(3, 6).scatter_add(0, ROWS[:, None].expand(2, 6), x)[:2],
    "sort of rows": lambda x: x.sort(dim=0).values,
    "topk of rows": lambda x: x.topk(2, dim=0).values,
    "argsort of rows": lambda x: x * x.argsort(dim=0),
    "casts to float32": lambda x: x.float().to(torch.float32).type(torch.float32),
    "autocast": in_bfloat16,
    "enable_grad": lambda x: torch.enable_grad()(torch.relu)(x),
    "guards": guarded,
}


def test_operations_along_axes_that_do_not_move_keep_the_others_free(subtests):
    example = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    for name, function in FOLLOWED.items():
        with subtests.test(name):
            spec = PermutationSpec.from_module(Applied(function), example_input=example)
            assert spec.axes["fc1.weight"] == ("fc1.units", None)
            assert spec.axes["fc2.weight"] == (None, "fc1.units")


class Masked(nn.Module):
    """nn.MultiheadAttention of four units by two heads, with a mask."""

    def __init__(self, **masks):
        super().__init__()
        self.read, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.attention, self.masks = nn.MultiheadAttention(8, 2, batch_first=True), masks

    def forward(self, x):
        hidden = self.read(x)
        return self.head(self.attention(hidden, hidden, hidden, **self.masks)[0])


PADDING, CAUSAL = torch.tensor([[False] * 4 + [True]] * 2), torch.ones(5, 5, dtype=torch.bool).triu(1)
MASKS = {
    "padding": {"key_padding_mask": PADDING},
    "causal": {"attn_mask": CAUSAL},
    "both, without weights": {"key_padding_mask": PADDING, "attn_mask": CAUSAL, "need_weights": False},
    "floats": {"attn_mask": nn.Transformer.generate_square_subsequent_mask(5)},
}


def test_masks_of_attention_leave_its_heads_and_the_stream_free(subtests):
    for name, masks in MASKS.items():
        with subtests.test(name):
            network = Masked(**masks)
            spec = PermutationSpec.from_module(network, example_input=torch.randn(2, 5, 4))
            heads = {f"attention.units.{head}.head{kind}": 4 for head in (0, 1) for kind in (0, 1)}
            groups = {"read.units": 8, "attention.out_proj.units": 8, **heads}
            assert spec.group_sizes(ParameterLayout.from_module(network)) == groups


class Grouped(nn.Module):
    """Attention whose two heads of keys and values serve two heads of queries each."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(4, 8), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(2, (-1, 2)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


class Renormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 5, max_norm=1.0), nn.Linear(5, 2)

    def forward(self, tokens):
        return self.head(self.table(tokens).mean(1))


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, 2, batch_first=True, proj_size=3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Called(nn.Module):
    """Two layers with a hidden layer of five, called in a way of its own."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 5), nn.Linear(5, 2)

    def run(self, x, w):
        return self.fc2(self.fc1(x).relu()) * w


class OneDict(Called):
    def forward(self, batch):
        return self.run(batch["x"], batch["w"])


class Keywords(Called):
    def forward(self, x, *, w):
        return self.run(x, w)


class OneList(Called):
    def forward(self, tensors):
        return self.run(*tensors)


class TwoArguments(Called):
    def forward(self, x, w):
        return self.run(x, w)


X, W = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 1)
NETWORKS = {
    "grouped heads": (Grouped, torch.randn(2, 5, 4), {"q.units": 2}),
    "embedding_renorm_": (Renormed, torch.randint(0, 7, (2, 3)), {"table.units": 5}),
    "projected lstm": (
        Projected, torch.randn(2, 5, 4), {"lstm.units": 6, "lstm.units.1": 3, "lstm.units.2": 6, "lstm.units.3": 3}
    ),
    "a dict": (OneDict, {"x": X, "w": W}, {"fc1.units": 5}),
    "a dict in a tuple": (OneDict, ({"x": X, "w": W},), {"fc1.units": 5}),
    "keywords": (Keywords, {"x": X, "w": W}, {"fc1.units": 5}),
    "a list": (OneList, [X, W], {"fc1.units": 5}),
    "a list of arguments": (TwoArguments, [X, W], {"fc1.units": 5}),
    "a tuple of arguments": (TwoArguments, (X, W), {"fc1.units": 5}),
}  # fmt: skip


def test_networks_and_their_ways_of_being_called_are_followed(subtests):
    for name, (make, example, groups) in NETWORKS.items():
        with subtests.test(name):
            torch.manual_seed(0)
            network = make()
            spec = PermutationSpec.from_module(network, example_input=example)
            assert spec.group_sizes(ParameterLayout.from_module(network)) == groups
