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
from django.utils.module_loading import import_string

from .. import errors
from . import option_values
from . import options as options_

__all__ = ["check_deployment", "check_settings"]

_BACKEND = ("lockstock.django.cache", "RedisCache")
# Options that name a class, or several.
_CLASSES = ("CLIENT_CLASS", "SERIALIZER", "COMPRESSOR")
# A connection to them leaves the machine in no case.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# What gevent patches beside the sockets, any of which shows that greenlets are used.
_PATCHED_BY_GEVENT = ("threading", "time", "select")
# Packages that a serializer needs, by the last part of its module.
_PACKAGES = {"msgpack": "msgpack"}


def _caches() -> Iterator[tuple[str, dict[str, Any]]]:
    for alias, config in settings.CACHES.items():
        if _is_lockstock(config.get("BACKEND")):
            yield alias, options_.renamed(config)


def _is_lockstock(path: Any) -> bool:
    """Returns whether a path names the backend or a class that derives from it."""
    try:
        named = import_string(path)
    except (ImportError, AttributeError):
        # Django reports it at the first use.
        return False
    bases = getattr(named, "__mro__", ())
    return any((base.__module__, base.__qualname__) == _BACKEND for base in bases)


@register(Tags.caches)
def check_settings(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Checks the settings, without asking a server."""
    found: list[CheckMessage] = []
    for alias, config in _caches():
        options = config.get("OPTIONS") or {}
        where = f"CACHES[{alias!r}]"
        found += _check_location(where, config, options)
        found += _check_classes(where, options)
        for name, advice in options_.refused(options).items():
            found.append(
                Error(
                    f"{where}: the option {name} has no meaning here.",
                    hint=advice,
                    id="lockstock.E002",
                )
            )
        found += _check_names_and_values(where, options)
        for path in _paths(options.get("SERIALIZER")):
            if package := _missing_package(path):
                found.append(
                    Error(
                        f"{where}: the serializer needs the package {package}.",
                        hint=f"pip install 'lockstock[{package}]'",
                        id="lockstock.E003",
                    )
                )
        if options.get("OPENTELEMETRY") and importlib.util.find_spec("opentelemetry") is None:
            found.append(
                Error(
                    f"{where}: OPENTELEMETRY needs the package opentelemetry-api.",
                    hint="pip install 'lockstock[otel]'",
                    id="lockstock.E003",
                )
            )
        found += _check_near_cache(where, config, options)
        if "KEY_PREFIX" in options:
            found.append(
                Warning(
                    f"{where}: KEY_PREFIX inside OPTIONS is ignored.",
                    hint="Move it out of OPTIONS, beside LOCATION.",
                    id="lockstock.W001",
                )
            )
    if _blocks_greenlets():
        found.append(
            Warning(
                "gevent has patched this process, but not its sockets.",
                hint="A call to a cache blocks all greenlets. Call gevent.monkey.patch_all() "
                "without socket=False.",
                id="lockstock.W004",
            )
        )
    return found


def _check_near_cache(
    where: str, config: dict[str, Any], options: dict[str, Any]
) -> list[CheckMessage]:
    try:
        settings = options_.near_settings(options)
    except ImproperlyConfigured as failure:
        hint = "For example NEAR_CACHE = {'max_bytes': 64 * 1024 * 1024}."
        return [Error(f"{where}: {failure}.", hint=hint, id="lockstock.E004")]
    if settings is None:
        return []
    client = str(options.get("CLIENT_CLASS", ""))
    # LOCATION has an error of its own.
    urls = options_.locations(config.get("LOCATION") or "-")
    if len(urls) > 1 or client.endswith(("ShardClient", "HerdClient")):
        message = f"{where}: NEAR_CACHE needs DefaultClient with one URL in LOCATION."
        return [Error(message, hint="Remove NEAR_CACHE.", id="lockstock.E004")]
    return []


def _check_names_and_values(where: str, options: dict[str, Any]) -> list[CheckMessage]:
    wrong = option_values.wrong_values(options)
    found: list[CheckMessage] = [
        Error(
            f"{where}: {name} cannot be {options[name]!r}.",
            hint=f"It takes {takes}.",
            id="lockstock.E006",
        )
        for name, takes in wrong.items()
    ]
    found += [
        Warning(f"{where}: no option has the name {name}.", hint=advice, id="lockstock.W006")
        for name, advice in option_values.unknown(options).items()
    ]
    return found


def _check_location(
    where: str, config: dict[str, Any], options: dict[str, Any]
) -> list[CheckMessage]:
    try:
        for url in options_.locations(config.get("LOCATION")):
            # Spans have an error of their own.
            options_.store(url, {**options_.without_refused(options), "OPENTELEMETRY": False})
    except (ImproperlyConfigured, errors.Error, OSError, ValueError) as failure:
        is_location = not config.get("LOCATION") or not isinstance(failure, ImproperlyConfigured)
        hint = (
            "Write redis://[user:password@]host[:port]/database, or a list of such URLs. Quote the "
            "password by urllib.parse.quote(password, safe=''), or use the option PASSWORD."
        )
        what = f"{where}: LOCATION cannot be used" if is_location else f"{where} cannot be used"
        message = f"{what}: {failure}."
        return [Error(message, hint=hint if is_location else None, id="lockstock.E001")]
    return []


def _check_classes(where: str, options: dict[str, Any]) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for name in _CLASSES:
        for path in _paths(options.get(name)):
            if not isinstance(path, str):
                message = f"{where}: {name} is no path of a class: {path!r}."
                hint = "Write it as in 'lockstock.django.serializers.json.JSONSerializer'."
                found.append(Error(message, hint=hint, id="lockstock.E005"))
                continue
            if _missing_package(path):
                # An error of its own.
                continue
            try:
                import_string(path)
            except ImportError as failure:
                hint = "The names of this package are those of django-redis 7."
                message = f"{where}: {name} cannot be imported: {failure}."
                found.append(Error(message, hint=hint, id="lockstock.E005"))
    return found


def _missing_package(path: Any) -> str | None:
    """Returns the package that a serializer needs and that is not installed."""
    if not isinstance(path, str):
        return None
    package = _PACKAGES.get(path.split(".")[-2] if "." in path else "")
    if package and importlib.util.find_spec(package) is None:
        return package
    return None


def _check_pickle(
    where: str, config: dict[str, Any], options: dict[str, Any]
) -> list[CheckMessage]:
    paths = _paths(options.get("SERIALIZER")) or ["pickle"]
    if not any("pickle" in str(path).lower() for path in paths):
        return []
    for url in options_.locations(config.get("LOCATION")):
        remote = [host for host in _hosts(url, options) if host not in _LOOPBACK]
        if remote and not urlsplit(url).scheme.startswith("rediss"):
            return [
                Warning(
                    f"{where}: pickles from an unprotected connection to {', '.join(remote)}.",
                    hint="A client that can write to this Redis, or change what the network "
                    "carries, can run code here. Use rediss://, or SERIALIZER = "
                    "'lockstock.django.serializers.json.JSONSerializer'.",
                    id="lockstock.W002",
                )
            ]
    return []


def _hosts(url: str, options: dict[str, Any]) -> list[str]:
    """Returns the hosts that a URL names: a Unix socket is on this one."""
    sentinels = options.get("SENTINELS")
    if sentinels:
        # The URL has the name of a service.
        return [str(host) for host, _ in sentinels]
    parts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    return [urlsplit(f"//{part}").hostname or "localhost" for part in parts]


@register(Tags.caches, deploy=True)
def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Checks what matters in production: the protection of pickles, and what the servers report."""
    found: list[CheckMessage] = []
    for alias, config in _caches():
        where, options = f"CACHES[{alias!r}]", config.get("OPTIONS") or {}
        try:
            stores = [
                options_.store(url, {**options, "OPENTELEMETRY": False})
                for url in options_.locations(config.get("LOCATION"))
            ]
            # Not without --deploy: the usual Redis of a development environment has no TLS.
            found += _check_pickle(where, config, options)
            for store in stores:
                found += _check_server(where, store.info())
        except (ImproperlyConfigured, errors.Error, OSError, TypeError, ValueError):
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


def _blocks_greenlets() -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or monkey.is_module_patched("socket"):
        return False
    return any(monkey.is_module_patched(name) for name in _PATCHED_BY_GEVENT)


def _paths(value: Any) -> list[Any]:
    if not value:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
