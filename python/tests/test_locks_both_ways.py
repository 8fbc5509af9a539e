"""Locks of this package, of django-redis and of redis-py exclude each other on one name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as redis_py
from redis.exceptions import LockNotOwnedError

import lockstock
from caches import eventually, waiters
from peers import peers

# Within this, what should happen at once has happened, on a busy machine too.
PATIENCE = 30.0
Locks = dict[str, Callable[..., Any]]
KINDS = ["lockstock", "django-redis", "redis-py"]
# Of the pairs, those with this package.
PAIRS = [pair for pair in itertools.product(KINDS, repeat=2) if "lockstock" in pair]


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis_py.Redis]:
    with redis_py.Redis.from_url(redis_url) as client:
        yield client
        client.flushdb()


@pytest.fixture
def locks(redis_url: str, raw: redis_py.Redis) -> Locks:
    """Makers of locks on one name."""
    caches = peers(redis_url)

    def by(make: Callable[..., Any], name: str) -> Callable[..., Any]:
        return lambda **settings: make(name, **{"timeout": 100, "sleep": 0.01, **settings})

    return {
        "lockstock": by(caches.ours.lock, "name"),
        "django-redis": by(caches.theirs.lock, "name"),
        "redis-py": by(raw.lock, "shop:1:name"),
    }


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_held_lock_is_busy(locks: Locks, first: str, second: str) -> None:
    held, lock = locks[first](), locks[second]()
    assert held.acquire(blocking=False)
    assert not lock.acquire(blocking=False)
    assert not lock.acquire(blocking_timeout=0.05)
    assert lock.locked()
    assert not lock.owned()
    assert held.owned()
    held.release()
    assert lock.acquire(blocking=False)
    lock.release()


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_waiter_gets_the_lock_when_it_is_released(locks: Locks, first: str, second: str) -> None:
    held, lock = locks[first](), locks[second](thread_local=False)
    assert held.acquire(blocking=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lock.acquire, blocking_timeout=PATIENCE)
        held.release()
        assert waiting.result()
    assert not held.owned()
    lock.release()
    assert not lock.locked()


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_lock_ends_with_its_lease(locks: Locks, first: str, second: str) -> None:
    ended, lock = locks[first](timeout=0.2), locks[second]()
    assert ended.acquire(blocking=False)
    assert lock.acquire(blocking_timeout=PATIENCE)
    with pytest.raises(LockNotOwnedError):
        ended.release()
    assert lock.owned()
    lock.release()


@pytest.mark.parametrize("other", ["django-redis", "redis-py"])
def test_a_kept_lock_is_held_for_the_others_too(
    locks: Locks, raw: redis_py.Redis, other: str
) -> None:
    kept = locks["lockstock"]()
    assert kept.acquire()
    kept.keep()
    assert not locks[other]().acquire(blocking_timeout=0.05)
    assert raw.pttl("shop:1:name") > 90_000


@pytest.mark.parametrize("other", ["django-redis", "redis-py"])
def test_a_lock_of_the_others_is_extended_by_them(
    locks: Locks, raw: redis_py.Redis, other: str
) -> None:
    held = locks[other](timeout=0.5)
    assert held.acquire()
    assert held.extend(100)
    # What this package has read about the lease is out of date.
    assert not locks["lockstock"]().acquire(blocking_timeout=1)
    assert held.owned()
    held.release()
    assert locks["lockstock"]().acquire(blocking=False)


def test_no_two_hold_the_lock(locks: Locks, raw: redis_py.Redis) -> None:
    rounds = 15

    def work(kind: str) -> None:
        for _ in range(rounds):
            with locks[kind](blocking_timeout=PATIENCE):
                # Not atomic: two at a time would lose an increment.
                raw.set("count", int(raw.get("count") or 0) + 1)

    workers = KINDS * 2
    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(work, workers))
    assert raw.get("count") == b"%d" % (rounds * len(workers))
    assert raw.get("shop:1:name") is None


def test_a_lock_with_waiters_is_handed_over_without_becoming_free(
    locks: Locks, redis_url: str
) -> None:
    # Another client than that of the waiter, whose request is in Redis therefore.
    store = lockstock.Store(redis_url)
    held, poller = store.lock("shop:1:name", timeout=100), locks["redis-py"]()
    assert held.acquire()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(locks["lockstock"](thread_local=False, timeout=3).acquire)
        eventually(lambda: waiters(store._native, "shop:1:name") == 1, "the waiter is in the queue")
        polling = pool.submit(poller.acquire, blocking_timeout=1)
        held.release()
        assert waiting.result(PATIENCE)
        # The waiter holds it for three seconds, and the other has asked for one.
        assert polling.result(PATIENCE) is False
