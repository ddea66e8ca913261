"""Small networks of tokens and attention; zoo.py lists them with inputs and expected groups."""

import torch
import torch.nn.functional as F
from torch import nn


class TextClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.fc1 = nn.Linear(6, 7)
        self.fc2 = nn.Linear(7, 3)

    def forward(self, tokens):
        return F.log_softmax(self.fc2(F.relu(self.fc1(self.embedding(tokens).mean(dim=1)))), dim=-1)


class SelfAttention(nn.Module):
    """Queries, keys and values from one layer, three heads of two."""

    def __init__(self, width=6, heads=3):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(attended.transpose(1, 2).reshape(b, t, c))


class TinyGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.position = nn.Parameter(torch.zeros(5, 6))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(6), nn.LayerNorm(6), nn.LayerNorm(6)
        self.attention = SelfAttention()
        self.mlp = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.position[: tokens.shape[1]]
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x))


class WrittenOutAttention(nn.Module):
    """One head, with matrix products and a softmax."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.q, self.k, self.v = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 7)
        self.out = nn.Linear(7, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        weights = (self.q(x) @ self.k(x).transpose(1, 2) / 2.0).softmax(dim=-1)
        return self.head((x + self.out(weights @ self.v(x))).mean(dim=1))


class CrossAttention(nn.Module):
    """Learned queries, interchangeable, that read the input; `nn.MultiheadAttention` as it comes."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(4, 6))
        self.stem = nn.Linear(5, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        queries = self.queries.expand(len(x), -1, -1)
        return self.head(self.attention(queries, x, x, need_weights=False)[0].mean(dim=1))


class EncoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.layer = nn.TransformerEncoderLayer(6, 3, 10, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layer(self.stem(x))[:, 0])


class RotaryAttention(nn.Module):
    """Heads whose entries are rotated in pairs, so that only whole heads can move."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.head = nn.Linear(8, 3)
        self.register_buffer("angles", torch.arange(10.0).view(5, 2), persistent=False)

    def rotate(self, x):
        a, b = x[..., :2], x[..., 2:]
        cos, sin = self.angles.cos(), self.angles.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def forward(self, tokens):
        x = self.tokens(tokens)
        q, k, v = (layer(x).view(*tokens.shape, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
        return self.head((x + self.o(attended.transpose(1, 2).flatten(2))).mean(dim=1))


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 2, stride=2)
        self.first = nn.Parameter(torch.zeros(1, 1, 6))
        self.position = nn.Parameter(torch.zeros(1, 5, 6))
        self.layer = nn.TransformerEncoderLayer(6, 2, 7, batch_first=True, norm_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], dim=1) + self.position
        return self.head(self.layer(x)[:, 0])
