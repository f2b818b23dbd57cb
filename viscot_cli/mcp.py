"""``viscot mcp``: an MCP server with the zoom tool, for agents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from viscot_cli import console


def mcp(
    root: Annotated[Path, typer.Option(help="The folder of the images; nothing outside of it is read.")],
    max_pixels: Annotated[
        int, typer.Option(min=1024, help="Most pixels of an image or crop as it is shown.")
    ] = 2_000_000,
) -> None:
    """An MCP server (standard input and output) with the tools list_images and zoom, for agents.

    zoom cuts a region from the original file: the same tool that --policy zoom gives to a model.
    """
    from viscot_core.files import expanded
    from viscot_core.serve.zoom_server import zoom_server

    server = zoom_server(expanded(root), max_pixels)
    console.say(f"The zoom tool for {root} waits for an agent on standard input (stop with Ctrl-C)")
    server.run("stdio")
