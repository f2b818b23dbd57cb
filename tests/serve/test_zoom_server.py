"""The MCP server with the zoom tool, asked by MCP's own client: in this process, and as a command."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image
from zoom_talks import VIEW

pytest.importorskip("mcp")

from mcp import StdioServerParameters
from mcp.client import Client

from viscot_core import __version__
from viscot_core.serve import zoom_server as module
from viscot_core.serve.zoom_server import zoom_server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "in").mkdir(parents=True)
    VIEW.image.save(tmp_path / "images" / "in" / "a.png")
    VIEW.image.save(tmp_path / "outside.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    return tmp_path / "images"


def asked(server: Any, tool: str, **arguments: Any) -> Any:
    async def ask() -> Any:
        async with Client(server) as client:
            return await client.call_tool(tool, arguments)

    return anyio.run(ask)


def image_of(result: Any) -> Image.Image:
    (content,) = [part for part in result.content if part.type == "image"]
    return Image.open(io.BytesIO(base64.b64decode(content.data)))


def test_a_region_comes_in_the_pixels_of_the_file(root: Path) -> None:
    result = asked(zoom_server(root, 10**7), "zoom", image="in/a.png", bbox_2d=[500, 250, 1000, 750])
    assert not result.is_error
    assert result.content[0].text == "in/a.png: pixels 500, 200, 1000, 600 of 1000 x 800, shown as 500 x 400"
    assert image_of(result).tobytes() == VIEW.image.crop((500, 200, 1000, 600)).tobytes()


def test_the_whole_image_and_the_limit_of_pixels(root: Path) -> None:
    result = asked(zoom_server(root, 20_000), "zoom", image="in/a.png")
    width, height = image_of(result).size
    assert width * height <= 20_000 and width / height == pytest.approx(1.25, rel=0.02)


def test_the_tools_are_listed_and_so_are_the_images(root: Path) -> None:
    async def names() -> list[str]:
        async with Client(zoom_server(root, 10**6)) as client:
            assert client.server_info.version == __version__
            return [tool.name for tool in (await client.list_tools()).tools]

    assert anyio.run(names) == ["list_images", "zoom"]
    text = asked(zoom_server(root, 10**6), "list_images").content[0].text
    assert text == "broken.png  cannot be read\nin/a.png  1000 x 800"


def test_only_images_that_are_listed_are_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(module, "MOST_LISTED", 1)
    monkeypatch.setattr(module, "image_size", lambda path: opened.append(path) or (4, 3))
    text = asked(zoom_server(root, 10**6), "list_images").content[0].text
    assert text == "broken.png  4 x 3\n... and 1 more" and len(opened) == 1


@pytest.mark.parametrize(
    ("image", "box", "reason"),
    [
        ("in/a.png", [5, 5, 1, 1], "no area"),
        ("in/a.png", [1, 2, 3], "four numbers"),
        ("in/a.png", [2000, 2000, 3000, 3000], "outside of the image"),
        ("in/a.png", [0, 0, 0.1, 0.1], "smaller than"),
        ("gone.png", None, "There is no image"),
        ("broken.png", None, "broken.png"),
        ("../outside.png", None, "leads outside"),
        ("/etc/passwd", None, "leads outside"),
        ("in/a.png\0", None, "leads outside"),
    ],
)
def test_what_cannot_be_shown_is_an_error_of_the_tool(root: Path, image: str, box: Any, reason: str) -> None:
    result = asked(zoom_server(root, 10**6), "zoom", image=image, bbox_2d=box)
    assert result.is_error and reason in result.content[0].text


def test_an_argument_that_a_tool_has_not_is_refused(root: Path) -> None:
    """ "box" for bbox_2d would show the whole image, as if it were the region."""
    server = zoom_server(root, 10**6)
    wrong = asked(server, "zoom", image="in/a.png", box=[0, 0, 500, 500])
    assert wrong.is_error
    assert "zoom has no argument 'box'; its arguments are image, bbox_2d." in wrong.content[0].text
    wrong = asked(server, "list_images", root="/")
    assert wrong.is_error and "list_images has no argument 'root'; it takes none." in wrong.content[0].text


@pytest.mark.slow
def test_the_command_speaks_mcp_on_its_standard_output(root: Path) -> None:
    command = ["-m", "viscot_cli", "mcp", "--root", str(root)]
    server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
    assert image_of(asked(server, "zoom", image="in/a.png", bbox_2d=[0, 0, 500, 500])).size == (500, 400)


def test_a_root_that_is_no_folder(cli: Callable[..., Any], tmp_path: Path) -> None:
    ran = cli("mcp", "--root", tmp_path / "gone")
    assert ran.code == 2 and "is no folder" in ran.err
