"""Event loops for the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvloop

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.SelectorEventLoop,
    uvloop.new_event_loop,
]


def run(work: Any, new_loop: Callable[[], Any] = asyncio.SelectorEventLoop) -> Any:
    """Runs a coroutine in a new loop, as `asyncio.run` does."""
    loop = new_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
