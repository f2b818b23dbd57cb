"""Whether shared-prefix decoding says the same as the plain way: asked of a model when it is loaded.

That a prefix may be read once for several questions is a property of a model's attention and positions. Where
it does not hold, nothing fails: shapes fit and the words are others (sliding layers, positions that go on
from another conversation, tokens that end an image). So two drawn images are asked both ways, and a talk
that looks at both again, which costs three prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from viscot_core.boxes.geometry import Size
from viscot_core.conversation import IMAGE, Message
from viscot_core.engines.base import Generation, Request
from viscot_core.images.view import view_of

TOKENS = 8
SIZES: tuple[Size, Size] = ((160, 112), (96, 144))


def check_requests() -> list[Request]:
    """Two questions about one image, a chain of two turns about two, and the same chain a look later."""
    first, second = (view_of(_drawn(size)) for size in SIZES)
    chain = (
        Message("user", f"{IMAGE}\nWhere is the circle?"),
        Message("assistant", "[0.1, 0.2, 0.5, 0.6]"),
        Message("user", f"{IMAGE}\nWhich shape is this?"),
    )
    look = (Message("assistant", "[0.3, 0.3, 0.9, 0.8]"), Message("user", f"{IMAGE}\nAnd this one?"))
    return [
        Request((Message("user", f"{IMAGE}\nWhat is in this image?"),), (first,), TOKENS),
        Request(
            (Message("user", f"{IMAGE}\nName the colour of the larger shape, please."),), (first,), TOKENS
        ),
        Request(chain, (second, first), TOKENS, follow_ups=1),
        Request((*chain, *look), (second, first, second), TOKENS),
    ]


def agree(
    plain: Callable[[Sequence[Request]], list[Generation]], fast: Callable[..., list[Generation]]
) -> bool:
    """Whether both ways give the same words; a way that fails does not agree."""
    asked = check_requests()
    # Twice the fast way: the second time all is kept from before, and another conversation lies between.
    try:
        return fast(asked) == plain(asked) == fast(asked[::-1])[::-1]
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, StopIteration):
        return False


def _drawn(size: Size) -> Image.Image:
    width, height = size
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    pen = ImageDraw.Draw(image)
    pen.ellipse((width // 8, height // 6, width // 2, height // 2), fill=(200, 30, 40))
    pen.rectangle((width // 2, height // 2, width - 9, height - 7), fill=(30, 60, 200))
    return image
