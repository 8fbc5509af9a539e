"""How an event loop waits for the native module.

Each loop has a bell: a descriptor that becomes readable when replies are there. The loop takes all
of them at once, and sets the results of its futures. No thread touches the loop.
"""

from __future__ import annotations

import itertools
from weakref import WeakKeyDictionary, ref

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Imported when a loop runs: it takes longer than all the rest.
    import asyncio
    from collections.abc import Callable
    from typing import Any

__all__ = ["LoopBell", "bell_of_loop", "trace_by"]

# Begins the span of a call, and returns it, None if the call is not traced.
_trace: Callable[[Any, tuple[Any, ...]], Any] | None = None

# Only the loop keeps its bell: the futures of a bell refer to the loop.
_bells: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[LoopBell]] = WeakKeyDictionary()


def bell_of_loop() -> LoopBell:
    """Returns the bell of the running loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    known = _bells.get(loop)
    bell = None if known is None else known()
    if bell is None:
        bell = LoopBell(loop)
        _bells[loop] = ref(bell)
    return bell


def trace_by(begin_span: Callable[[Any, tuple[Any, ...]], Any]) -> None:
    """Sets the function that begins a span for each call. Called by `lockstock.otel` only."""
    global _trace
    _trace = begin_span


class LoopBell:
    """The calls of one event loop that are under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._bell = _core.Bell()
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        # Outcomes whose futures have no result yet.
        self._taken: list[tuple[int, bool, Any]] = []
        loop.add_reader(self._bell.fileno(), self._ring)

    async def run(self, begin: Callable[..., None], *args: Any) -> Any:
        """Begins a call, and returns its outcome. If the task is cancelled, drops the call."""
        import asyncio

        span = None if _trace is None else _trace(begin, args)
        failure: BaseException | None = None
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._futures[number] = future
        try:
            begin(self._bell, number, *args)
            return await future
        except BaseException as raised:
            failure = raised
            raise
        finally:
            if span is not None:
                span.end(failure)
            # A circle with its traceback, which refers to this frame.
            failure = None
            if self._futures.pop(number, None) is not None:
                self._bell.cancel(number)
            elif not future.cancelled():
                # Otherwise the loop reports it as never retrieved if the task was cancelled.
                future.exception()
            # The traceback of a cancellation refers to this frame, and a lock in the future would
            # stay held as long.
            del future

    def _ring(self) -> None:
        taken = self._taken
        try:
            self._bell.take(taken)
            while taken:
                number, has_failed, value = taken[0]
                future = self._futures.get(number)
                if future is not None and not future.done():
                    if has_failed:
                        future.set_exception(value)
                    else:
                        future.set_result(value)
                self._futures.pop(number, None)
                del taken[0]
        except BaseException:
            # A signal handler has raised: the rest comes later.
            import asyncio

            asyncio.get_running_loop().call_soon(self._ring)
            raise
