"""A minimal G.pt from top to bottom: nothing of the library, one file, less than a minute of one CPU thread.

    python docs/minimal_g_pt.py

1. harvest: train 500 small networks on scikit-learn's digits and keep their checkpoints with their losses
2. learn: a conditional denoising transformer from (checkpoint, its loss, a later loss) to the later checkpoint
3. sample: one update for each of 128 networks it has never seen, towards a prompted loss; measure on the test split

R = runs, C = checkpoints of a run, B = networks of a batch, N = examples
I = 64 pixels, H = 16 hidden units, O = 10 classes, F = I + 1 + O numbers of a hidden unit
A network is a set of hidden units, (H, F): incoming weights, bias, outgoing weights. The output layer has no bias.
"""

import argparse
import itertools
import math

import torch
import torch.nn.functional as func
from sklearn.datasets import load_digits
from torch import Tensor, nn

I, H, O = 64, 16, 10
F = I + 1 + O
RUNS, STEPS, SAVE_EVERY = 500, 300, 20
WIDTH, LAYERS, HEADS, FREQUENCIES = 64, 3, 4, 32
ITERATIONS, BATCH, LEARNING_RATE, EMA = 800, 64, 5e-3, 0.98
SAMPLING_STEPS = 8
Examples = tuple[Tensor, Tensor]  # inputs (N, I), labels (N,)


# 1. Harvest: all networks are one stacked tensor, (R, H, F)
def load_splits() -> dict[str, Examples]:
    """Train, validation and test examples, standardised by the train split."""
    inputs, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(inputs))
    inputs, labels = inputs[order].float(), labels[order].long()
    inputs = (inputs - inputs[:1200].mean()) / inputs[:1200].std()
    parts = {"train": slice(1200), "validation": slice(1200, 1500), "test": slice(1500, None)}
    return {name: (inputs[part], labels[part]) for name, part in parts.items()}


def init(num: int) -> Tensor:
    """Fresh networks, (num, H, F)."""
    return torch.cat([torch.randn(num, H, I + 1) / math.sqrt(I), torch.randn(num, H, O) / math.sqrt(H)], dim=-1)


def logits(params: Tensor, inputs: Tensor) -> Tensor:
    """Outputs of all networks for all inputs, (B, O, N)."""
    hidden = (params[..., :I] @ inputs.T + params[..., I : I + 1]).relu()
    return params[..., I + 1 :].transpose(1, 2) @ hidden


def losses(params: Tensor, examples: Examples) -> Tensor:
    """Cross-entropy of each network, (B,)."""
    inputs, labels = examples
    return func.cross_entropy(logits(params, inputs), labels.expand(len(params), -1), reduction="none").mean(dim=1)


def accuracies(params: Tensor, examples: Examples) -> Tensor:
    """Share of right answers of each network, (B,)."""
    return (logits(params, examples[0]).argmax(dim=1) == examples[1]).float().mean(dim=1)


def harvest(splits: dict[str, Examples]) -> tuple[Tensor, Tensor]:
    """Train RUNS networks by SGD; checkpoints (R, C, H, F) and their validation losses (R, C)."""
    inputs, labels = splits["train"]
    params = init(RUNS).requires_grad_()
    optimizer = torch.optim.SGD([params], lr=0.1)
    checkpoints, metrics = [], []
    for step in range(STEPS + 1):
        if step % SAVE_EVERY == 0:
            checkpoints.append(params.detach().clone())
            metrics.append(losses(checkpoints[-1], splits["validation"]))
        batch = torch.randint(len(inputs), (64,))
        optimizer.zero_grad()
        losses(params, (inputs[batch], labels[batch])).sum().backward()  # the gradient of a sum: each network its own
        optimizer.step()
    return torch.stack(checkpoints, dim=1), torch.stack(metrics, dim=1)


# 2. The model predicts x_0, the later checkpoint; x_t is its noised version, x_start the earlier checkpoint
def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine schedule, t in [0, 1]: x_t = alpha x_0 + sigma noise; both (B, 1, 1)."""
    angle = t[:, None, None] * math.pi / 2
    return angle.cos(), angle.sin()


class GPT(nn.Module):
    """A token for each hidden unit and none has a position: the order of the units cannot matter."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * FREQUENCIES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(3)
        )
        self.encoder = nn.Linear(2 * F, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.decoder = nn.Linear(WIDTH, F)
        nn.init.zeros_(self.decoder.weight)  # with the residual below, the untrained model changes nothing
        nn.init.zeros_(self.decoder.bias)

    def forward(self, x_t: Tensor, t: Tensor, x_start: Tensor, starting: Tensor, prompted: Tensor) -> Tensor:
        """Prediction of x_0, (B, H, F); losses are embedded by their logarithm."""
        told = zip(self.scalars, (10 * t, starting.log(), prompted.log()), strict=True)
        scalars = torch.stack([embed(sinusoids(value)) for embed, value in told], dim=1)
        units = self.encoder(torch.cat([x_t, x_start], dim=-1))
        tokens = self.blocks(torch.cat([scalars, units], dim=1))
        return x_start + self.decoder(tokens[:, 3:])


def sinusoids(value: Tensor) -> Tensor:
    """Sines and cosines of a scalar, (B,) to (B, 2 FREQUENCIES)."""
    angles = value[:, None] * torch.logspace(-1, 1.5, FREQUENCIES)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def learn(checkpoints: Tensor, metrics: Tensor) -> nn.Module:
    """Train on pairs of one run, normalised checkpoints (R, C, H, F); returns the moving average of the weights."""
    model = GPT()
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, ITERATIONS, pct_start=0.05)
    num_checkpoints = metrics.shape[1]
    for iteration in range(ITERATIONS):
        run, start = torch.randint(RUNS, (BATCH,)), torch.randint(num_checkpoints, (BATCH,))
        start[torch.rand(BATCH) < 0.7] = 0  # sampling will begin at inits
        future = (start + torch.rand(BATCH) * (num_checkpoints - start)).long()
        x_0, x_start, t = checkpoints[run, future], checkpoints[run, start], torch.rand(BATCH)
        alpha, sigma = alpha_sigma(t)
        x_t = alpha * x_0 + sigma * torch.randn_like(x_0)
        loss = (model(x_t, t, x_start, metrics[run, start], metrics[run, future]) - x_0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update_parameters(model)
        if iteration % 100 == 99:
            print(f"iteration {iteration + 1}: denoising loss {loss.item():.4f}", flush=True)
    return ema


# 3. One update: DDIM from noise, told the start, its loss and the prompt
@torch.no_grad()
def sample(model: nn.Module, x_start: Tensor, starting: Tensor, prompted: Tensor) -> Tensor:
    """Normalised networks after one update, (B, H, F)."""
    x_t = torch.randn_like(x_start)
    times = torch.linspace(1, 0, SAMPLING_STEPS + 1).unsqueeze(1).expand(-1, len(x_start))
    for t, t_next in itertools.pairwise(times):
        (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(t), alpha_sigma(t_next)
        x_0 = model(x_t, t, x_start, starting, prompted)
        x_t = alpha_next * x_0 + sigma_next * (x_t - alpha * x_0) / sigma
    return x_t


def measure(params: Tensor, splits: dict[str, Examples]) -> dict[str, float]:
    """Means over networks: the loss that prompts speak of, and test figures, which nothing above has seen."""
    return {
        "validation loss": losses(params, splits["validation"]).mean().item(),
        "test loss": losses(params, splits["test"]).mean().item(),
        "test accuracy": accuracies(params, splits["test"]).mean().item(),
    }


def run(seed: int) -> dict[str, dict[str, float]]:
    """Do all three; figures of unseen networks before an update ("before"), and after one, by prompt ("0.50")."""
    torch.manual_seed(seed)
    splits = load_splits()
    checkpoints, metrics = harvest(splits)
    kinds = torch.tensor([I, 1, O])  # one scale each for incoming weights, biases, outgoing weights
    std = torch.stack([kind.std() for kind in checkpoints.split(kinds.tolist(), dim=-1)]).repeat_interleave(kinds)
    model = learn(checkpoints / std, metrics)
    starts = init(128)
    starting = losses(starts, splits["validation"])
    networks = {"runs' ends": checkpoints[:, -1], "before": starts}
    for prompt in (2.0, 1.6, 1.2, 0.8, 0.5, 0.3, 0.2):
        networks[f"{prompt:.2f}"] = std * sample(model, starts / std, starting, torch.full_like(starting, prompt))
    results = {name: measure(params, splits) for name, params in networks.items()}
    for name, figures in results.items():
        print(f"{name:>10}:", ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    return results


def main() -> None:
    """Run with the seed of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run(arguments.seed)


if __name__ == "__main__":
    main()
