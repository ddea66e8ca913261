"""docs/reference.md is what the code says."""

from documents import ROOT, program_module

PAGE = ROOT / "docs" / "reference.md"
builder = program_module(ROOT / "docs" / "build_reference.py")


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == builder.build(), "run `python docs/build_reference.py`"


def test_every_flag_and_public_name_is_on_it():
    import dataclasses

    import checkpoints_dataset
    import g_pt
    from g_pt.commands import sample

    text = PAGE.read_text()
    for package in (g_pt, checkpoints_dataset):
        for name in package.__all__:
            assert f"### `{package.__name__}.{name}`" in text
    for field in dataclasses.fields(sample.Arguments):
        assert f"| `--{field.name.replace('_', '-')}` |" in text
    assert "| `--alignment.num-steps` | `0` | Optimizer steps; 0 for no second stage. |" in text


def test_a_changed_default_would_be_seen(monkeypatch):
    from g_pt.commands import evaluate

    before = builder.build()
    monkeypatch.setattr(evaluate.Arguments.__dataclass_fields__["networks"], "default", 7)
    assert builder.build() != before
