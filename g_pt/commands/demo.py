"""gpt-demo: a page on this machine where a prompt is dragged and the updated networks are looked at.

Examples:
    gpt-demo
    gpt-demo --model cartpole-return --browser
    gpt-demo --model runs/digits/loss/pipeline --port 7861

Needs `pip install "g-pt[demo]"`. Nothing leaves this machine, whatever GRADIO_ variables say, and only this machine is
answered; uploaded networks (.safetensors, at most 64 MB) are removed at the end. Stop it with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from g_pt.command_line.output import json_line
from g_pt.command_line.parsing import parse
from g_pt.command_line.terminal import exit_on_error, show_warnings

MAX_UPLOAD = "64mb"
HOSTS = ["127.0.0.1", "localhost"]


@dataclass(frozen=True)
class Arguments:
    """Settings of gpt-demo."""

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
            models = offered_models(parsed)
            with tempfile.TemporaryDirectory(prefix="gpt-demo-") as uploads:  # removed at the end, with what is in it
                page, address = open_page(parsed, models, uploads)
                print(f"the page is at {address}; Ctrl-C stops it")
                if parsed.json:
                    print(json_line({"address": address, "models": models}), file=out, flush=True)
                page.block_thread()


def offered_models(arguments: Arguments) -> list[str]:
    """The models that can be chosen on the page, the one to begin with first; refuses one that is not there."""
    from g_pt.hub.download import bundled_models, resolve_model

    first = arguments.model or "digits-loss"
    resolve_model(first)
    return [first, *(name for name in bundled_models() if name != first)]


def open_page(arguments: Arguments, models: list[str], uploads: str) -> tuple[Any, str]:
    """Load the first model, then serve this machine alone; returns the page and its address.

    `block_thread` of the page waits.

    Args:
        arguments: of the command line.
        models: of `offered_models`.
        uploads: folder for the files that people upload and that the page shows.
    """
    if find_spec("gradio") is None:
        raise ValueError('the page needs gradio: pip install "g-pt[demo]"')
    # read when gradio is imported, or at the launch: nothing of them may open the page to others
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = uploads
    import gradio as gr

    from g_pt.command_line.terminal import hide_bars_in_pipes
    from g_pt.commands.demo_page import build_page, load

    hide_bars_in_pipes()
    _ = load(models[0]).task  # refuse before the page is there
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing is fetched
    page = build_page(models)
    return page, serve(page, arguments.port, inbrowser=arguments.browser, theme=theme)


def serve(page: Any, port: int | None, **options: Any) -> str:
    """Serve a page to this machine alone; returns its address.

    Args:
        page: of `build_page`.
        port: on 127.0.0.1; any that is free where not given.
        options: of gradio's `launch`.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # a page elsewhere could have its own name lead here, and read the answers: only our own names are answered
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    _, address, _ = page.launch(
        prevent_thread_lock=True,
        share=False,  # where it is not said, GRADIO_SHARE decides
        quiet=True,  # without gradio's offer of a public link
        server_name="127.0.0.1",
        server_port=port,
        max_file_size=MAX_UPLOAD,
        app_kwargs={"middleware": [hosts]},
        mcp_server=False,
        footer_links=[],
        **options,
    )
    return str(address)


if __name__ == "__main__":
    main()
