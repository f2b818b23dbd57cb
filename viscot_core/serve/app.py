"""The HTTP routes: OpenAI's models and chat completions, health, metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from viscot_core import __version__
from viscot_core.serve.endpoint import ChatEndpoint
from viscot_core.serve.errors import ApiError
from viscot_core.serve.guard.gate import UnclearLength, check_key
from viscot_core.serve.metrics import CONTENT_TYPE
from viscot_core.serve.server import Server


def create_app(server: Server) -> FastAPI:
    """The application; at its shutdown the queued prompts are finished."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    # No /docs: that page loads scripts from another host, and the route with a raw body has no schema.
    app = FastAPI(title="viscot", version=__version__, lifespan=lifespan, openapi_url=None)
    app.add_middleware(UnclearLength)
    app.add_exception_handler(ApiError, _refusal)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_route("/v1/chat/completions", ChatEndpoint(server), methods=["POST"])
    started = int(time.time())

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "viscot"}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        check_key(request, server.options.api_key)
        return {"object": "list", "data": [card(name) for name in server.names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        check_key(request, server.options.api_key)
        if name not in server.names:
            raise ApiError(
                404, f"This server has no such model; it has {server.names[0]}.", "model_not_found"
            )
        return card(name)

    @app.get("/health")
    async def health() -> JSONResponse:
        batcher = server.batcher
        # 503 only until it is worth a try: only a question can find out that the engine answers again.
        works = batcher.alive and not batcher.is_failing
        about = {
            "status": ("failing" if batcher.failures else "ok") if batcher.alive else "stopping",
            "model": server.names[0],
            "version": __version__,
            "in_flight": server.gate.inside,
            "queue": server.limits.queue,
        }
        return JSONResponse(about, status_code=200 if works else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> PlainTextResponse:
        check_key(request, server.options.api_key)
        return PlainTextResponse(server.metrics.text(), media_type=CONTENT_TYPE)

    return app


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _not_served(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, in the same format as every other error."""
    assert isinstance(error, HTTPException)
    refusal = ApiError(
        error.status_code, f"{error.detail}: {request.method} is not served here.", "not_found"
    )
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=dict(error.headers or {}))
