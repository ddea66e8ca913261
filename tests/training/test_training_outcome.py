import json
import warnings
from pathlib import Path

import pytest

from g_pt.training.outcome import UnheededPromptsWarning, last_evaluation, summarize


def evaluation(step: int, achieved: list[float], **more: float) -> dict[str, object]:
    return {"step": step, "prompts": [0.1, 0.5, 0.9], "achieved": achieved, "alignment": 0.25, **more}


def test_a_model_that_follows_its_prompts_gets_one_line_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        line = summarize(evaluation(9, [0.2, 0.5, 0.8]), "loss", 64, 900)
    assert line.startswith("prompt alignment 0.250 on 64 held-out inits, validation split")
    assert line.endswith("loss 0.2 to 0.8 where 0.1 to 0.9 was prompted")


def test_a_model_that_answers_every_prompt_alike_is_warned_of_with_what_to_do() -> None:
    alike = r"0\.425 to 0\.44 where 0\.1 to 0\.9.* more runs than 28"
    with pytest.warns(UnheededPromptsWarning, match=alike) as caught:
        summarize(evaluation(9, [0.44, 0.425, 0.43]), "error", 64, 28)
    assert "--optimizer.num-steps" in str(caught[0].message)


def test_the_evaluation_is_that_of_the_weights_that_were_kept(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
    assert last_evaluation(tmp_path, "diffusion", "last") is None
    lines = [evaluation(step, [0.1], held_out_loss=loss) for step, loss in ((2, 0.5), (4, 0.3), (6, 0.3), (8, 0.4))]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert last_evaluation(tmp_path, "diffusion", "last") == lines[-1]
    assert last_evaluation(tmp_path, "diffusion", "best") == lines[1]  # the first of equals, as it was chosen
