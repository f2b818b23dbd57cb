"""An MCP server with the zoom tool: an agent looks at a region of an image in the detail of its file.

Images are those under one folder, by their path in it; nothing else of the disk can be read. The rectangle
and the size shown are those of the dialect ``openai-tools`` (``policies/zoom_window.py``).
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscot_core import __version__
from viscot_core.boxes.geometry import Box, Frame
from viscot_core.errors import ImageError, UsageError, ViscotError
from viscot_core.images.formats import image_endings
from viscot_core.images.reading import image_size, open_image
from viscot_core.paths import inside
from viscot_core.policies.dialects.openai_tools import OPENAI_TOOLS
from viscot_core.policies.zoom_window import Refused, shown_size, window_of

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from PIL import Image

MOST_LISTED = 500
"""Images that are listed at most: an agent reads the list."""
ZOOM = (
    "Shows a region of an image in the detail of the original file, to read or see what is too small to be "
    "certain of. bbox_2d is [x1, y1, x2, y2], the upper left and the lower right corner, each from 0 to 1000 "
    "of the width and height of the image; without it the whole image is shown."
)


def crop_of(root: Path, name: str, bbox_2d: list[float] | None, most_pixels: int) -> tuple[Image.Image, str]:
    """The crop that is shown, and a sentence that says which rectangle of the image it is.

    Raises:
        ImageError, DataError: there is no such image under ``root``, or it cannot be read.
        Refused: the box cannot be shown.
    """
    image = open_image(inside(root, name), as_seen=True)
    width, height = image.size
    window = (0, 0, width, height)
    if bbox_2d is not None:
        if len(bbox_2d) != 4 or not all(map(math.isfinite, bbox_2d)):
            raise Refused("bbox_2d is four numbers, [x1, y1, x2, y2]")
        x0, y0, x1, y1 = OPENAI_TOOLS.shares((bbox_2d[0], bbox_2d[1], bbox_2d[2], bbox_2d[3]), image.size)
        box = Box(x0 * width, y0 * height, x1 * width, y1 * height, Frame.ORIGINAL)
        window = window_of(box, window, image.size, OPENAI_TOOLS.rules)
    shown = image.crop(window)
    size = shown_size(shown.size, OPENAI_TOOLS.rules, most_pixels)
    if size != shown.size:
        shown = shown.resize(size)
    where = f"pixels {', '.join(map(str, window))} of {width} x {height}"
    return shown, f"{name}: {where}, shown as {size[0]} x {size[1]}"


def images_under(root: Path) -> list[Path]:
    """The images under ``root``, sorted."""
    endings = image_endings()
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in endings and path.is_file())


def _line(path: Path, root: Path) -> str:
    """Path and size of an image; a size that cannot be read says so."""
    try:
        width, height = image_size(path)
        size = f"{width} x {height}"
    except ImageError:
        size = "cannot be read"
    return f"{path.relative_to(root).as_posix()}  {size}"


def zoom_server(root: Path, most_pixels: int) -> MCPServer[Any]:
    """The server, not running.

    Raises:
        UsageError: ``root`` is no folder, or the package mcp is not installed.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; --root is the folder of the images.")
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver import Image as Shown
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise UsageError("An MCP server needs a package more: pip install 'viscot[mcp]'.") from error

    class Strict(MCPServer[Any]):
        """MCP's server passes over arguments that a tool has not: "box" would show the whole image."""

        async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
            for tool in await self.list_tools():
                known = tool.input_schema.get("properties", {})
                unknown = [word for word in arguments if word not in known]
                if tool.name == name and unknown:
                    takes = f"its arguments are {', '.join(known)}" if known else "it takes none"
                    raise ToolError(f"{name} has no argument {unknown[0]!r}; {takes}.")
            return await super().call_tool(name, arguments, context)

    instructions = "Look at images closely: list_images, then zoom."
    server = Strict("viscot", instructions=instructions, version=__version__)

    @server.tool(description="The images that can be looked at: path and size in pixels.")
    def list_images() -> str:
        found = images_under(root)
        lines = [_line(path, root) for path in found[:MOST_LISTED]]  # each opens its file
        more = [f"... and {len(found) - MOST_LISTED} more"] if len(found) > MOST_LISTED else []
        return "\n".join(lines + more) or "There is no image."

    def zoom(image: str, bbox_2d: list[float] | None = None) -> list[Any]:
        # Only a ToolError's words reach the model.
        try:
            shown, where = crop_of(root, image, bbox_2d, most_pixels)
        except (ViscotError, Refused) as error:
            raise ToolError(str(error)) from error
        file = io.BytesIO()
        shown.save(file, "PNG", compress_level=1)
        return [where, Shown(data=file.getvalue(), format="png")]

    server.tool(description=ZOOM, structured_output=False)(zoom)
    return server
