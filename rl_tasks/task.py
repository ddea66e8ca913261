"""Policies on a Gymnasium environment as a task: their metric is the return.

B = policies, P = parameters per policy, E = episodes, N = observations, O = size of one, K = outputs of a policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from g_pt.networks.metrics import Metric
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec
from g_pt.runtime.seeds import seeded_global_generator
from g_pt.tasks.base import PopulationTask, Split, TrainedPopulation, check_split
from g_pt.tasks.templates import StackedModule, fresh_params, trained_names
from rl_tasks.environments import Environments, SimulatedEnvironments
from rl_tasks.episodes import differentiable_returns, gymnasium_returns, simulated_returns
from rl_tasks.gymnasium_environments import EnvironmentFacts, GymnasiumEnvironments, make_environment
from rl_tasks.own_environments import Environment, warn_of_hidden_luck
from rl_tasks.policies import check_policy, mlp_network, stacked_forward, stacked_init
from rl_tasks.ppo import PopulationPPO
from rl_tasks.ppo_config import PPOConfig
from rl_tasks.simulators import Simulator

# Episodes of different splits start from different seeds; those of training come from a generator instead.
FIRST_SEEDS: Mapping[Split, int] = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
SIMULATED_POLICIES = 256  # at once: more fall out of the cache
GYMNASIUM_ENVIRONMENTS = 512  # at once


class GymnasiumTask(PopulationTask[PPOConfig]):
    """Policies on any Gymnasium environment with observations in a Box and Discrete or one-axis Box actions.

    A subclass needs `name`, `environment_id` and `network()`, which maps observations (N, O) to logits (N, n) of n
    actions, or to means and logarithms of standard deviations (N, 2 A) of A numbers (`rl_tasks.policies.GaussianHead`
    adds the latter).

    Policies are evaluated without noise: the most probable action, so that a return is a property of the parameters.
    (The paper's own code samples actions.) The test split is always measured in Gymnasium itself; the other splits in
    the batched simulator, where there is one.
    """

    environment_id: str
    environment_options: ClassVar[Mapping[str, Any]] = {}
    metrics: Mapping[str, Metric] = {"return": Metric("return", unit="return", minimize=False, scale=100.0)}
    simulator: Simulator | None = None
    episodes: ClassVar[Mapping[Split, int]] = {"train": 16, "validation": 16, "test": 32}
    endless_data = True
    harvest_defaults: Mapping[str, Any] = {"num_runs": 100, "num_steps": 100, "num_checkpoints": 21}
    critic_widths: ClassVar[tuple[int, ...]] = (32, 32)

    @cached_property
    def lost_policies(self) -> dict[int, str]:
        """`{row: reason}` of the policies whose environment failed them in the last evaluation in Gymnasium."""
        return {}

    @cached_property
    def facts(self) -> EnvironmentFacts:
        """Sizes, actions and time limit of the environment; refuses what cannot be served."""
        environment = self.make_environment()
        facts = EnvironmentFacts.of(environment, self.environment_id)
        environment.close()
        return facts

    def make_environment(self, **options: Any) -> Environment:
        """A new Gymnasium environment."""
        return make_environment(self.environment_id, {**self.environment_options, **options})

    @cached_property
    def permutations(self) -> PermutationSpec:
        """Derived from the module and verified."""
        return PermutationSpec.from_module(self.template, input_shape=(self.facts.observation_size,))

    @cached_property
    def stacked(self) -> StackedModule:
        """The module that `forward` runs with the tensors of many policies.

        Raises:
            ValueError: it does not fit the environment.
        """
        stacked = StackedModule.of(self.network)
        check_policy(stacked.module)
        size = self.facts.observation_size
        try:
            with torch.no_grad(), seeded_global_generator(0), stacked.precautions():
                self.logits(stacked.module(torch.zeros(2, size)))
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"network() of task {self.name!r} must take observations (N, {size}) of {self.environment_id!r}: "
                f"{error}"
            ) from error
        return stacked

    @property
    def template(self) -> nn.Module:
        """The module of `stacked`, in evaluation mode; its own values are never read."""
        return self.stacked.module

    def logits(self, outputs: Any) -> Tensor:
        """What a policy says of its actions, (N, K): all that `network()` returns, or a part of its tuple.

        Raises:
            ValueError: nothing in it has K numbers per observation.
        """
        wanted = self.facts.distribution.num_outputs
        parts = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        for part in parts:
            if isinstance(part, Tensor) and part.dim() == 2 and part.shape[1] == wanted:
                return part
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        got = ", ".join(map(str, shapes))
        raise ValueError(
            f"network() of task {self.name!r} must return {wanted} numbers per observation for "
            f"{self.facts.distribution} of {self.environment_id!r}, got {got} for 2 observations"
        )

    @property
    def trained_names(self) -> tuple[str, ...]:
        """What PPO moves: the module's parameters, without those frozen by `requires_grad=False`, and no buffers."""
        return trained_names(self.template, self.layout)

    @property
    def constant_names(self) -> tuple[str, ...]:
        """All others: a policy runs in evaluation mode, so that no statistics move either."""
        return tuple(name for name in self.layout.names if name not in self.trained_names)

    def init(self, num_networks: int, generator: torch.Generator) -> Tensor:
        """Parameters (B, P) of modules made one by one by `network()`; the global generator stays as it was."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        return fresh_params(self.network, self.layout, num_networks, seed)

    def forward(self, tensors: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """Outputs of B policies, each on its own observations: (B, N, O) to (B, N, K)."""
        return self.stacked(tensors, observations, read=self.logits, shared=False)

    def act(self, tensors: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """The most probable actions of B policies on their observations (B, N, O)."""
        return self.facts.distribution.mode(self.forward(tensors, observations))

    def evaluate(self, params: Tensor, split: Split = "test") -> dict[str, Tensor]:
        """Mean return over the seeded episodes of a split: (B, P) raw to `{"return": (B,)}`."""
        return {"return": self.episode_returns(params, split).mean(dim=1).float()}

    def episode_returns(self, params: Tensor, split: Split) -> Tensor:
        """Return of every episode of a split: (B, P) raw to (B, E) float64."""
        check_split(split)
        first = FIRST_SEEDS[split]
        seeds = range(first, first + self.episodes[split])
        if self.simulator is None or split == "test":
            return self.gymnasium_returns(params, seeds)
        return self.simulated_returns(params, self.simulator.seeded_starts(seeds))

    def measurement(self, params: Tensor, split: Split = "test") -> dict[str, Any]:
        """Episodes per policy, the simulator, and the mean standard error of the returns of policies (B, P)."""
        returns = self.episode_returns(params, split)
        error = (returns.std(dim=1) / math.sqrt(returns.shape[1])).mean().item()
        simulated = self.simulator is not None and split != "test"
        return {
            "environment": self.environment_id,
            "episodes": returns.shape[1],
            "simulator": type(self.simulator).__name__ if simulated else "gymnasium",
            "actions": "most probable",
            "standard_error": {"return": error},
        }

    def sampled_metric(self, name: str, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """Mean return over fresh episodes, the same for all policies: (B, P) raw to (B,)."""
        self.metric(name)
        if self.simulator is not None:
            starts = self.simulator.starts(num_samples, generator)
            return self.simulated_returns(params, starts).mean(dim=1).float().to(params.device)
        lowest, highest = FIRST_SEEDS["test"] + 1_000_000, 2**31 - 1  # seeds of no split
        seeds = torch.randint(lowest, highest, (num_samples,), generator=generator).tolist()
        return self.gymnasium_returns(params, seeds).mean(dim=1).float().to(params.device)

    @property
    def differentiable_metrics(self) -> Collection[str]:  # type: ignore[override]
        """The return, where the simulator is differentiable."""
        return ("return",) if self.simulator is not None and self.simulator.gradient_horizon else ()

    def differentiable_metric(self, name: str, params: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """Mean return over fresh episodes of a differentiable simulator, the same for all policies: (B, P) to (B,)."""
        if name not in self.differentiable_metrics:
            return super().differentiable_metric(name, params, num_samples, generator)
        assert self.simulator is not None
        starts = self.simulator.starts(num_samples, generator).to(params.device)
        tensors = self.layout.unflatten(params)
        limit = self.facts.max_episode_steps
        return differentiable_returns(self.simulator, self.act, tensors, starts, limit).mean(dim=1)

    def simulated_returns(self, params: Tensor, starts: Tensor) -> Tensor:
        """Returns in the batched simulator: (B, P) raw and starts (E, S) to (B, E)."""
        assert self.simulator is not None
        limit = self.facts.max_episode_steps
        parts = self._parts(params, SIMULATED_POLICIES)
        return torch.cat([simulated_returns(self.simulator, self.act, part, starts, limit) for part in parts])

    def gymnasium_returns(self, params: Tensor, seeds: Sequence[int]) -> Tensor:
        """Returns in Gymnasium itself: (B, P) raw and the seeds of E episodes to (B, E); see `lost_policies`."""
        self.lost_policies = {}
        at_once = max(1, min(len(params), GYMNASIUM_ENVIRONMENTS // len(seeds)))
        environments = [self.make_environment() for _ in range(at_once * len(seeds))]
        returns: list[Tensor] = []
        for part in self._parts(params, at_once):
            some = environments[: len(next(iter(part.values()))) * len(seeds)]
            lost: dict[int, str] = {}
            first = sum(len(done) for done in returns)
            returns.append(gymnasium_returns(some, self.facts, self.act, part, seeds, lost))
            self.lost_policies |= {first + policy: reason for policy, reason in lost.items()}
        for environment in environments:
            environment.close()
        return torch.cat(returns)

    def _parts(self, params: Tensor, size: int) -> Iterator[dict[str, Tensor]]:
        """Stacked tensors of the policies, `size` policies at a time, on the CPU."""
        if params.dim() != 2 or params.shape[1] != self.layout.num_params:
            raise ValueError(f"task {self.name!r} takes (batch, {self.layout.num_params}), got {tuple(params.shape)}")
        _ = self.template  # refuses a network that does not fit
        for part in params.detach().float().cpu().split(size):
            yield {name: tensor.contiguous() for name, tensor in self.layout.unflatten(part).items()}

    def training_environments(self, num_policies: int, num_envs: int, generator: torch.Generator) -> Environments:
        """Where the policies gather experience."""
        if self.simulator is not None:
            limit = self.facts.max_episode_steps
            return SimulatedEnvironments(self.simulator, num_policies, num_envs, limit, generator)
        seed = int(torch.randint(FIRST_SEEDS["test"] + 1_000_000, 2**31 - 1, (), generator=generator))
        return GymnasiumEnvironments(self.make_environment, self.facts, num_policies, num_envs, seed)

    def train_population(
        self,
        num_runs: int,
        steps: Sequence[int],
        settings: PPOConfig,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float16,
        progress: Callable[[int], object] | None = None,
    ) -> TrainedPopulation:
        """Train policies by PPO; the return of each checkpoint is its own, measured after the update."""
        low, high = settings.learning_rate_range
        rates = low * (high / low) ** torch.rand(num_runs, generator=generator, dtype=torch.float64)
        ppo = self.make_ppo(self.init(num_runs, generator), settings, generator)
        kept, returns = [], []
        lost: dict[int, str] = {}
        if self.simulator is None:
            warn_of_hidden_luck(self.make_environment, self.environment_id, self.facts.some_actions(8))
        for iteration in range(steps[-1] + 1):
            if iteration in set(steps):
                kept.append(self.layout.flatten({n: t.detach() for n, t in ppo.policy_tensors.items()}).to(dtype))
                returns.append(self.evaluate(kept[-1].float(), "validation")["return"])
                lost = self.lost_policies | lost
            if iteration == steps[-1]:
                break
            fraction = 1 - (1 - settings.final_learning_rate) * iteration / steps[-1]
            ppo.iterate((rates * fraction).float())
            if progress is not None:
                progress(num_runs)
        records = [{"optimizer": "ppo", "learning_rate": rate} for rate in rates.tolist()]
        lost = {**lost, **ppo.environments.lost}
        return TrainedPopulation(torch.stack(kept, dim=1), {"return": torch.stack(returns, dim=1)}, records, lost)

    def make_ppo(self, params: Tensor, settings: PPOConfig, generator: torch.Generator) -> PopulationPPO:
        """PPO of given policies (B, P), raw, with fresh critics; the generator decides everything random."""
        with seeded_global_generator(0):
            critic = ParameterLayout.from_module(mlp_network((self.facts.observation_size, *self.critic_widths, 1)))
        stacked = next(self._parts(params, len(params)))
        critics = critic.unflatten(stacked_init(critic, len(params), generator))
        environments = self.training_environments(len(params), settings.num_envs, generator)
        return PopulationPPO(
            policy=self.forward,
            critic=stacked_forward,
            distribution=self.facts.distribution,
            environments=environments,
            policy_tensors={name: tensor.clone() for name, tensor in stacked.items()},
            trained_names=self.trained_names,
            critic_tensors={name: tensor.clone() for name, tensor in critics.items()},
            settings=settings,
            generator=generator,
        )
