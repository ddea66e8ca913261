"""gpt-sample as a user meets it. Uses the bundled model, in this process where no exit is expected."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from g_pt.commands.sample import main
from g_pt.model.schedulers import SCHEDULERS
from g_pt.tasks import get_task

TASK = get_task("digits")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sample(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:  # type: ignore[type-arg]
    main([*arguments, "--json"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, "exactly one JSON object"
    return json.loads(lines[0])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code not in (0, None)
    streams = capsys.readouterr()
    assert "Traceback" not in streams.err
    return streams.err + streams.out


def test_json_has_exactly_the_promised_keys_and_the_update_helps(capsys: pytest.CaptureFixture[str]) -> None:
    result = sample(capsys, "--prompt-loss", "0.1")
    keys = {"model", "task", "metric", "prompt", "num_inference_steps", "seed", "samples", "files", "seconds"}
    assert set(result) == keys
    (one,) = result["samples"]
    assert set(one) == {"starting", "achieved", "file"}
    assert [file["file"] for file in result["files"]] == [one["file"]]
    assert set(one["starting"]) == set(one["achieved"]) == {"loss", "error"}
    assert one["starting"]["loss"] > 2
    assert one["achieved"]["loss"] < 0.4
    assert one["achieved"]["error"] < 12


def test_the_written_network_is_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    result = sample(capsys, "--prompt-loss", "0.2", "--out", "deep/new.safetensors")
    (one,) = result["samples"]
    module = TASK.network()
    module.load_state_dict(load_file(one["file"]))
    measured = TASK.evaluate(TASK.layout.flatten(module.state_dict()).detach()[None], "test")
    assert measured["loss"].item() == pytest.approx(one["achieved"]["loss"], rel=1e-5)
    assert measured["error"].item() == pytest.approx(one["achieved"]["error"], rel=1e-5)


def test_seeds_decide_the_network_and_the_noise(capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (sample(capsys, "--prompt-loss", "0.3", "--seed", s)["samples"][0] for s in ("1", "1", "2"))
    assert first == again
    assert first["starting"] != other["starting"]


def test_several_samples_share_the_start_and_differ(capsys: pytest.CaptureFixture[str]) -> None:
    result = sample(capsys, "--prompt-loss", "0.3", "--num-samples", "3")
    assert [s["file"] for s in result["samples"]] == [f"updated-{i}.safetensors" for i in range(3)]
    assert len({s["starting"]["loss"] for s in result["samples"]}) == 1
    assert len({s["achieved"]["loss"] for s in result["samples"]}) == 3
    assert all(Path(s["file"]).is_file() for s in result["samples"])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_improves_the_network(capsys: pytest.CaptureFixture[str], scheduler: str) -> None:
    result = sample(capsys, "--prompt-loss", "0.2", "--scheduler", scheduler, "--num-inference-steps", "10")
    assert result["num_inference_steps"] == 10
    assert result["samples"][0]["achieved"]["loss"] < 0.6


def test_a_start_file_is_updated(capsys: pytest.CaptureFixture[str]) -> None:
    network = TASK.network()
    save_file(network.state_dict(), "mine.safetensors")
    torch.save(network.state_dict(), "mine.pt")
    results = [sample(capsys, "--prompt-loss", "0.2", "--start", f"mine.{kind}") for kind in ("safetensors", "pt")]
    before = TASK.evaluate(TASK.layout.flatten(network.state_dict()).detach()[None], "test")["loss"].item()
    for result in results:
        assert result["samples"][0]["starting"]["loss"] == pytest.approx(before, rel=1e-5)
        assert result["samples"][0]["achieved"]["loss"] < 0.6


def test_recursive_prompting_feeds_the_result_back(capsys: pytest.CaptureFixture[str]) -> None:
    once = sample(capsys, "--prompt-loss", "0.1", "--num-inference-steps", "2")
    thrice = sample(capsys, "--prompt-loss", "0.1", "--num-inference-steps", "2", "--recursive", "3")
    assert thrice["samples"][0]["starting"] == once["samples"][0]["starting"]
    assert thrice["samples"][0]["achieved"] != once["samples"][0]["achieved"]


def test_an_error_can_be_prompted(capsys: pytest.CaptureFixture[str]) -> None:
    low, high = (sample(capsys, "--prompt-error", e)["samples"][0]["achieved"]["error"] for e in ("5", "50"))
    assert low < 15 < 30 < high < 70


def test_a_prompt_out_of_range_warns_with_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--prompt-loss", "0.0001", "--num-inference-steps", "1"])
    assert "lies outside the range seen in training, 0.0" in capsys.readouterr().err


WRONG = [
    (["--prompt-loss", "0.1", "--task", "digitz"], "Did you mean 'digits'"),
    (["--prompt-loss", "0.1", "--scheduler", "adams"], "scheduler must be one of ['ddim', "),
    (["--prompt-loss", "0.1", "--prompt-error", "3"], "exactly one prompt"),
    ([], "exactly one prompt"),
    (["--prompt-accuracy", "0.1"], "--prompt-"),
    (["--prompt-loss", "nan"], "finite"),
    (["--prompt-loss", "0.1", "--num-samples", "0"], "--num-samples must be at least 1"),
    (["--prompt-loss", "0.1", "--num-inference-steps", "0"], "--num-inference-steps must be at least 1"),
    (["--prompt-loss", "0.1", "--model", "nowhere"], "digits-loss"),
    (["--prompt-error", "3", "--model", "digits-loss"], "use --prompt-loss"),
    (["--prompt-loss", "0.1", "--start", "absent.safetensors"], "absent.safetensors"),
    (["--prompt-loss", "0.1", "--out", "net.bin"], "--out must end in .safetensors"),
]


def test_wrong_input_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests) -> None:
    for arguments, message in WRONG:
        with subtests.test(" ".join(arguments)):
            said = refused(capsys, *arguments)
            assert message in " ".join(said.split())
            assert not Path("updated.safetensors").exists()


def test_a_start_of_another_architecture_or_with_nan_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    tensors = TASK.network().state_dict()
    save_file({**tensors, "fc1.weight": torch.zeros(12, 64)}, "other.safetensors")
    said = refused(capsys, "--prompt-loss", "0.1", "--start", "other.safetensors")
    assert "'fc1.weight' must have shape (16, 64), got (12, 64)" in said
    save_file({**tensors, "fc2.bias": torch.full((10,), torch.nan)}, "nan.safetensors")
    assert "'fc2.bias' holds NaN" in refused(capsys, "--prompt-loss", "0.1", "--start", "nan.safetensors")


def test_stdout_is_clean_in_a_pipe() -> None:
    command = [sys.executable, "-m", "g_pt.commands.sample", "--prompt-loss", "0.3", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["metric"] == "loss"
    assert "%|" not in run.stderr, "no progress bars in a pipe"


def test_networks_of_other_widths_take_the_model_for_any_size(capsys: pytest.CaptureFixture[str]) -> None:
    result = sample(capsys, "--prompt-loss", "0.1", "--hidden", "48")
    assert (result["model"], result["task"]) == ("digits-any-size-loss", "digits[64-48-10]")
    assert result["samples"][0]["achieved"]["loss"] < 0.25
    assert load_file("updated.safetensors")["fc1.weight"].shape == (48, 64)
    own = get_task("digits[64-20-10]").network().state_dict()
    save_file(own, "own.safetensors")
    result = sample(capsys, "--prompt-loss", "0.3", "--start", "own.safetensors")
    assert result["task"] == "digits[64-20-10]"
    assert result["samples"][0]["achieved"]["loss"] < 0.6
    assert sample(capsys, "--prompt-loss", "0.3")["model"] == "digits-loss"
    for flags, words in (
        (["--hidden", "24,12"], "1 hidden layers"),
        (["--hidden", "48", "--start", "own.safetensors"], "leave it out"),
        (["--hidden", "48", "--model", "digits-loss"], "needs a model of networks of many sizes"),
        (["--hidden", "wide"], "must be like 16"),
    ):
        assert words in refused(capsys, "--prompt-loss", "0.3", *flags)
