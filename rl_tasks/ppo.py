"""Proximal policy optimisation (Schulman et al. 2017) of many policies as one tensor program.

Policies never meet: what is random (starts, actions, mini-batches) is drawn once and used by all, as the mini-batches
of a supervised harvest are, so that a policy ends the same whichever others are trained beside it.

B = policies, T = steps of an iteration, E = environments of each policy, N = T * E, O = size of an observation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from g_pt.update_rules.first_order import Adam
from rl_tasks.distributions import ActionDistribution
from rl_tasks.environments import Environments
from rl_tasks.ppo_config import PPOConfig

Forward = Callable[[Mapping[str, Tensor], Tensor], Tensor]  # tensors of B networks, (B, N, O) to (B, N, outputs)
Tensors = dict[str, Tensor]


class RateFirstAdam(Adam):
    """Adam that rounds as it did when the bundled policies were trained, so that their runs can be made again."""

    def move(self, param: Tensor, mean: Tensor, denominator: Tensor, rate: float | Tensor) -> None:
        """See `Adam`."""
        param.sub_(rate * mean / denominator)


ADAM = RateFirstAdam(eps=1e-5)  # as Stable-Baselines3 has it


@dataclass(frozen=True)
class Rollout:
    """The experience of one iteration; `reached` and the flags are those of `Transition`."""

    observations: Tensor  # (B, T, E, O)
    outputs: Tensor  # (B, T, E, K) of the policies that acted
    actions: Tensor  # (B, T, E) or (B, T, E, A)
    reached: Tensor  # (B, T, E, O)
    rewards: Tensor  # (B, T, E)
    terminated: Tensor  # (B, T, E)
    truncated: Tensor  # (B, T, E)


def estimate_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates, eq. 11 and 16 of Schulman et al. 2016: all (B, T, E).

    `next_values` are those of the states reached. A state that ends its episode is worth nothing; one at which the
    time limit cuts the episode off keeps its value, but what is gained in the next episode does not flow back.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    decay = gamma * gae_lambda * (~(terminated | truncated)).to(deltas.dtype)
    advantages = torch.empty_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + decay[:, t] * running
        advantages[:, t] = running
    return advantages


@dataclass
class PopulationPPO:
    """PPO of B policies with a critic each.

    Attributes:
        policy: outputs of the policies.
        critic: values of observations, (B, N, 1).
        distribution: of the actions.
        environments: B x E of them.
        policy_tensors: `{name: (B, *shape)}`, trained.
        critic_tensors: the same of the critics.
        trained_names: of the policy's tensors, those that are trained; the others stay as they are.
        settings: everything else.
        generator: of actions and mini-batches.
    """

    policy: Forward
    critic: Forward
    distribution: ActionDistribution
    environments: Environments
    policy_tensors: Tensors
    critic_tensors: Tensors
    trained_names: Collection[str]
    settings: PPOConfig
    generator: torch.Generator

    def __post_init__(self) -> None:
        self.state = ADAM.init(self.trained)
        self.observations = self.environments.reset()

    @property
    def trained(self) -> Tensors:
        """All that is trained under one roof: `policy/<name>` and `critic/<name>`."""
        of_policy = {name: tensor for name, tensor in self.policy_tensors.items() if name in self.trained_names}
        return {
            **{f"policy/{name}": tensor for name, tensor in of_policy.items()},
            **{f"critic/{name}": tensor for name, tensor in self.critic_tensors.items()},
        }

    def iterate(self, rates: Tensor) -> None:
        """Gather experience and learn from it, at one learning rate per policy: (B,)."""
        rollout = self.gather()
        with torch.no_grad():
            values, next_values = (
                self.critic(self.critic_tensors, seen.flatten(1, 2)).view(rollout.rewards.shape)
                for seen in (rollout.observations, rollout.reached)
            )
            options = self.settings
            advantages = estimate_advantages(
                rollout.rewards, values, next_values, rollout.terminated, rollout.truncated,
                options.gamma, options.gae_lambda,
            )  # fmt: skip
            log_probs = self.distribution.log_prob(rollout.outputs, rollout.actions)
            batch = [
                t.flatten(1, 2)
                for t in (rollout.observations, rollout.actions, log_probs, advantages, advantages + values)
            ]
        for _ in range(options.n_epochs):
            order = torch.randperm(options.num_envs * options.n_steps, generator=self.generator)
            for rows in order.chunk(options.num_minibatches):
                self.update(*(t[:, rows] for t in batch), rates=rates)

    @torch.no_grad()
    def gather(self) -> Rollout:
        """Act for T steps in every environment."""
        steps: list[tuple[Tensor, ...]] = []
        noise = self.distribution.noise((self.settings.n_steps, self.settings.num_envs), self.generator)  # (T, E, ...)
        for t in range(self.settings.n_steps):
            outputs = self.policy(self.policy_tensors, self.observations)  # (B, E, K)
            actions = self.distribution.sample(outputs, noise[t])
            step = self.environments.step(actions)
            steps.append(
                (self.observations, outputs, actions, step.reached, step.rewards, step.terminated, step.truncated)
            )
            self.observations = step.observations
        return Rollout(*(torch.stack(column, dim=1) for column in zip(*steps, strict=True)))

    def update(
        self,
        observations: Tensor,
        actions: Tensor,
        log_probs: Tensor,
        advantages: Tensor,
        returns: Tensor,
        *,
        rates: Tensor,
    ) -> None:
        """One optimizer step on a mini-batch (B, n, ...)."""
        options, leaves = self.settings, {name: t.detach().requires_grad_() for name, t in self.trained.items()}
        outputs = self.policy(self.policy_tensors | part(leaves, "policy"), observations)  # (B, n, K)
        values = self.critic(part(leaves, "critic"), observations)[..., 0]  # (B, n)
        if options.normalize_advantage:
            mean, std = advantages.mean(dim=1, keepdim=True), advantages.std(dim=1, keepdim=True)
            advantages = (advantages - mean) / (std + 1e-8)
        ratio = (self.distribution.log_prob(outputs, actions) - log_probs).exp()
        clipped = ratio.clamp(1 - options.clip_range, 1 + options.clip_range)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean(dim=1)  # (B,), eq. 7
        value_loss = (values - returns).square().mean(dim=1)
        entropy = self.distribution.entropy(outputs).mean(dim=1)
        losses = policy_loss + options.vf_coef * value_loss - options.ent_coef * entropy  # (B,)
        # no tensor is shared: one backward for all
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        named = {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
        }
        self.descend(named, losses.detach(), rates)

    def descend(self, grads: Tensors, losses: Tensor, rates: Tensor) -> None:
        """Clip the gradient of each policy with its critic, and take a step of Adam."""
        norms = torch.stack([g.flatten(1).square().sum(dim=1) for g in grads.values()]).sum(dim=0).sqrt()  # (B,)
        scale = (self.settings.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        clipped = {name: grad * scale.view(-1, *(1,) * (grad.dim() - 1)) for name, grad in grads.items()}
        params, self.state = ADAM.update(self.trained, clipped, losses, self.state, rates)
        self.policy_tensors = self.policy_tensors | part(params, "policy")
        self.critic_tensors = part(params, "critic")


def part(tensors: Tensors, roof: str) -> Tensors:
    """Tensors under `policy/` or `critic/`, by their own names."""
    return {name.removeprefix(f"{roof}/"): t for name, t in tensors.items() if name.startswith(f"{roof}/")}
