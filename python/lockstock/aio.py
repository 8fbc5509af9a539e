"""How an event loop waits for the native module.

Commands go over a connection of the loop, which waits for its descriptor: no other thread takes
part. A loop has such a connection after some calls.

Everything else runs on the runtime of the process. For that, each loop has a bell: a descriptor
that becomes readable when outcomes are there. The loop takes all of them at once, and sets the
results of its futures. No thread touches the loop.
"""

from __future__ import annotations

import itertools
from contextvars import Context
from weakref import WeakKeyDictionary, ref

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Imported when a loop runs: it takes longer than all the rest.
    import asyncio
    from collections.abc import Callable, Coroutine
    from typing import Any

__all__ = ["LoopBell", "bell_of_loop", "is_tracing", "trace_by"]

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


def is_tracing() -> bool:
    """Returns whether any call is traced."""
    return _trace is not None


class LoopBell:
    """The calls of one event loop that are under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.native = _core.Bell()
        self.wires = _core.Wires(self.native, _readable, _check)
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        # Outcomes whose futures have no result yet.
        self._taken: list[tuple[int, bool, Any]] = []
        loop.add_reader(self.native.fileno(), self._ring)

    def execute(self, store: _core.Store, *words: Any) -> Coroutine[Any, Any, Any]:
        """Executes a command. Returns its reply."""
        return self._command(store.send_execute, store.begin_execute, words)

    def pipeline(
        self, store: _core.Store, commands: list[tuple[Any, ...]]
    ) -> Coroutine[Any, Any, Any]:
        """Executes several repeatable commands. Returns their replies."""
        return self._command(store.send_pipeline, store.begin_pipeline, (commands,))

    def run(self, begin: Callable[..., None], *args: Any) -> Coroutine[Any, Any, Any]:
        """Begins a call on the runtime. Returns its outcome."""
        return self._command(None, begin, args)

    async def _command(
        self, send: Callable[..., Any] | None, begin: Callable[..., None], args: tuple[Any, ...]
    ) -> Any:
        span = None if _trace is None else _trace(begin, args)
        if span is not None:
            with span:
                return await self._carry_out(send, begin, args)
        return await self._carry_out(send, begin, args)

    async def _carry_out(
        self, send: Callable[..., Any] | None, begin: Callable[..., None], args: tuple[Any, ...]
    ) -> Any:
        pending = None if send is None else send(self.wires, *args)
        if pending is None:
            return await self._begun(begin, *args)
        return await self.reply(pending)

    async def reply(self, pending: _core.Pending) -> Any:
        """Returns the reply to what was sent over the connection of the loop."""
        reply = await pending
        # What it could not carry out goes over the runtime.
        return reply if reply is not NotImplemented else await self._begun(pending.begin_rest)

    async def _begun(self, begin: Callable[..., None], *args: Any) -> Any:
        """Begins a call, and returns its outcome. If the task is cancelled, drops the call."""
        import asyncio

        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._futures[number] = future
        try:
            begin(self.native, number, *args)
            return await future
        finally:
            if self._futures.pop(number, None) is not None:
                self.native.cancel(number)
            elif not future.cancelled():
                # Otherwise the loop reports it as never retrieved if the task was cancelled.
                future.exception()
            # The traceback of a cancellation refers to this frame, and a lock in the future would
            # stay held as long.
            del future

    def _ring(self) -> None:
        taken = self._taken
        try:
            self.native.take(taken)
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


def _readable(wire: _core.Wire) -> None:
    """Reads replies, resumes the tasks that await them, and sends what these have pushed."""
    try:
        wire.receive()
        # Without a step of the interpreter between two tasks: if a signal handler raises, it does
        # so in one of them, and the rest comes later.
        list(itertools.starmap(Context.run, wire))
    except BaseException:
        import asyncio

        asyncio.get_running_loop().call_soon(_readable, wire)
        raise
    finally:
        wire.finish()


def _check(wire: _core.Wire, timer: int) -> None:
    if wire.expire(timer):
        _readable(wire)
