"""gpt-sample and gpt-evaluate on policies, videos, and policies of Stable-Baselines3."""

import json
from pathlib import Path

import pytest
import torch
from builders import build_pipeline
from safetensors.torch import save_file

from g_pt.commands import evaluate, sample
from g_pt.runtime.seeds import keyed_generator
from rl_tasks.cartpole import CartPole
from rl_tasks.pendulum import Pendulum
from rl_tasks.stable_baselines import policy_params


@pytest.fixture
def policies(tmp_path, monkeypatch):
    """The folder of an untrained G.pt of CartPole policies: every update is the identity."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CartPole, "episodes", {"train": 2, "validation": 2, "test": 3})
    pipeline = build_pipeline(
        CartPole(),
        prompt_range=[8.0, 500.0],
        attainable_range=[400.0, 10.0],
        trained_runs={"num_runs": 2, "test_return": {"mean": 400.0}},
    )
    pipeline.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        sample.main(list(arguments))
    assert caught.value.code not in (0, None)
    return " ".join(capsys.readouterr().err.split())


def test_a_return_is_prompted_and_measured_and_filmed(policies, capsys):
    pytest.importorskip("pygame")
    image = pytest.importorskip("PIL.Image")
    arguments = ["--task", "cartpole", "--model", policies, "--prompt-return", "100", "--num-inference-steps", "2"]
    sample.main([*arguments, "--video", "out.gif", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["metric"] == "return"
    (one,) = result["samples"]
    assert one["starting"] == one["achieved"] == {"return": pytest.approx(one["starting"]["return"])}
    with image.open("out.gif") as film:
        assert film.size == (300 + 8 + 300, 22 + 200)  # captions above
        assert film.n_frames >= 4


def test_the_report_puts_higher_returns_first_and_says_how_they_were_measured(policies, capsys):
    small = ["--networks", "3", "--prompts", "3", "--num-inference-steps", "1", "--sections", "prompting"]
    evaluate.main(["--model", policies, *small, "--json", "r.json"])
    report = json.loads(Path("r.json").read_text())
    assert report["prompt_alignment"]["attainable"]["range"] == [400, 10]
    assert report["prompt_alignment"]["full"]["range"] == [500, 8]
    assert report["measurement"]["episodes"] == 3
    assert report["measurement"]["simulator"] == "gymnasium"
    assert "3 episodes per policy and prompt in CartPole-v1 (gymnasium)" in " ".join(capsys.readouterr().out.split())
    assert Path("evaluation/prompting.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "cartpole", "--prompt-loss", "1"], "'cartpole' is prompted by --prompt-return, not --prompt-loss"),
        (
            ["--prompt-perplexity", "1"],
            "'digits' is prompted by --prompt-loss or --prompt-error, not --prompt-perplexity",
        ),
        (["--prompt-perplexity", "high"], "--prompt-perplexity must be followed by a number, got 'high'"),
        (["--prompt-perplexity"], "--prompt-perplexity must be followed by a number, got ''"),
        (["--prompt-return", "1", "--prompt-perplexity=2"], "exactly one prompt"),
        (["--prompt-loss", "1", "--video", "a.mp4"], "--video must end in .gif"),
        (["--prompt-loss", "1", "--video", "a.gif"], "'digits' has none"),
    ],
)
def test_prompts_and_videos_that_do_not_fit_are_refused(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_a_policy_file_of_another_shape_is_refused(policies, capsys):
    tensors = {**CartPole().network().state_dict(), "fc3.weight": torch.zeros(3, 32)}
    save_file(tensors, "other.safetensors")
    said = refused(capsys, "--model", policies, "--prompt-return", "100", "--start", "other.safetensors")
    assert "'fc3.weight' must have shape (2, 32), got (3, 32)" in said


@pytest.mark.parametrize("task", [CartPole(), Pendulum()], ids=lambda task: task.name)
def test_policies_of_stable_baselines_act_as_they_do_there(task):
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", task.environment_id, policy_kwargs={"net_arch": [32, 32]}, seed=0, device="cpu")
    row = policy_params(model, task)
    seen = torch.randn(1, 50, task.facts.observation_size, generator=keyed_generator(0))
    ours = task.act(task.layout.unflatten(row[None]), seen)[0]
    theirs = torch.from_numpy(model.predict(seen[0].numpy(), deterministic=True)[0])
    if task.facts.bounds is not None:
        ours = ours.clamp(-2, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    other = sb3.PPO("MlpPolicy", task.environment_id, seed=0, device="cpu")  # 64 wide
    with pytest.raises(ValueError, match=r"does not fit task .* net_arch \[32, 32\]"):
        policy_params(other, task)
