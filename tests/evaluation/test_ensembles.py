import pytest
import torch

from g_pt.evaluation.ensembles import calibration_error, disagreement, ensemble_metrics, predictions, supervised
from g_pt.tasks.digits import Digits
from g_pt.tasks.toys import Wave
from rl_tasks.cartpole import CartPole


def test_calibration_error_of_known_confidences() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    sure = torch.tensor([[0.75, 0.25]] * 4).T[None]  # right in 3 of 4 cases, and says so
    assert calibration_error(sure, labels).item() == pytest.approx(0, abs=1e-5)
    boasting = torch.tensor([[1.0, 0.0]] * 4).T[None]
    assert calibration_error(torch.cat([sure, boasting]), labels).tolist() == pytest.approx([0, 25], abs=1e-5)
    # two bins: 2 examples at 0.6 with one right, 2 at 0.9 with both right: (2 * 0.1 + 2 * 0.1) / 4
    mixed = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]).T[None]
    assert calibration_error(mixed, labels).item() == pytest.approx(10, abs=1e-4)


def test_an_ensemble_of_one_is_its_member_and_copies_bring_nothing(digits: Digits) -> None:
    params = digits.init(2, torch.Generator().manual_seed(0))
    answers = predictions(digits, params, digits.splits["test"].inputs)
    torch.testing.assert_close(answers.sum(dim=1), torch.ones(2, len(digits.splits["test"])))
    measured = digits.evaluate(params, "test")
    for members in (answers[:, None], answers[:, None].expand(-1, 3, -1, -1)):
        found = ensemble_metrics(digits, members)
        torch.testing.assert_close(found["loss"], measured["loss"], rtol=1e-4, atol=1e-5)
        assert torch.equal(found["error"], measured["error"])
    assert disagreement(digits, answers[:, None].expand(-1, 3, -1, -1)).tolist() == [0, 0]


def test_disagreement_counts_pairs(digits: Digits) -> None:
    answers = torch.eye(3)[None, [0, 0, 1]][..., None]  # three members, one example: two of three pairs differ
    assert disagreement(digits, answers).item() == pytest.approx(100 * 2 / 3)


def test_regressions_average_their_numbers() -> None:
    task = Wave()
    labels = task.splits["test"].labels
    around = torch.stack([labels - 1, labels + 1])[None, :, None]  # (1, 2, 1, N)
    found = ensemble_metrics(task, around)
    assert found["loss"].item() == pytest.approx(0, abs=1e-6)
    assert found["coverage"].item() == 100
    assert ensemble_metrics(task, around[:, 1:])["coverage"].item() == 0
    assert disagreement(task, around).item() == pytest.approx(2**0.5)
    params = task.init(3, torch.Generator().manual_seed(0))
    assert predictions(task, params, task.splits["test"].inputs).shape == (3, 1, 100)


def test_policies_have_no_predictions_to_average() -> None:
    with pytest.raises(ValueError, match="neither a classification nor a regression"):
        supervised(CartPole())
