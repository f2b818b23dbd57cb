"""What all requests hold together stays within its limit, and is given back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from serve_help import Gated, Looker, Running, data_url, question, wait_for

from viscot_core.serve.errors import ApiError
from viscot_core.serve.guard.flight import ByteLimit, HeldBytes, PixelLimit

Serve = Callable[..., Running]


def test_pixels_are_given_in_the_order_of_the_requests() -> None:
    async def main() -> list[str]:
        pixels, order = PixelLimit(10), []

        async def work(name: str, count: int) -> None:
            await pixels.take(count)
            order.append(name)

        await pixels.take(8)
        waiting = [asyncio.create_task(work(*each)) for each in (("large", 9), ("left", 10), ("small", 1))]
        await asyncio.sleep(0)
        assert order == [], "the small one waits behind the large one: else that could wait for ever"
        waiting[1].cancel()
        await asyncio.sleep(0)
        pixels.give(8)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert pixels.free == 0
        return order

    assert asyncio.run(main()) == ["large", "small"]


def test_a_request_that_leaves_as_its_turn_comes_gives_it_back() -> None:
    async def main() -> None:
        pixels = PixelLimit(10)
        await pixels.take(10)
        waits = asyncio.create_task(pixels.take(5))
        await asyncio.sleep(0)
        pixels.give(10)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        assert pixels.free == 10

    asyncio.run(main())


def test_bytes_are_counted_and_given_back() -> None:
    total = ByteLimit(10)
    with HeldBytes(total) as one:
        one.add(6)
        with pytest.raises(ApiError, match="too many bytes"), HeldBytes(total) as other:
            other.add(5)
        assert total.held == 6
    assert total.held == 0


def test_only_so_many_pixels_are_decoded_at_one_time(serve: Serve) -> None:
    """Four images fit at once; the fifth waits, and is answered when the others are."""
    engine = Gated()
    here = serve(engine, pixels=10_000)
    body = question(url=data_url(Image.new("RGB", (100, 100))), viscot={"strategy": "direct"})
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(here.post, body) for _ in range(5)]
        wait_for(lambda: here.server.gate.inside == 5 and here.server.pixels.free == 0)
        engine.go.set()
        assert [each.result().status_code for each in asked] == [200] * 5
    wait_for(lambda: bool(here.server.pixels.free == here.server.limits.pixels_in_flight))
    assert here.server.bytes.held == 0


def test_one_request_may_not_hold_more_than_all_may(serve: Serve) -> None:
    here = serve(pixels=10_000)
    part = {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (100, 100)))}}
    reply = here.post({"viscot": {"strategy": "raw"}, "messages": [{"role": "user", "content": [part] * 5}]})
    assert reply.status_code == 413 and "40,000 pixels" in reply.json()["error"]["message"]


def test_bytes_of_unfinished_requests_count(serve: Serve) -> None:
    here = serve(Looker(), body_bytes=10_000)  # 160,000 in flight
    here.server.bytes.held = 159_990
    reply = here.post(json.dumps(question()).encode())
    assert reply.status_code == 429 and reply.headers["retry-after"] == "2"
    here.server.bytes.held = 0
    assert here.post(question()).status_code == 200
