"""Spans of OpenTelemetry, read from the in-memory exporter of its SDK."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import servers
from caches import cache_at
from lockstock.errors import LockNotOwnedError, Malformed, ResponseError, Unavailable

_EXPORTER = InMemorySpanExporter()


@pytest.fixture(autouse=True, scope="module")
def provider() -> None:
    """The global provider, which can be set once in a process."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_EXPORTER))
    trace.set_tracer_provider(provider)


@pytest.fixture(autouse=True)
def exporter() -> Iterator[None]:
    _EXPORTER.clear()
    yield
    _EXPORTER.clear()


def spans() -> list[ReadableSpan]:
    """Returns the spans since the last call."""
    found = list(_EXPORTER.get_finished_spans())
    _EXPORTER.clear()
    return found


def names() -> list[str]:
    return [span.name for span in spans()]


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def traced_cache(redis: servers.Redis, database: int = 3) -> Any:
    return cache_at(redis.url_of(database), "otel", OPENTELEMETRY=True)


def test_the_span_of_a_command(redis: servers.Redis) -> None:
    cache = traced_cache(redis)
    with trace.get_tracer("test").start_as_current_span("request") as request:
        cache.set("secret-key", "secret-value", 60)
    span, _ = spans()
    assert (span.name, span.kind) == ("SET", SpanKind.CLIENT)
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id
    assert span.status.status_code is StatusCode.UNSET
    assert attributes_of(span) == {
        "db.system.name": "redis",
        "db.operation.name": "SET",
        "db.namespace": "3",
        "server.address": "127.0.0.1",
        "server.port": redis.port,
    }
    assert "secret" not in span.to_json()


def test_the_spans_of_several_commands(redis: servers.Redis) -> None:
    cache = traced_cache(redis)
    cache.set_many({"a": 1, "b": 2})
    span = spans()[0]
    assert span.name == "PIPELINE SET"
    assert attributes_of(span)["db.operation.batch.size"] == 2
    cache.get_many(["a", "b"])
    cache.keys("*")
    assert names() == ["PIPELINE GET", "SCAN"]


def test_the_spans_of_asynchronous_calls(redis: servers.Redis) -> None:
    cache = traced_cache(redis)

    async def use() -> None:
        with trace.get_tracer("test").start_as_current_span("request"):
            await cache.aset("k", 1)
            await asyncio.gather(cache.aget("k"), cache.aget("l"))
        await cache.aset_many({"a": 1, "b": 2})
        await cache.akeys("*")

    async def use_connection_of_loop() -> None:
        for _ in range(200):
            await cache.aget("k")
            await cache.aset("k", 1)
        for _ in range(100):
            await cache.aset_many({"a": 1, "b": 2})

    asyncio.run(use_connection_of_loop())
    assert names() == ["GET", "SET"] * 200 + ["PIPELINE SET"] * 100
    asyncio.run(use())
    found = spans()
    assert [span.name for span in found] == [
        "SET",
        "GET",
        "GET",
        "request",
        "PIPELINE SET",
        "SCAN",
    ]
    request = found[3]
    for span in found[:3]:
        assert span.parent is not None
        assert span.parent.span_id == request.get_span_context().span_id


def test_the_spans_of_a_lock(redis: servers.Redis) -> None:
    cache = traced_cache(redis)
    with cache.lock("l", timeout=30) as lock:
        lock.extend(10)
        lock.reacquire()
    found = spans()
    assert [span.name for span in found] == [
        "lock acquire",
        "lock extend",
        "lock extend",
        "lock release",
    ]
    assert {attributes_of(span)["lockstock.lock.name"] for span in found} == {"otel:1:l"}

    async def use() -> None:
        async with cache.alock("kept", timeout=30) as lock:
            await lock.akeep()

    asyncio.run(use())
    assert names() == ["lock acquire", "lock keep"]


def test_the_span_of_a_failure(redis: servers.Redis) -> None:
    cache = traced_cache(redis)
    store = cache.client._store(0)
    store.execute("RPUSH", "otel:1:list", 1)
    for words, cls, code in (
        (("GET", "otel:1:list"), Malformed, "WRONGTYPE"),
        (("NOSUCHCOMMAND", "otel:1:list"), ResponseError, "ERR"),
    ):
        spans()
        with pytest.raises(cls):
            store.execute(*words)
        (span,) = spans()
        assert span.status.status_code is StatusCode.ERROR
        assert attributes_of(span)["error.type"] == cls.__name__
        assert attributes_of(span)["db.response.status_code"] == code
    with servers.closed_port() as port:
        cache = cache_at(f"redis://127.0.0.1:{port}", OPENTELEMETRY=True)
        for call in (lambda: cache.get("k"), lambda: asyncio.run(cache.aget("k"))):
            with pytest.raises(Unavailable):
                call()
            (span,) = spans()
            assert (span.name, attributes_of(span)["error.type"]) == ("GET", "Unavailable")
            assert span.status.status_code is StatusCode.ERROR


def test_a_lost_lock_is_no_failure_of_the_store(redis: servers.Redis) -> None:
    cache = traced_cache(redis)
    lock = cache.lock("lost", timeout=30)
    assert lock.acquire()
    cache.delete("lost")
    spans()
    with pytest.raises(LockNotOwnedError):
        lock.release()
    (span,) = spans()
    assert span.status.status_code is StatusCode.UNSET


def test_a_cancelled_call_ends_its_span(redis: servers.Redis) -> None:
    cache = traced_cache(redis)
    held = cache_at(redis.url_of(3), "otel").lock("busy", timeout=30)

    async def use() -> None:
        waiting = asyncio.create_task(cache.lock("busy", timeout=30).aacquire())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    with held:
        asyncio.run(use())
    (span,) = spans()
    assert attributes_of(span)["error.type"] == "CancelledError"


def test_a_cache_without_the_option_has_no_spans(redis: servers.Redis) -> None:
    traced, untraced = traced_cache(redis), cache_at(redis.url_of(3), "otel")
    untraced.set("k", 1)
    assert asyncio.run(untraced.aget("k")) == 1
    with untraced.lock("untraced", timeout=3):
        pass
    assert names() == []
    assert traced.get("k") == 1
    assert names() == ["GET"]


def test_instrument_traces_the_stores_that_follow(
    redis: servers.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lockstock.otel

    monkeypatch.setattr("lockstock.otel._is_instrumented", False)
    before = lockstock.Store(redis.url)
    lockstock.otel.instrument()
    after = lockstock.Store(redis.url)
    before.execute("PING")
    assert names() == []
    after.execute("PING")
    assert asyncio.run(after.aexecute("PING")) == "PONG"
    after.cache("rates", lockstock.JSON).set("EUR", 1)
    assert names() == ["PING", "PING", "SET"]


def test_without_it_nothing_is_imported(redis: servers.Redis) -> None:
    program = f"""
import sys
import lockstock
lockstock.Store({redis.url!r}).execute("PING")
from caches import cache_at
cache_at({redis.url!r}).get("k")
assert not [name for name in sys.modules if "opentelemetry" in name or name == "lockstock.otel"]
"""
    folder = str(servers.__file__).rpartition("/")[0]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder)
