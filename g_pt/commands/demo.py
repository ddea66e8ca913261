"""gpt-demo: a page on this machine where a prompt is dragged and the updated networks are looked at.

Examples:
    gpt-demo
    gpt-demo --model cartpole-return --browser
    gpt-demo --model runs/digits/loss/pipeline --port 7861

Needs `pip install "g-pt[demo]"`. Nothing leaves this machine; stop it with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from g_pt.command_line.output import json_line
from g_pt.command_line.parsing import parse
from g_pt.command_line.terminal import exit_on_error, show_warnings


@dataclass(frozen=True)
class Arguments:
    """What is shown, and where."""

    model: str | None = None
    """Folder, bundled name or Hub repository of a G.pt, shown first; the bundled ones can be chosen beside it."""
    port: int = 7860
    """Port of the page on 127.0.0.1."""
    browser: bool = False
    """Open a browser window."""
    json: bool = False
    """Print one JSON object, with the page's address, on standard output instead of lines for people."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_error("gpt-demo"):
        parsed = parse(Arguments, arguments, prog="gpt-demo", description=__doc__)
        show_warnings("gpt-demo")
        out = sys.stdout
        with redirect_stdout(sys.stderr if parsed.json else out):  # gradio prints too, at the end once more
            models = models_of(parsed)
            page, address = open_page(parsed, models)
            if parsed.json:
                print(json_line({"address": address, "models": models}), file=out, flush=True)
            page.block_thread()


def models_of(arguments: Arguments) -> list[str]:
    """The models that can be chosen on the page, the one to begin with first; refuses one that is not there."""
    from g_pt.hub.download import bundled_models, resolve_model

    first = arguments.model or "digits-loss"
    resolve_model(first)
    return [first, *(name for name in bundled_models() if name != first)]


def open_page(arguments: Arguments, models: list[str]) -> tuple[Any, str]:
    """Load the first model, then serve; returns the page and its address, `block_thread` of the page waits."""
    if find_spec("gradio") is None:
        raise ValueError('the page needs gradio: pip install "g-pt[demo]"')
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    from g_pt.command_line.terminal import hide_bars_in_pipes
    from g_pt.commands.demo_page import build_page, load

    hide_bars_in_pipes()
    _ = load(models[0]).task  # refuse before the page is there
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing is fetched
    page = build_page(models)
    _, address, _ = page.launch(
        prevent_thread_lock=True,
        server_name="127.0.0.1",
        server_port=arguments.port,
        inbrowser=arguments.browser,
        theme=theme,
    )
    return page, address


if __name__ == "__main__":
    main()
