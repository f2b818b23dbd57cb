"""A misbehaving web server, for one test each, also as a hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from web_server import Web, serving


@pytest.fixture
def web() -> Iterator[Web]:
    """A loopback server that speaks Range and ETag and misbehaves on request."""
    with serving() as found:
        yield found


@pytest.fixture
def hub(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The loopback server as huggingface_hub's hub."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", web.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = web.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return web
