"""Signals during waits, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import servers
from caches import cache_at, eventually, waiters
from programs import finished, started

# Far above what an interrupted call takes, far below what the call would wait for.
_PROMPT_S = 10
_LONG_S = 60


class Interrupted(Exception):
    """What the handler raises, as celery's soft time limit does."""


@contextmanager
def alarm(after_s: float = 0.2) -> Iterator[None]:
    """Raises `Interrupted` in the block after some time, and expects it promptly."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handle)
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        with pytest.raises(Interrupted):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < _PROMPT_S


@contextmanager
def paused(redis: servers.Redis) -> Iterator[None]:
    """Stops Redis, so that it accepts connections and does not reply."""
    redis.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        redis.process.send_signal(signal.SIGCONT)


def test_a_handler_that_raises_ends_a_wait_for_a_lock(redis_url: str) -> None:
    cache = cache_at(redis_url, "waits")
    # Another client: waiters are in Redis.
    holder = cache_at(redis_url, "waits", SOCKET_TIMEOUT=5).lock("l", timeout=_LONG_S)
    with holder:
        for wait in (None, _LONG_S):
            lock = cache.lock("l", timeout=_LONG_S, blocking_timeout=wait)
            with alarm():
                lock.acquire()
            with pytest.raises(Exception, match="not"):
                lock.release()
        eventually(lambda: waiters(holder.store, holder.name) == 0, "no waiter is left")
    eventually(lambda: not cache.lock("l").locked(), "the lock is free")


_READS: dict[str, Callable[[Any], Any]] = {
    "get": lambda cache: cache.get("k"),
    "set": lambda cache: cache.set("other", 1),
    "get_many": lambda cache: cache.get_many(["k", "other"]),
    "incr": lambda cache: cache.incr("counter"),
    "keys": lambda cache: cache.keys("*"),
    "locked": lambda cache: cache.lock("l").locked(),
}


@pytest.mark.parametrize("call", _READS)
def test_a_handler_that_raises_ends_a_command(redis: servers.Redis, call: str) -> None:
    cache = cache_at(redis.url, "commands", SOCKET_TIMEOUT=_LONG_S, IGNORE_EXCEPTIONS=True)
    cache.set_many({"k": "v", "counter": 1})
    cache.lock("l").locked()
    with paused(redis), alarm():
        _READS[call](cache)
    # The reply that came late is that of no other call.
    for number in range(20):
        assert cache.get("k") == "v"
        cache.set("n", number)
        assert cache.get("n") == number


def test_a_handler_that_returns_does_not_end_a_command(redis: servers.Redis) -> None:
    cache = cache_at(redis.url, "returns", SOCKET_TIMEOUT=_LONG_S)
    cache.set("k", "v")
    handled = []

    def resume(number: int, frame: FrameType | None) -> None:
        handled.append(number)
        redis.process.send_signal(signal.SIGCONT)

    before = signal.signal(signal.SIGALRM, resume)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with paused(redis):
            assert cache.get("k") == "v"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert handled


def test_an_interrupted_release_is_carried_out(redis: servers.Redis) -> None:
    cache = cache_at(redis.url, "release", SOCKET_TIMEOUT=_LONG_S)
    lock = cache.lock("l", timeout=_LONG_S)
    assert lock.acquire()
    with paused(redis), alarm():
        lock.release()
    eventually(lambda: not cache.lock("l").locked(), "the lock is released")


def test_an_interrupted_acquire_leaves_no_lock_behind(redis: servers.Redis) -> None:
    cache = cache_at(redis.url, "acquire", SOCKET_TIMEOUT=_LONG_S)
    for _ in range(3):
        # With a connection that is open.
        with cache.lock("l", timeout=_LONG_S):
            pass
        with paused(redis), alarm():
            cache.lock("l", timeout=_LONG_S).acquire()
        eventually(lambda: cache.lock("l", timeout=_LONG_S).acquire(blocking=False), "it is free")
        cache.delete("l")


def test_an_interrupted_acquire_of_a_process_that_ends_leaves_no_lock_behind(
    redis: servers.Redis,
) -> None:
    cache = cache_at(redis.url, "ends", SOCKET_TIMEOUT=_LONG_S)

    def acquire() -> None:
        child = cache_at(redis.url, "ends", SOCKET_TIMEOUT=_LONG_S)
        with child.lock("l", timeout=_LONG_S):
            pass
        # Not `send_signal`: it is no child of this process.
        os.kill(redis.process.pid, signal.SIGSTOP)
        with alarm():
            child.lock("l", timeout=_LONG_S).acquire()

    pid = os.fork()
    if not pid:
        status = 1
        try:
            acquire()
            status = 0
        finally:
            # Nothing in the background goes on.
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    redis.process.send_signal(signal.SIGCONT)
    assert cache.lock("l", timeout=_LONG_S).acquire(blocking_timeout=_PROMPT_S)


@pytest.mark.parametrize("what", ["lock", "alock"])
def test_ctrl_c_ends_a_process_that_waits_for_a_lock(redis_url: str, what: str) -> None:
    holder = cache_at(redis_url, "interrupted").lock("l", timeout=_LONG_S)
    with holder:
        process = started("interrupted", redis_url, what)
        eventually(lambda: waiters(holder.store, holder.name) == 1, "it waits")
        expect_keyboard_interrupt(process)
        eventually(lambda: waiters(holder.store, holder.name) == 0, "no waiter is left")


@pytest.mark.parametrize("what", ["get", "keys"])
def test_ctrl_c_ends_a_process_that_waits_for_a_reply(what: str) -> None:
    with servers.redis() as redis:
        process = started("interrupted", redis.url, what)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        with paused(redis):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "begins\n"
            expect_keyboard_interrupt(process)


def expect_keyboard_interrupt(process: subprocess.Popen[str]) -> None:
    # A signal that arrives before the system call does not interrupt it.
    eventually(lambda: is_asleep(process.pid), "the process waits in the kernel")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=_PROMPT_S)
    assert process.returncode == -signal.SIGINT
    # The traceback of Python, and nothing else.
    assert errors.startswith("Traceback"), errors
    assert errors.endswith("\nKeyboardInterrupt\n"), errors


def is_asleep(pid: int) -> bool:
    """Returns whether the main thread of a process waits in the kernel."""
    status = Path(f"/proc/{pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "S"


def test_the_interpreter_ends_while_daemon_threads_wait(redis_url: str) -> None:
    for _ in range(20 if os.environ.get("LOCKSTOCK_SOAK") else 5):
        cache_at(redis_url, "exits").clear()
        assert finished("exits", redis_url) == "ends\n"


def test_a_handler_that_raises_while_a_loop_takes_replies_loses_none(redis: servers.Redis) -> None:
    cache = cache_at(redis.url, "taken")
    cache.set("k", "value")
    raised: list[Any] = []

    def interrupt(frame: FrameType, event: str, function: Any) -> None:
        # Where a handler may run: when the native call has returned. Once.
        if event == "c_return" and getattr(function, "__name__", "") == "take":
            sys.setprofile(None)
            raise Interrupted

    async def read() -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        sys.setprofile(interrupt)
        reads = asyncio.gather(*(cache.aget("k") for _ in range(10)))
        return await asyncio.wait_for(reads, _LONG_S)

    try:
        assert asyncio.run(read()) == ["value"] * 10
    finally:
        sys.setprofile(None)
    assert [type(each["exception"]) for each in raised] == [Interrupted]
