"""The settings of a cache: from django-redis' names to a store.

An option that has no meaning here is refused, and the message names what to write instead.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from django.core.exceptions import ImproperlyConfigured

from .. import _core
from ..tracing import trace_if_wanted

__all__ = [
    "REFUSED",
    "is_compatible",
    "locations",
    "near",
    "near_settings",
    "renamed_path",
    "refused",
    "renamed",
    "store",
    "without_refused",
]

# Options that name a class of redis-py, which is not used here.
REFUSED = {
    "CONNECTION_POOL_CLASS": "remove it: there are as many connections as calls at the same time",
    "CONNECTION_FACTORY": "remove it; use SENTINELS or a redis+cluster:// URL",
    "REDIS_CLIENT_CLASS": "remove it; get_redis_connection() returns a client of redis-py",
    "REDIS_CLIENT_KWARGS": "remove it; the options of a connection go into CONNECTION_POOL_KWARGS",
    "PARSER_CLASS": "remove it; replies are parsed natively",
}
# Those of them that django-redis' own documentation recommends, and that change nothing here.
_IGNORED = {
    "CONNECTION_POOL_CLASS": {
        "redis.connection.ConnectionPool",
        "redis.BlockingConnectionPool",
        "redis.connection.BlockingConnectionPool",
        "redis.sentinel.SentinelConnectionPool",
    },
    "CONNECTION_FACTORY": {
        "django_redis.pool.ConnectionFactory",
        "django_redis.pool.SentinelConnectionFactory",
        "lockstock.django.pool.ConnectionFactory",
        "lockstock.django.pool.SentinelConnectionFactory",
    },
    "REDIS_CLIENT_CLASS": {"redis.client.Redis", "redis.Redis", "redis.client.StrictRedis"},
    "PARSER_CLASS": {
        "redis.connection.HiredisParser",
        "redis.connection.PythonParser",
        "redis.connection._HiredisParser",
        "redis.connection._RESP2Parser",
        "redis.connection._RESP3Parser",
    },
}
# Settings of a connection of redis-py that have a meaning here, or whose purpose is met anyway.
_POOL_KWARGS = {
    "db",
    "health_check_interval",
    "max_connections",
    "password",
    "protocol",
    "retry",
    "retry_on_error",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "socket_timeout",
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "timeout",
    "username",
}

# The longest time of an option: a year, in seconds.
MAX_SECONDS = 366 * 24 * 3600
# Seconds after which a command fails, unless SOCKET_TIMEOUT sets another limit.
DEFAULT_SOCKET_TIMEOUT = 1.0

# Options that name a class of the package, or several.
_CLASSES = ("CLIENT_CLASS", "COMPRESSOR", "CONNECTION_FACTORY", "SERIALIZER")

_stores: dict[tuple[Any, ...], _core.Store] = {}
# By the store, the prefix and the settings: shared by the caches of all threads.
_nears: dict[tuple[Any, ...], _core.NearCache] = {}


def renamed(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a cache with the classes of this package for those of django-redis.

    A project that changes only `BACKEND` would otherwise use a client of django-redis.
    """
    options = params.get("OPTIONS") or {}
    changed: dict[str, Any] = {}
    for name in _CLASSES:
        given: Any = options.get(name)
        if isinstance(given, (list, tuple)):
            if (paths := [renamed_path(each) for each in given]) != list(given):
                changed[name] = paths
        elif (path := renamed_path(given)) != given:
            changed[name] = path
    path = renamed_path(params.get("REVERSE_KEY_FUNCTION"))
    if not changed and path == params.get("REVERSE_KEY_FUNCTION"):
        # The same objects: a test may change the settings of a cache that exists.
        return params
    return {**params, "OPTIONS": {**options, **changed}, "REVERSE_KEY_FUNCTION": path}


def renamed_path(path: Any) -> Any:
    """Returns the path in this package of what django-redis has under the same name."""
    if isinstance(path, str) and path.startswith("django_redis."):
        return "lockstock.django." + path.removeprefix("django_redis.")
    return path


def is_compatible(options: Mapping[str, Any]) -> bool:
    """Returns whether `COMPAT` asks for django-redis' way where Django's own backends differ."""
    return options.get("COMPAT") == "django-redis"


def locations(server: Any) -> list[str]:
    """Returns the URLs of LOCATION: a string, several separated by commas, or a sequence."""
    if not server:
        message = "Missing connections string"
        raise ImproperlyConfigured(message)
    if isinstance(server, str):
        if server.startswith(
            ("redis+sentinel:", "rediss+sentinel:", "redis+cluster:", "rediss+cluster:")
        ):
            # Its commas separate hosts.
            return [server]
        return [url.strip() for url in server.split(",")]
    if not isinstance(server, (list, tuple)) or not all(isinstance(url, str) for url in server):
        message = f"LOCATION must be a URL or a list of URLs, not {server!r}"
        raise ImproperlyConfigured(message)
    return list(server)


def refused(options: Mapping[str, Any]) -> dict[str, str]:
    """Returns the options that have no meaning here, each with what to write instead."""
    found = {}
    for name, advice in REFUSED.items():
        value = options.get(name)
        if value and value not in _IGNORED.get(name, ()):
            found[name] = advice
    for name in sorted(set(_pool_kwargs(options)) - _POOL_KWARGS):
        advice = "write it into LOCATION" if name in ("host", "port", "path") else "remove it"
        found[f"CONNECTION_POOL_KWARGS[{name!r}]"] = advice
    return found


def _pool_kwargs(options: Mapping[str, Any]) -> Mapping[str, Any]:
    given = options.get("CONNECTION_POOL_KWARGS")
    # What is no dict is reported as a wrong value.
    return given if isinstance(given, Mapping) else {}


def without_refused(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that have a meaning here."""
    found = {name: value for name, value in options.items() if name not in REFUSED}
    pool = _pool_kwargs(options)
    found["CONNECTION_POOL_KWARGS"] = {
        name: value for name, value in pool.items() if name in _POOL_KWARGS
    }
    return found


def store(url: str, options: Mapping[str, Any]) -> _core.Store:
    """Returns the store at a URL of LOCATION.

    All threads and all caches with the same options share one.
    """
    if problems := refused(options):
        name, advice = next(iter(problems.items()))
        message = f"the option {name} has no meaning for lockstock: {advice}"
        raise ImproperlyConfigured(message)
    pool = _pool_kwargs(options)
    url, settings = _translate(url, options, pool)
    is_traced = bool(options.get("OPENTELEMETRY"))
    key = (url, is_traced, *sorted(settings.items()))
    found = _stores.get(key)
    if found is None:
        made = _core.Store(url, **settings)
        # Before it is registered, because it raises without OpenTelemetry.
        trace_if_wanted(made, url, is_wanted=is_traced)
        # Two threads may both create one: the first that is registered is used by both.
        found = _stores.setdefault(key, made)
    return found


def near_settings(options: Mapping[str, Any]) -> tuple[int, float | None] | None:
    """Returns the bytes and the time to live of `NEAR_CACHE`, None without a near cache.

    Raises `ImproperlyConfigured` if it is malformed.
    """
    given = options.get("NEAR_CACHE")
    if given is None:
        return None
    form = "NEAR_CACHE must be a dict with max_bytes, and ttl in seconds if copies end earlier"
    if not isinstance(given, Mapping) or set(given) - {"max_bytes", "ttl"}:
        raise ImproperlyConfigured(form)
    max_bytes, ttl = given.get("max_bytes"), given.get("ttl")
    if (
        not isinstance(max_bytes, int)
        or isinstance(max_bytes, bool)
        or not 0 < max_bytes <= sys.maxsize
    ):
        message = "max_bytes of NEAR_CACHE must be a positive number of bytes"
        raise ImproperlyConfigured(message)
    if ttl is not None and (
        not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or not 0 < ttl <= MAX_SECONDS
    ):
        message = "ttl of NEAR_CACHE must be a positive number of seconds"
        raise ImproperlyConfigured(message)
    return max_bytes, None if ttl is None else float(ttl)


def near(store: _core.Store, options: Mapping[str, Any], prefix: str) -> _core.NearCache | None:
    """Returns the near cache of a prefix in a store, None without `NEAR_CACHE`."""
    settings = near_settings(options)
    if settings is None:
        return None
    key = (store, prefix, *settings)
    found = _nears.get(key)
    if found is None:
        found = _nears.setdefault(key, _core.NearCache(store, *settings))
    return found


def _translate(
    url: str, options: Mapping[str, Any], pool: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    settings: dict[str, Any] = {
        "timeout": _timeout("SOCKET_TIMEOUT", options, pool, query),
        "connect_timeout": _timeout("SOCKET_CONNECT_TIMEOUT", options, pool, query),
        "max_connections": _int(query.get("max_connections") or pool.get("max_connections")),
    }
    if settings["timeout"] is None:
        settings["timeout"] = DEFAULT_SOCKET_TIMEOUT
    # The URL has precedence, as with redis-py.
    username = parts.username or _text(
        query.get("username") or options.get("USERNAME") or pool.get("username")
    )
    password = parts.password or _text(
        query.get("password") or options.get("PASSWORD") or pool.get("password")
    )
    if parts.username is None and parts.password is None and password:
        settings["username"], settings["password"] = username or "default", password
    elif parts.password is None and password:
        settings["username"], settings["password"] = username, password
    for name, values in (
        ("ca_certs", "ssl_ca_certs"),
        ("certfile", "ssl_certfile"),
        ("keyfile", "ssl_keyfile"),
    ):
        if value := query.get(values) or pool.get(values):
            try:
                open(value, "rb").close()
            except OSError as failure:
                message = f"{values} names a file that cannot be read: {failure}"
                raise ImproperlyConfigured(message) from failure
            settings[name] = str(value)
    # None means none, as with redis-py.
    requirement = query.get("ssl_cert_reqs") or pool.get("ssl_cert_reqs", "required")
    if str(requirement).rpartition("_")[2].lower() not in (
        "required",
        "2",
    ):
        message = (
            "ssl_cert_reqs must be 'required': certificates are always checked. For a private "
            "authority, name its file in ssl_ca_certs"
        )
        raise ImproperlyConfigured(message)
    settings = {name: value for name, value in settings.items() if value is not None}
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    query["db"] = query.get("db") or path or str(pool.get("db", 0))
    if sentinels := options.get("SENTINELS"):
        return _sentinel_url(parts, query, sentinels, options), settings
    return _server_url(parts, query, url), settings


def _server_url(parts: Any, query: Mapping[str, str], url: str) -> str:
    database = query.get("db")
    if parts.scheme == "unix":
        # redis-py allows user and password before the path.
        credentials = f"{parts.netloc}" if parts.netloc.endswith("@") else ""
        rest = {"db": database} if database else {}
        return f"redis+unix://{credentials}{parts.path}" + (f"?{urlencode(rest)}" if rest else "")
    if parts.scheme in ("redis", "rediss"):
        path = parts.path.strip("/")
        database = database or path or "0"
        netloc = parts.netloc or "localhost"
        return f"{parts.scheme}://{netloc}/{database}"
    return url


def _sentinel_url(
    parts: Any, query: Mapping[str, str], sentinels: Any, options: Mapping[str, Any]
) -> str:
    try:
        hosts = ",".join(f"{host}:{int(port)}" for host, port in sentinels)
    except (TypeError, ValueError):
        message = f"SENTINELS must be a list of (host, port), not {sentinels!r}"
        raise ImproperlyConfigured(message) from None
    credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    database = query.get("db") or parts.path.strip("/") or "0"
    scheme = "rediss+sentinel" if parts.scheme == "rediss" else "redis+sentinel"
    url = f"{scheme}://{credentials}{hosts}/{quote(parts.hostname or '')}/{database}"
    kwargs = options.get("SENTINEL_KWARGS") or {}
    own = {
        f"sentinel_{name}": kwargs[name] for name in ("username", "password") if kwargs.get(name)
    }
    return url + (f"?{urlencode(own)}" if own else "")


def _timeout(
    name: str, options: Mapping[str, Any], pool: Mapping[str, Any], query: Mapping[str, str]
) -> float | None:
    what = name.replace("_", " ").capitalize()
    value = options.get(name)
    if value and not isinstance(value, (int, float)):
        message = f"{what} should be float or integer"
        raise ImproperlyConfigured(message)
    lower = name.lower()
    value = value or pool.get(lower) or query.get(lower)
    if not value:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1
    if not 0.001 <= seconds <= MAX_SECONDS:
        message = f"{what} must be a number of seconds, from a millisecond to a year, not {value!r}"
        raise ImproperlyConfigured(message)
    return seconds


def _text(value: Any) -> str | None:
    """Returns a name or a password, for which redis-py takes bytes and numbers too."""
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)


def _int(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        message = f"max_connections must be a number, not {value!r}"
        raise ImproperlyConfigured(message) from None
