"""Clients of redis-py, for code that asks for one.

The cache itself does not use redis-py. `get_redis_connection` and `cache.client.get_client()`
return a client of redis-py with the same URL and options, in a connection pool of its own, if
redis-py is installed: `pip install lockstock[redis]`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .. import _core, errors
from .options import renamed_path

__all__ = [
    "ConnectionFactory",
    "SentinelConnectionFactory",
    "get_connection_factory",
    "is_store_error",
]


def is_store_error(failure: BaseException) -> bool:
    """Returns whether an exception, of this package or of redis-py, means that the store failed."""
    if isinstance(failure, errors.LockError):
        return False
    if isinstance(failure, errors.Error):
        return not isinstance(failure, errors.Invalid)
    exceptions: Any = sys.modules.get("redis.exceptions")
    return exceptions is not None and isinstance(
        failure, (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ResponseError)
    )


def _redis_py() -> Any:
    try:
        import redis
        import redis.sentinel
    except ImportError as missing:
        message = "a client of redis-py was asked for: pip install 'lockstock[redis]'"
        raise ImportError(message) from missing
    return redis


class ConnectionFactory:
    """Makes clients of redis-py from the options of a cache."""

    # One pool for each URL, shared by all threads.
    _pools: dict[str, Any] = {}

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.pool_cls_kwargs: dict[str, Any] = dict(options.get("CONNECTION_POOL_KWARGS") or {})

    def make_connection_params(self, url: str) -> dict[str, Any]:
        """Returns the arguments of a connection pool."""
        params: dict[str, Any] = {"url": url}
        for name in ("USERNAME", "PASSWORD"):
            if self.options.get(name):
                params[name.lower()] = self.options[name]
        for name, what in (
            ("SOCKET_TIMEOUT", "Socket timeout"),
            ("SOCKET_CONNECT_TIMEOUT", "Socket connect timeout"),
        ):
            if value := self.options.get(name):
                if not isinstance(value, (int, float)):
                    message = f"{what} should be float or integer"
                    raise ImproperlyConfigured(message)
                params[name.lower()] = value
        return params

    def connect(self, url: str) -> Any:
        """Returns a client."""
        return self.get_connection(self.make_connection_params(url))

    def disconnect(self, connection: Any) -> None:
        """Closes the connections of a client, or the idle ones of a store."""
        if isinstance(connection, _core.Store):
            connection.close_idle()
        else:
            connection.connection_pool.disconnect()

    def get_connection(self, params: Mapping[str, Any]) -> Any:
        """Returns a client with these arguments."""
        return _redis_py().Redis(connection_pool=self.get_or_create_connection_pool(params))

    def get_or_create_connection_pool(self, params: Mapping[str, Any]) -> Any:
        """Returns the pool of a URL."""
        url = params["url"]
        if url not in self._pools:
            self._pools[url] = self.get_connection_pool(params)
        return self._pools[url]

    def get_connection_pool(self, params: Mapping[str, Any]) -> Any:
        """Returns a new pool."""
        pool = _redis_py().ConnectionPool.from_url(**{**params, **self.pool_cls_kwargs})
        if pool.connection_kwargs.get("password") is None:
            pool.connection_kwargs["password"] = params.get("password")
            pool.reset()
        return pool


class SentinelConnectionFactory(ConnectionFactory):
    """Makes clients of redis-py that follow sentinels."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        sentinels = options.get("SENTINELS")
        if not sentinels:
            message = "SENTINELS must be provided as a list of (host, port)."
            raise ImproperlyConfigured(message)
        self._sentinels = sentinels

    def get_connection_pool(self, params: Mapping[str, Any]) -> Any:
        """Returns a new pool of connections to the master, or to the replicas if the URL has
        `is_master=0`."""
        redis = _redis_py()
        kwargs = {**params, **self.pool_cls_kwargs}
        url = urlsplit(kwargs.pop("url"))
        query = parse_qs(url.query)
        is_master = query.pop("is_master", ["1"])[-1].lower() not in ("0", "false", "f", "no", "n")
        sentinel = redis.sentinel.Sentinel(
            self._sentinels, sentinel_kwargs=self.options.get("SENTINEL_KWARGS"), **kwargs
        )
        rest = "&".join(f"{name}={value}" for name, values in query.items() for value in values)
        return redis.sentinel.SentinelConnectionPool.from_url(
            urlunsplit((url.scheme, url.netloc, url.path, rest, "")),
            service_name=url.hostname,
            sentinel_manager=sentinel,
            is_master=is_master,
            **kwargs,
        )


def get_connection_factory(options: Mapping[str, Any]) -> ConnectionFactory:
    """Returns the factory for the options of a cache."""
    path = options.get("CONNECTION_FACTORY") or getattr(
        settings, "DJANGO_REDIS_CONNECTION_FACTORY", None
    )
    if path:
        return import_string(renamed_path(path))(options)  # type: ignore[no-any-return]
    factory = SentinelConnectionFactory if options.get("SENTINELS") else ConnectionFactory
    return factory(options)
