"""Small networks with a forward of their own; zoo.py lists them with inputs and expected groups."""

import torch
import torch.nn.functional as F
from torch import nn


class ResidualMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 8)) for width in (6, 7)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class BasicBlock(nn.Module):
    def __init__(self, fan_in, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or fan_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(fan_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.layer1 = BasicBlock(4, 4, 1)
        self.layer2 = BasicBlock(4, 6, 2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.layer2(self.layer1(F.relu(self.bn(self.conv(x)))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class PaddedShortcut(nn.Module):
    """ResNets of 2015 on CIFAR: the shortcut to more channels pads with zeros."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.head(x).amax(dim=(2, 3))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.grow1 = nn.Conv2d(4, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.grow2 = nn.Conv2d(7, 5, 3, padding=1)
        self.head = nn.Linear(12 * 4 * 4, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, F.relu(self.grow1(x))], dim=1)
        x = torch.cat([x, F.relu(self.grow2(self.norm(x)))], dim=1)
        return self.head(F.avg_pool2d(x, 2).flatten(1))


class TiedAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.shift = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.t(), self.shift)


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(2))
        self.fc1 = nn.Linear(4, 7)
        self.fc2 = nn.Linear(7, 2)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(x)))


class ActorCritic(nn.Module):
    """Two outputs from one trunk; the standard deviation is an output too."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 7)
        self.actor = nn.Linear(7, 2)
        self.critic = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 1))
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        x = torch.tanh(self.trunk(x))
        return self.actor(x), self.log_std.exp(), {"value": self.critic(x)}


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean(dim=(2, 3)))


class Gated(nn.Module):
    """SwiGLU with both halves from one layer, then a product of two layers."""

    def __init__(self):
        super().__init__()
        self.both = nn.Linear(5, 14)
        self.left, self.right = nn.Linear(7, 6), nn.Linear(7, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        value, gate = self.both(x).chunk(2, dim=-1)
        x = value * F.silu(gate)
        return self.out(self.left(x) * torch.sigmoid(self.right(x)))


class ChannelsLast(nn.Module):
    """Flattened with the channels innermost, and cut in two after that."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.fc = nn.Linear(20, 8)
        self.first, self.second = nn.Linear(3, 2), nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.fc(self.conv(x).permute(0, 2, 3, 1).reshape(len(x), -1)))
        first, second = x.split([3, 5], dim=1)
        return self.first(first) + self.second(second)


class Recycled(nn.Module):
    """One layer used twice: what goes in and what comes out are the same units."""

    def __init__(self):
        super().__init__()
        self.stem, self.step, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for _ in range(2):
            x = torch.relu(self.step(x))
        return self.head(x)


class Autoencoder2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1)
        self.grouped = nn.ConvTranspose2d(4, 8, 1, groups=2)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = F.interpolate(F.relu(self.up(F.relu(self.down(x)))), scale_factor=2, mode="bilinear")
        return self.out(self.grouped(x))


class Recurrent(nn.Module):
    """Two layers over a sequence, read at the last step."""

    def __init__(self, kind, **options):
        super().__init__()
        self.memory = kind(4, 5, num_layers=2, batch_first=True, **options)
        self.head = nn.LazyLinear(3)
        self(torch.zeros(1, 1, 4))

    def forward(self, x):
        return self.head(self.memory(x)[0][:, -1])


class LastState(nn.Module):
    """A classifier that reads the last state of an LSTM, and one of cells stepped by hand."""

    def __init__(self):
        super().__init__()
        self.lstm, self.cell, self.head = nn.LSTM(4, 5), nn.GRUCell(4, 6), nn.Linear(11, 3)

    def forward(self, x):
        state = x.new_zeros(x.shape[1], 6)
        for step in x:
            state = self.cell(step, state)
        return self.head(torch.cat([self.lstm(x)[1][0][-1], state], dim=1))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.shuffle, self.out = nn.PixelShuffle(2), nn.Conv2d(2, 1, 1)
        self.wide = nn.Conv2d(6, 8, 1)

    def forward(self, x):
        x = self.conv(x)
        x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.out(self.shuffle(self.wide(x)))


class Mixture(nn.Module):
    """Experts that can be reordered with their gates, and their units, all experts alike."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 6)), nn.Parameter(torch.randn(3, 6, 2))

    def forward(self, x):
        hidden = torch.einsum("bi,eij->bej", x, self.up).relu()
        return torch.einsum("bej,ejk,be->bk", hidden, self.down, self.gate(x).softmax(dim=-1))
