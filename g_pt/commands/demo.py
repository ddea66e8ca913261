"""gpt-demo: a page on this machine where a prompt is dragged and the updated networks are looked at.

Examples:
    gpt-demo
    gpt-demo --model runs/digits/loss/pipeline --port 7861

Needs `pip install "g-pt[demo]"`. Nothing leaves this machine; stop it with Ctrl-C.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

import tyro

from g_pt.commands.terminal import exit_on_user_error, show_warnings


@dataclass(frozen=True)
class Arguments:
    """What is shown, and where."""

    model: str | None = None
    """Folder, bundled name or Hub repository of a G.pt, shown first; the bundled ones can be chosen beside it."""
    port: int = 7860
    """Port of the page on 127.0.0.1."""
    browser: bool = False
    """Open a browser window."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    with exit_on_user_error("gpt-demo"):
        parsed = tyro.cli(Arguments, args=arguments, prog="gpt-demo", description=(__doc__ or "").strip())
        show_warnings("gpt-demo")
        run(parsed)


def run(arguments: Arguments) -> None:
    """Load the first model, then serve until stopped."""
    if find_spec("gradio") is None:
        raise ValueError('the page needs gradio: pip install "g-pt[demo]"')
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    from g_pt.commands.terminal import hide_bars_in_pipes
    from g_pt.demo_page import build_page, load
    from g_pt.hub import bundled_models

    hide_bars_in_pipes()
    models = [*([arguments.model] if arguments.model else []), *bundled_models()]
    models.sort(key=lambda name: name != (arguments.model or "digits-loss"))
    _ = load(models[0]).task  # refuse before the page is there
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing is fetched
    build_page(list(dict.fromkeys(models))).launch(
        server_name="127.0.0.1", server_port=arguments.port, inbrowser=arguments.browser, theme=theme
    )


if __name__ == "__main__":
    main()
