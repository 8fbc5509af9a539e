"""Spans of OpenTelemetry for the commands and the locks of a store: `pip install lockstock[otel]`.

import lockstock.otel
lockstock.otel.instrument()  # before the stores are created

In Django, `"OPTIONS": {"OPENTELEMETRY": True}` traces one cache. A span has the attributes of the
semantic conventions for databases, without keys and values. That of a lock is `acquire`, `release`,
`keep` or `extend`, with the name of the lock: one command carries the operations of many callers,
and a lock may be handed over within a process without any.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

try:
    from opentelemetry import trace as trace_api
    from opentelemetry.trace import Span, SpanKind, StatusCode
except ModuleNotFoundError as failure:
    message = "spans need the package opentelemetry-api: pip install 'lockstock[otel]'"
    raise ModuleNotFoundError(message, name=failure.name) from failure

from . import _core, aio
from .errors import Malformed, ResponseError

__all__ = ["instrument", "is_instrumented", "trace"]

_DEFAULT_PORT = 6379
_CODE = re.compile(r"\b[A-Z]{3,}\b")
_is_instrumented = False


def instrument() -> None:
    """Traces each store that is created from now on, by the global tracer provider."""
    global _is_instrumented
    _is_instrumented = True


def is_instrumented() -> bool:
    """Returns whether `instrument` was called."""
    return _is_instrumented


def trace(store: _core.Store, url: str) -> None:
    """Traces the calls of a native store, which is at a URL."""
    store.trace(_Tracer(url))
    aio.trace_by(_begun)


class _Tracer:
    """Begins the spans of one store."""

    def __init__(self, url: str) -> None:
        # The provider may be set later.
        self._tracer = trace_api.get_tracer("lockstock")
        parts = urlsplit(url)
        self._attributes: dict[str, Any] = {"db.system.name": "redis"}
        if "unix" in parts.scheme:
            self._attributes["server.address"] = parts.path
        else:
            # Of several servers, the first.
            first = parts.netloc.rpartition("@")[2].split(",")[0]
            address = urlsplit(f"//{first}")
            if address.hostname:
                self._attributes["server.address"] = address.hostname
            port = address.port or _DEFAULT_PORT
            if port != _DEFAULT_PORT:
                self._attributes["server.port"] = port
        database = parts.path.rpartition("/")[2]
        if database.isdigit():
            self._attributes["db.namespace"] = database

    def begin(self, name: str, count: int) -> _Span:
        """Begins the span of a command, or of several that are sent together."""
        attributes = {**self._attributes, "db.operation.name": name}
        if count > 1:
            attributes["db.operation.batch.size"] = count
        return self._begun(name, attributes)

    def of_lock(self, verb: str, name: str | bytes) -> _Span:
        """Begins the span of a call of a lock."""
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        attributes = {**self._attributes, "lockstock.lock.name": text}
        return self._begun(f"lock {verb}", attributes)

    def _begun(self, name: str, attributes: dict[str, Any]) -> _Span:
        return _Span(self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))


class _Span:
    """The span of one call."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, failure: BaseException | None) -> None:
        """Ends it, with the exception that the call raised."""
        if failure is not None:
            self._span.set_attribute("error.type", type(failure).__qualname__)
            if isinstance(failure, (Malformed, ResponseError)):
                # The code of an error reply is in capitals: WRONGTYPE, ERR, NOPERM.
                code = _CODE.search(str(failure))
                if code is not None:
                    self._span.set_attribute("db.response.status_code", code.group())
            self._span.set_status(StatusCode.ERROR, str(failure))
        self._span.end()

    def __enter__(self) -> _Span:
        return self

    def __exit__(self, cls: Any, failure: BaseException | None, traceback: Any) -> None:
        self.end(failure)


def _begun(begin: Any, args: tuple[Any, ...]) -> _Span | None:
    """Begins the span of an asynchronous call. Those of locks have one already."""
    tracer: _Tracer | None = getattr(getattr(begin, "__self__", None), "tracer", None)
    name = begin.__name__.removeprefix("begin_")
    if tracer is None:
        return None
    if name == "get":
        return tracer.begin("GET", 1)
    if name == "execute":
        return tracer.begin(str(args[0]), 1)
    if name == "pipeline":
        names = {str(command[0]) for command in args[0]}
        only = f" {names.pop()}" if len(names) == 1 else ""
        return tracer.begin(f"PIPELINE{only}", len(args[0]))
    if name == "scan":
        return tracer.begin("SCAN", 1)
    return None
