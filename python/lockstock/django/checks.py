"""System checks of the settings: `manage.py check`, tag `caches`.

Registered when the backend is imported. Those that ask the server run with `--deploy` only.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured

from .. import errors
from . import options as options_

__all__ = ["check_deployment", "check_settings"]

_BACKEND = "lockstock.django.cache.RedisCache"
# Packages that a serializer needs, by the last part of its module.
_PACKAGES = {"msgpack": "msgpack"}


def _caches() -> Iterator[tuple[str, dict[str, Any]]]:
    for alias, config in settings.CACHES.items():
        if config.get("BACKEND") == _BACKEND:
            yield alias, config


@register(Tags.caches)
def check_settings(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Checks the settings, without asking a server."""
    found: list[CheckMessage] = []
    for alias, config in _caches():
        options = config.get("OPTIONS") or {}
        where = f"CACHES[{alias!r}]"
        found += _check_location(where, config, options)
        for name, advice in options_.refused(options).items():
            found.append(
                Error(
                    f"{where}: the option {name} has no meaning here.",
                    hint=advice,
                    id="lockstock.E002",
                )
            )
        for path in _paths(options.get("SERIALIZER")):
            package = _PACKAGES.get(path.split(".")[-2] if "." in path else "")
            if package and importlib.util.find_spec(package) is None:
                found.append(
                    Error(
                        f"{where}: the serializer needs the package {package}.",
                        hint=f"pip install 'lockstock[{package}]'",
                        id="lockstock.E003",
                    )
                )
        try:
            options_.near_settings(options)
        except ImproperlyConfigured as failure:
            found.append(
                Error(
                    f"{where}: {failure}.",
                    hint="For example NEAR_CACHE = {'max_bytes': 64 * 1024 * 1024}.",
                    id="lockstock.E004",
                )
            )
        if "KEY_PREFIX" in options:
            found.append(
                Warning(
                    f"{where}: KEY_PREFIX inside OPTIONS is ignored.",
                    hint="Move it out of OPTIONS, beside LOCATION.",
                    id="lockstock.W001",
                )
            )
        found += _check_pickle(where, config, options)
    if _is_patched_by_gevent() and importlib.util.find_spec("gevent") is None:
        found.append(
            Warning(
                "gevent has patched the sockets, but cannot be imported.",
                hint="A wait for Redis would stop all greenlets.",
                id="lockstock.W004",
            )
        )
    return found


def _check_location(
    where: str, config: dict[str, Any], options: dict[str, Any]
) -> list[CheckMessage]:
    try:
        for url in options_.locations(config.get("LOCATION")):
            options_.store(
                url,
                {name: value for name, value in options.items() if name not in options_.REFUSED},
            )
    except (ImproperlyConfigured, errors.Error, ValueError) as failure:
        hint = "Write redis://[user:password@]host[:port]/database, or a list of such URLs."
        return [
            Error(f"{where}: LOCATION cannot be used: {failure}.", hint=hint, id="lockstock.E001")
        ]
    return []


def _check_pickle(
    where: str, config: dict[str, Any], options: dict[str, Any]
) -> list[CheckMessage]:
    paths = _paths(options.get("SERIALIZER")) or ["pickle"]
    if not any("pickle" in path.lower() for path in paths):
        return []
    try:
        urls = options_.locations(config.get("LOCATION"))
    except ImproperlyConfigured:
        return []
    for url in urls:
        parts = urlsplit(url)
        is_local = parts.scheme == "unix" or (parts.hostname or "localhost") in (
            "localhost",
            "127.0.0.1",
            "::1",
        )
        if not is_local and not parts.scheme.startswith("rediss"):
            return [
                Warning(
                    f"{where}: pickles from an unprotected connection to {parts.hostname}.",
                    hint="A client that can write to this Redis, or change what the network "
                    "carries, can run code here. Use rediss://, or SERIALIZER = "
                    "'lockstock.django.serializers.json.JSONSerializer'.",
                    id="lockstock.W002",
                )
            ]
    return []


@register(Tags.caches, deploy=True)
def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Asks the servers: whether they may evict locks, and whether they are recent enough."""
    found: list[CheckMessage] = []
    for alias, config in _caches():
        where, options = f"CACHES[{alias!r}]", config.get("OPTIONS") or {}
        try:
            for url in options_.locations(config.get("LOCATION")):
                info = options_.store(url, options).info()
                found += _check_server(where, info)
        except (ImproperlyConfigured, errors.Error):
            # Wrong settings have an error of their own. A server may be down during a deployment.
            continue
    return found


def _check_server(where: str, info: dict[str, str]) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory", "0") != "0" and policy != "noeviction":
        found.append(
            Warning(
                f"{where}: the server evicts keys ({policy}), locks among them.",
                hint="Use a second database server for locks, or maxmemory-policy noeviction.",
                id="lockstock.W003",
            )
        )
    version = tuple(int(part) for part in info.get("redis_version", "7.0").split(".")[:2])
    if version < (6, 2):
        found.append(
            Warning(
                f"{where}: the server has version {info['redis_version']}.",
                hint="Redis 6.2 or later, or Valkey, is required.",
                id="lockstock.W005",
            )
        )
    return found


def _is_patched_by_gevent() -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("socket")


def _paths(value: Any) -> list[str]:
    if not value:
        return []
    return [value] if isinstance(value, str) else list(value)
