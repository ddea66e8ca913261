"""gpt-push: upload a model to the Hugging Face Hub, with a model card.

Examples:
    gpt-evaluate --model runs/digits/loss/pipeline --json runs/digits/loss/pipeline/report.json
    gpt-push runs/digits/loss/pipeline my-name/digits-loss
    gpt-push runs/digits/loss/pipeline my-name/digits-loss --report report.json --license apache-2.0 --private

What was measured goes into the card: a report.json beside the model, or the one of --report. Log in with
`hf auth login` first.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import tyro

from g_pt.command_line.output import check_file, json_line
from g_pt.command_line.parsing import parse
from g_pt.command_line.terminal import exit_on_error, show_warnings


@dataclass(frozen=True)
class Arguments:
    """Settings of gpt-push."""

    model: tyro.conf.Positional[str]
    """Folder or bundled name of a G.pt."""
    repo: tyro.conf.Positional[str]
    """Repository on the Hub, org/name; made where it does not exist."""
    report: Path | None = None
    """Report of gpt-evaluate --json; report.json of the model's folder where not given."""
    license: str | None = None
    """Identifier of the licence, apache-2.0 say."""
    private: bool = False
    """Make a new repository private."""
    replace_card: bool = False
    """Replace a card that somebody has written or changed; without it ours is written beside, as README.g-pt.md."""
    revision: str | None = None
    """Branch to commit to; main where not given."""
    card_only: Path | None = None
    """Write the model card to this file and upload nothing."""
    json: bool = False
    """Print one JSON object on standard output instead of a line for people."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_error("gpt-push"):
        parsed = parse(Arguments, arguments, prog="gpt-push", description=__doc__)
        show_warnings("gpt-push")
        with redirect_stdout(sys.stderr if parsed.json else sys.stdout):
            result = run(parsed)
        if parsed.json:
            print(json_line(result))


def run(arguments: Arguments) -> dict[str, str]:
    """Load, make the card, upload; returns what `--json` prints."""
    from g_pt.command_line.terminal import hide_bars_in_pipes
    from g_pt.hub.download import resolve_model
    from g_pt.model.pipeline import ParameterUpdatePipeline
    from g_pt.report.document import read_report, saved_report

    if arguments.repo.count("/") != 1:
        raise ValueError(f"the repository must be named org/name, got {arguments.repo!r}")
    if arguments.card_only is not None:
        check_file(arguments.card_only, "--card-only")
    hide_bars_in_pipes()
    folder = resolve_model(arguments.model)
    report = saved_report(folder) if arguments.report is None else read_report(arguments.report)
    pipeline = ParameterUpdatePipeline.from_pretrained(folder)
    if arguments.card_only is not None:
        card = pipeline.model_card(arguments.repo, report=report, license=arguments.license)
        arguments.card_only.write_text(card, encoding="utf-8")
        print(f"written: {arguments.card_only}")
        return {"repo": arguments.repo, "card": str(arguments.card_only)}
    address = pipeline.push_to_hub(
        arguments.repo,
        report=report,
        license=arguments.license,
        private=arguments.private or None,
        replace_card=arguments.replace_card,
        revision=arguments.revision,
    )
    print(f"uploaded: {address}")
    return {"repo": arguments.repo, "address": str(address)}


if __name__ == "__main__":
    main()
