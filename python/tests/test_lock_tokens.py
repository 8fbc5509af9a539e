"""Tokens: the identity of a holder, chosen by a caller, or used by another object."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as redis_py
from redis.exceptions import LockError, LockNotOwnedError

import lockstock
from caches import cache_at, eventually, waiters

# Within this, what should happen at once has happened, on a busy machine too.
PATIENCE = 30.0


@pytest.mark.parametrize("kind", [str, bytes])
@pytest.mark.parametrize("holder", [None, "this client", "another client"])
def test_a_token_of_the_caller(
    cache: Any, raw: redis_py.Redis, redis_url: str, kind: type, holder: str | None
) -> None:
    token = uuid.uuid4().hex
    lock = cache.lock("name", timeout=100)
    with ThreadPoolExecutor(1) as pool:
        if holder is not None:
            options = {"SOCKET_TIMEOUT": 5} if holder == "another client" else {}
            held = cache_at(redis_url, **options).lock("name", timeout=100, thread_local=False)
            assert held.acquire()

            def release() -> None:
                if holder == "another client":
                    eventually(lambda: waiters(lock.store, lock.name) == 1, "it waits")
                held.release()

            pool.submit(release)
        assert lock.acquire(token=token if kind is str else token.encode())
    assert lock.local.token == token
    assert token.encode() in raw.get("test:1:name")
    assert lock.owned()
    assert 90_000 < raw.pttl("test:1:name") <= 100_000
    assert lock.extend(10)
    lock.release()
    assert raw.get("test:1:name") is None
    # The next one has its own again.
    assert lock.acquire()
    assert lock.local.token != token
    lock.release()


@pytest.mark.parametrize(
    "token",
    ["", "a", "g" * 32, "A" * 32, "a" * 31, "a" * 33, b"a", b"\xff" * 32, str(uuid.UUID(int=1))],
)
def test_a_token_of_another_form_is_refused(cache: Any, token: str | bytes) -> None:
    lock = cache.lock("name", timeout=100)
    with pytest.raises(lockstock.errors.Invalid, match="32 hexadecimal digits"):
        lock.acquire(token=token)
    assert not lock.locked()


def test_a_token_of_several_locks_or_a_permit_is_refused(redis_url: str) -> None:
    store = lockstock.Store(redis_url)
    for lock in (
        store.lock_all(["a", "b"], timeout=3),
        store.semaphore("s", 2, timeout=3),
        store.read_lock("rw", timeout=3),
        store.write_lock("rw", timeout=3),
    ):
        with pytest.raises(lockstock.errors.Invalid, match="one name"):
            lock.acquire(token=uuid.uuid4().hex)
        assert not lock.locked()


def test_another_object_releases_a_lock_by_its_token(cache: Any, raw: redis_py.Redis) -> None:
    lock, other = cache.lock("name", timeout=100), cache.lock("name", timeout=100)
    for token in (None, uuid.uuid4().hex):
        assert lock.acquire(token=token)
        other.local.token = lock.local.token
        assert other.owned()
        for change in (lambda: other.extend(5), other.reacquire, other.keep, lambda: other.fence):
            with pytest.raises(LockError, match="it can only be released"):
                change()
        other.release()
        assert other.local.token is None
        assert not other.owned()
        assert raw.get("test:1:name") is None
        with pytest.raises(LockNotOwnedError):
            lock.release()
    other.local.token = uuid.uuid4().hex
    assert not other.owned()
    with pytest.raises(LockNotOwnedError):
        other.release()
    with pytest.raises(LockError):
        other.release()


def test_another_object_releases_a_lock_by_its_token_in_a_loop(cache: Any) -> None:
    lock, other = cache.lock("name", timeout=100), cache.lock("name", timeout=100)

    async def use() -> None:
        token = uuid.uuid4().hex
        assert await lock.aacquire(token=token)
        other.local.token = token.encode()
        assert await other.aowned()
        await other.arelease()
        assert not await lock.aowned()
        with pytest.raises(LockNotOwnedError):
            await lock.arelease()

    asyncio.run(use())


def test_a_chosen_token_does_not_pass_to_the_next_thread(cache: Any) -> None:
    token = uuid.uuid4().hex
    lock = cache.lock("name", timeout=100, thread_local=False)
    for _ in range(20):
        assert lock.acquire(token=token)
        next_lock = cache.lock("name", timeout=100, thread_local=False)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next_lock.acquire, blocking_timeout=PATIENCE)
            lock.release()
            assert waiting.result(PATIENCE)
        assert next_lock.local.token != token
        lock.local.token = token
        with pytest.raises(LockNotOwnedError):
            lock.release()
        assert next_lock.owned()
        next_lock.release()


def test_cancelled_acquisitions_with_a_token_leave_no_lock(cache: Any) -> None:
    async def use() -> None:
        for number in range(100):
            lock = cache.lock("name", timeout=100)
            acquiring = asyncio.create_task(lock.aacquire(token=uuid.uuid4().hex))
            await asyncio.sleep(number * 0.00005)
            acquiring.cancel()
            await asyncio.wait([acquiring])
            if not acquiring.cancelled():
                await lock.arelease()

    asyncio.run(use())
    eventually(lambda: not cache.lock("name").locked(), "the lock is free")
