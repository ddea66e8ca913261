"""gpt-import reference: from checkpoints of the reference to pipelines and back; what is wrong is said."""

import shutil

import pytest
import torch
from malformed import is_one_sentence
from reference_files import ARCHITECTURES, CARTPOLE, batch_for, loop_model, write_checkpoint

from g_pt.commands import import_checkpoints
from g_pt.model.pipeline import ParameterUpdatePipeline
from g_pt.reference.checkpoints import import_model
from g_pt.reference.settings import ReferenceSettings, read_settings
from g_pt.tasks import get_task

YAML = """
dataset: {name: mnist_error, train_metric: avg_test_err, normalizer: openai, openai_coeff: 2.5}
transformer: {n_head: 2, n_embd: 16, n_layer: 2, max_freq_log2: 5, predict_xstart: true, dropout_prob: 0.1}
wandb: {name: "${exp_name}"}
"""
HEADS = ReferenceSettings(num_heads=2, max_frequency_log2=5.0)


@pytest.fixture
def checkpoint(tmp_path):
    spec = ARCHITECTURES["mnist"]
    return write_checkpoint(tmp_path / "0250.pt", loop_model(spec), loop_model(spec, seed=1))


def output(pipeline, spec):
    with torch.no_grad():
        return pipeline.transformer(*batch_for(spec))


def expected(spec, seed=0):
    with torch.no_grad():
        return loop_model(spec, seed=seed)(*batch_for(spec))


@pytest.mark.parametrize(("weights", "seed"), [("raw", 0), ("ema", 1), (None, 1)])
def test_the_command_makes_a_folder_that_loads(checkpoint, tmp_path, capsys, weights, seed):
    (tmp_path / "c.yaml").write_text(YAML)
    flags = [] if weights is None else ["--weights", weights]
    out = tmp_path / "model"
    import_checkpoints.main(
        ["reference", str(checkpoint), "--config", str(tmp_path / "c.yaml"), "--out", str(out), *flags]
    )
    assert f"{weights or 'ema'} weights" in capsys.readouterr().out
    pipeline = ParameterUpdatePipeline.from_pretrained(out)
    spec = ARCHITECTURES["mnist"]
    torch.testing.assert_close(output(pipeline, spec), expected(spec, seed), rtol=0, atol=1e-5)
    assert (pipeline.config.task, pipeline.metric.name) == ("reference-mnist", "error")
    assert pipeline.transformer.config.residual_dropout == 0.1
    params = torch.randn(2, 7960)
    torch.testing.assert_close(pipeline.normalizer.normalize(params), 2.5 * params)
    updated = pipeline(params, 20.0, 90.0, num_inference_steps=2).params
    assert updated.shape == (2, 7960)


def test_export_gives_the_same_weights_and_settings_back(checkpoint, tmp_path):
    (tmp_path / "c.yaml").write_text(YAML)
    model, again = tmp_path / "model", tmp_path / "again"
    import_checkpoints.main(["reference", str(checkpoint), "--config", str(tmp_path / "c.yaml"), "--out", str(model)])
    import_checkpoints.main(["export-reference", str(model), "--out", str(tmp_path / "back.pt")])
    content = torch.load(tmp_path / "back.pt", weights_only=True)
    wanted = torch.load(checkpoint, weights_only=True)["G_ema"]
    assert list(content["G_ema"]) == list(content["G"])
    assert all(torch.equal(content["G_ema"][name], tensor) for name, tensor in wanted.items())
    loop = loop_model(ARCHITECTURES["mnist"])
    loop.load_state_dict(content["G"])
    groups = content["optim"]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == len(list(loop.parameters()))
    import_checkpoints.main(
        ["reference", str(tmp_path / "back.pt"), "--config", str(tmp_path / "back.yaml"), "--out", str(again)]
    )
    one, two = (ParameterUpdatePipeline.from_pretrained(folder) for folder in (model, again))
    # one dropout is all that the reference's configuration has room for
    configs = [{k: v for k, v in p.transformer.config.items() if k != "_name_or_path"} for p in (one, two)]
    assert configs[0] == configs[1]
    torch.testing.assert_close(one.normalizer.std, two.normalizer.std)
    assert one.metric == two.metric


def test_our_own_kind_of_model_has_no_form_there(tmp_path, tiny_pipeline):
    tiny_pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit):
        import_checkpoints.main(["export-reference", str(tmp_path / "model"), "--out", str(tmp_path / "x.pt")])
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_dropped(tmp_path, prefix):
    spec = ARCHITECTURES["deep"]
    path = write_checkpoint(tmp_path / "x.pt", loop_model(spec), prefix=prefix)
    imported = import_model(path, HEADS)
    assert imported.weights == "raw"  # there is no average
    torch.testing.assert_close(output(imported.pipeline, spec), expected(spec), rtol=0, atol=1e-5)


def test_a_checkpoint_without_frequencies_takes_them_from_the_settings(tmp_path):
    spec, model = ARCHITECTURES["layers"], loop_model(ARCHITECTURES["layers"])
    path = write_checkpoint(tmp_path / "x.pt", model)
    content = torch.load(path, weights_only=True)
    del content["G"]["scalar_embedder.frequencies"], content["optim"]
    torch.save(content, path)
    pipeline = import_model(path, HEADS).pipeline
    torch.testing.assert_close(output(pipeline, spec), expected(spec), rtol=0, atol=1e-5)
    assert (pipeline.config.task, pipeline.metric.name) == ("reference-cartpole", "return")
    with pytest.raises(ValueError, match=r"do not say max_freq_log2"):
        import_model(path, ReferenceSettings(num_heads=2))


def test_what_nobody_says_is_asked_for_or_noted(checkpoint):
    with pytest.raises(ValueError, match=r"do not say n_head \(--num-heads\).*--config"):
        import_model(checkpoint)
    notes = import_model(checkpoint, HEADS).notes
    assert any("metric" in note for note in notes)
    assert any("openai_coeff 4.185" in note for note in notes)
    said = ReferenceSettings(num_heads=2, metric="error", coefficient=3.0)
    assert import_model(checkpoint, said).notes == []


def test_noise_prediction_reaches_the_scheduler(checkpoint):
    pipeline = import_model(checkpoint, ReferenceSettings(num_heads=2, predict_xstart=False)).pipeline
    assert pipeline.scheduler.config.prediction_type == "epsilon"


def test_settings_that_contradict_the_weights_are_refused(checkpoint, tmp_path):
    (tmp_path / "c.yaml").write_text(YAML.replace("n_embd: 16", "n_embd: 1536"))
    with pytest.raises(ValueError, match="n_embd = 1536, the weights have 16"):
        import_model(checkpoint, read_settings(tmp_path / "c.yaml"))
    with pytest.raises(ValueError, match="networks of 3 parameters, the weights are for 7960"):
        import_model(checkpoint, ReferenceSettings(num_heads=2, tensor_sizes=(1, 2)))
    with pytest.raises(ValueError, match="have 1210: name another task"):
        import_model(checkpoint, HEADS, task="digits")


class Code:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "without running code"),
        (Code(), "without running code"),
        ({"G": {"weight": torch.zeros(2)}}, "no G.pt of the reference"),
        ({"model": {}}, "no raw weights"),
        ([1], "must hold a dict"),
        ({"G": {"decoder.pos_emb": torch.full((1, 2, 3), torch.nan)}}, "NaN or infinity"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path, capsys, content, message):
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        import_model(path, HEADS)
    assert "must not run" not in capsys.readouterr().out


def test_a_missing_tensor_is_named(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    del content["G_ema"]["decoder.ln_f.bias"]
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match=r"lack.*ln_f\.bias"):
        import_model(checkpoint, HEADS)


def test_an_occupied_folder_is_not_written_to(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        import_checkpoints.main(["reference", str(checkpoint), "--num-heads", "2", "--out", str(tmp_path)])
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num-heads", "0"], "num_heads must be 1 to 4096, got 0"),
        (["--num-heads", "-2"], "num_heads must be 1 to 4096, got -2"),
        (["--num-heads", "3"], "3 attention heads, which must divide the model's width, 16"),
        (["--num-heads", "2", "--coefficient", "1e-320"], "coefficient must be 1e-06 to 1e+06"),
        (["--num-heads", "2", "--coefficient", "-1"], "coefficient must be 1e-06 to 1e+06"),
        (["--num-heads", "2", "--coefficient", "inf"], "coefficient must be a finite number"),
        (["--num-heads", "2", "--num-inference-steps", "1000000"], "num_inference_steps must be 1 to 1000"),
    ],
)
def test_settings_of_which_no_model_could_be_made_leave_nothing(checkpoint, tmp_path, capsys, flags, said):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as caught:
        import_checkpoints.main(["reference", str(checkpoint), "--out", str(tmp_path / "model"), *flags])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("n_head: 2", "n_head: .inf"), ("n_head: 2", "n_head: [1]"), ("max_freq_log2: 5", "max_freq_log2: 1e38"),
     ("openai_coeff: 2.5", "openai_coeff: 1e-320"), ("predict_xstart: true", "predict_xstart: 7"),
     ("dropout_prob: 0.1", "dropout_prob: .nan"), ("n_head: 2", "n_head: 2, parameter_sizes: [.inf]"),
     ("n_head: 2", "n_head: 2, parameter_names: {a: 1}")],
)  # fmt: skip
def test_a_configuration_with_impossible_values_is_one_sentence(tmp_path, old, new):
    assert old in YAML
    (tmp_path / "c.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(ValueError, match="has a value of another type or size") as error:
        read_settings(tmp_path / "c.yaml")
    is_one_sentence(error.value)


def test_a_configuration_nested_deeply_is_one_sentence(tmp_path):
    (tmp_path / "c.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not valid JSON") as error:
        read_settings(tmp_path / "c.json")
    is_one_sentence(error.value)


@pytest.mark.parametrize("name", ["pos_emb", "input_parameter", "output", "attn.key", "ln1"])
@pytest.mark.parametrize("tensor", [torch.zeros(3), torch.tensor(1.0), torch.zeros(0, 2)])
def test_tensors_of_shapes_that_no_model_has_are_one_sentence(checkpoint, tmp_path, name, tensor):
    content = torch.load(checkpoint, weights_only=True)
    changed = [key for key in content["G_ema"] if name in key]
    assert changed, list(content["G_ema"])
    content["G_ema"].update(dict.fromkeys(changed, tensor))
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match=r"G\.pt of the reference|lack|must") as error:
        import_model(checkpoint, HEADS)
    assert "\n" not in str(error.value)


def test_whole_numbers_are_no_weights(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["G_ema"] = {name: tensor.long() for name, tensor in content["G_ema"].items()}
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match=r"must hold floating-point numbers, got torch\.int64"):
        import_model(checkpoint, HEADS)


def test_an_import_that_was_killed_leaves_nothing_in_the_way(checkpoint, tmp_path, monkeypatch):
    flags = ["reference", str(checkpoint), "--num-heads", "2", "--out", str(tmp_path / "model")]
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *arguments, **options: None)  # as after SIGKILL: nobody cleans up
        patched.setattr("g_pt.model.pipeline.write_shims", killed)
        with pytest.raises(KeyboardInterrupt):
            import_checkpoints.import_reference(import_checkpoints.parse_command(flags))
    left = [path for path in tmp_path.iterdir() if path.name.startswith(".model.g-pt-")]
    assert len(left) == 1
    assert not (tmp_path / "model").exists()
    import_checkpoints.main(flags)
    assert ParameterUpdatePipeline.from_pretrained(tmp_path / "model").config.task == "reference-mnist"
    assert not left[0].exists()


def killed(*arguments):
    raise KeyboardInterrupt


def test_the_reference_s_networks_and_inputs():
    assert get_task("reference-mnist").layout.sizes == (7840, 10, 100, 10)
    assert get_task("reference-cifar10").layout.sizes == (432, 4608, 320, 10)
    black, white = torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.full((1, 1, 28, 28), 255, dtype=torch.uint8)
    task = get_task("reference-mnist")
    assert task.standardise(black)[0, 0].item() == pytest.approx(-0.1307 / 0.3081)
    assert task.standardise(white)[0, 0].item() == pytest.approx((1 - 0.1307) / 0.3081)
    colours = get_task("reference-cifar10").standardise(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))[0, :, 0, 0]
    assert colours.tolist() == pytest.approx([-125.3 / 63.0, -123.0 / 62.1, -113.9 / 66.7])


def test_the_cartpole_actor():
    task = get_task("reference-cartpole")
    assert task.layout.sizes == CARTPOLE
    assert task.layout.names[0] == "log_std"
    params = task.init(2, torch.Generator().manual_seed(0))
    assert not torch.equal(params[0], params[1])
    actor = task.network()
    actor.load_state_dict(task.layout.unflatten(params[0]))
    observations = torch.randn(5, 4)
    hidden = torch.nn.functional.selu(observations @ actor.actor[0].weight.T + actor.actor[0].bias)
    hidden = torch.nn.functional.selu(hidden @ actor.actor[2].weight.T + actor.actor[2].bias)
    torch.testing.assert_close(actor(observations), hidden @ actor.actor[4].weight.T + actor.actor[4].bias)
    spec, layout = task.permutations, task.layout
    permuted = spec.permute(params, layout, spec.draw(layout, 2, torch.Generator().manual_seed(1)))
    actor.load_state_dict(layout.unflatten(params[1]))
    before = actor(observations)
    actor.load_state_dict(layout.unflatten(permuted[1]))
    torch.testing.assert_close(actor(observations), before, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="IsaacGym"):
        task.evaluate(params)
