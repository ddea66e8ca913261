"""How fast does a population of policies gather and learn from experience, against Stable-Baselines3 on one policy?

    python -m benchmarks.rl_speed --policies 512 --rounds 3

Both run PPO on CartPole-v1 with policies and critics 4-32-32-x and the same settings; environment steps per second
count gathering and learning. The two take turns in one process, so that both meet the same machine. Returns after the
same number of environment steps per policy are told too: speed without learning would be worth nothing.

Needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from g_pt.files.atomic import write_json
from g_pt.runtime.cpu_memory import keep_freed_memory
from g_pt.runtime.seeds import keyed_generator
from rl_tasks.cartpole import CartPole
from rl_tasks.ppo import PopulationPPO
from rl_tasks.ppo_config import PPOConfig

SETTINGS = PPOConfig(learning_rate_range=(2e-3, 2e-3), final_learning_rate=1.0)
LEARNING_RATE = SETTINGS.learning_rate_range[0]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=20, help="of PPO per round, for both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_freed_memory()  # as gpt-harvest does
    results = measure(args.policies, args.iterations, args.rounds)
    print_table(results)
    if args.json:
        write_json(args.json, results)


def measure(num_policies: int, num_iterations: int, num_rounds: int) -> dict[str, Any]:
    """Environment steps per second of both sides in every round, and returns at the end."""
    task = CartPole()
    generator = keyed_generator(0)
    population = task.make_ppo(task.init(num_policies, generator), SETTINGS, generator)
    single = make_single()
    steps = SETTINGS.n_steps * SETTINGS.num_envs * num_iterations
    train_population(population, 1)
    single.learn(SETTINGS.n_steps * SETTINGS.num_envs, reset_num_timesteps=False)
    sides: dict[str, list[float]] = {"population": [], "stable-baselines3": []}
    for _ in range(num_rounds):
        started = time.perf_counter()
        train_population(population, num_iterations)
        between = time.perf_counter()
        single.learn(steps, reset_num_timesteps=False)
        sides["population"].append(num_policies * steps / (between - started))
        sides["stable-baselines3"].append(steps / (time.perf_counter() - between))
    params = task.layout.flatten({name: tensor.detach() for name, tensor in population.policy_tensors.items()})
    returns = task.evaluate(params, "validation")["return"]
    ratios = [ours / theirs for ours, theirs in zip(*sides.values(), strict=True)]
    return {
        "steps_per_second": sides,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "policies": num_policies,
        "steps_per_policy": steps * num_rounds + SETTINGS.n_steps * SETTINGS.num_envs,
        "returns": {"population": returns.mean().item(), "stable-baselines3": single_return(single)},
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "cpu": platform.machine()},
        "torch": torch.__version__,
    }


def train_population(population: PopulationPPO, num_iterations: int) -> None:
    """Iterations at one learning rate for all."""
    rates = torch.full((len(next(iter(population.trained.values()))),), LEARNING_RATE)
    for _ in range(num_iterations):
        population.iterate(rates)


def make_single() -> Any:
    """PPO of Stable-Baselines3 with the settings of the population."""
    try:
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError as error:
        raise SystemExit("rl_speed compares with Stable-Baselines3: pip install 'g-pt[benchmarks]'") from error
    environments = make_vec_env("CartPole-v1", n_envs=SETTINGS.num_envs, seed=0)
    return PPO(
        "MlpPolicy",
        environments,
        learning_rate=LEARNING_RATE,
        n_steps=SETTINGS.n_steps,
        batch_size=SETTINGS.n_steps * SETTINGS.num_envs // SETTINGS.num_minibatches,
        n_epochs=SETTINGS.n_epochs,
        gamma=SETTINGS.gamma,
        gae_lambda=SETTINGS.gae_lambda,
        clip_range=SETTINGS.clip_range,
        ent_coef=SETTINGS.ent_coef,
        vf_coef=SETTINGS.vf_coef,
        max_grad_norm=SETTINGS.max_grad_norm,
        policy_kwargs={"net_arch": [32, 32]},
        seed=0,
        device="cpu",
    )


def single_return(single: Any) -> float:
    """Mean return of the most probable actions over 16 episodes."""
    from stable_baselines3.common.evaluation import evaluate_policy

    returns, _ = evaluate_policy(
        single, single.get_env(), n_eval_episodes=16, deterministic=True, return_episode_rewards=True
    )
    return statistics.mean(returns)


def print_table(results: dict[str, Any]) -> None:
    """Markdown, with the spread over the rounds."""
    print(f"PPO on CartPole-v1; {results['policies']} policies against one, {results['machine']['threads']} threads")
    print("| | environment steps/s, median | lowest | highest | mean return at the end |\n|---|---|---|---|---|")
    for name, speeds in results["steps_per_second"].items():
        end = results["returns"][name]
        print(f"| {name} | {statistics.median(speeds):,.0f} | {min(speeds):,.0f} | {max(speeds):,.0f} | {end:.0f} |")
    ratios = results["ratios"]
    print(f"\nafter {results['steps_per_policy']:,} environment steps per policy; population / one: ", end="")
    print(f"{results['median_ratio']:.1f} times ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
