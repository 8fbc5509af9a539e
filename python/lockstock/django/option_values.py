"""The options of a cache by name: which there are, and which values they take.

A wrong value is reported by `manage.py check`, and raises at the first use of the cache. Not when
the backend is made: Django makes all backends before it runs the checks of this package.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .options import MAX_SECONDS, REFUSED

__all__ = ["OPTIONS", "check_values", "unknown", "wrong_values"]

_DURATION = "a number of seconds, at most those of a year"
_PATH = "the path of a class, or a list of paths"

# Options that this package reads.
OPTIONS = {
    "CLEAR",
    "CLIENT_CLASS",
    "CLOSE_CONNECTION",
    "COMPAT",
    "COMPRESSOR",
    "COMPUTE_ONCE",
    "COMPUTE_WAIT",
    "CONNECTION_POOL_KWARGS",
    "IGNORE_EXCEPTIONS",
    "LOG_IGNORED_EXCEPTIONS",
    "NEAR_CACHE",
    "OPENTELEMETRY",
    "PASSWORD",
    "PICKLE_VERSION",
    "REPLICA_READ_ONLY",
    "SENTINELS",
    "SENTINEL_KWARGS",
    "SERIALIZER",
    "SOCKET_CONNECT_TIMEOUT",
    "SOCKET_TIMEOUT",
    "STALE",
    "TTL_JITTER",
    "USERNAME",
}
# Django reads them from the options of any backend. A backend in Redis has no limit of entries.
_OF_DJANGO = {"CULL_FREQUENCY", "MAX_ENTRIES"}
# Settings of a cache that are not inside OPTIONS.
_BESIDE = {"BACKEND", "KEY_FUNCTION", "LOCATION", "REVERSE_KEY_FUNCTION", "TIMEOUT", "VERSION"}


def unknown(options: Mapping[str, Any]) -> dict[str, str]:
    """Returns the options that nothing reads, each with what to do."""
    # KEY_PREFIX has a warning of its own.
    known = OPTIONS | _OF_DJANGO | set(REFUSED) | {"KEY_PREFIX"}
    return {str(name): _advice(str(name)) for name in options if name not in known}


def _advice(name: str) -> str:
    if name.upper() in _BESIDE:
        return "Move it out of OPTIONS, beside LOCATION."
    nearest = difflib.get_close_matches(name.upper(), OPTIONS, n=1)
    if nearest:
        return f"Write {nearest[0]}, if you mean that."
    return "Remove it."


def wrong_values(options: Mapping[str, Any]) -> dict[str, str]:
    """Returns the options whose value cannot be used, each with the values it takes."""
    return {
        name: takes
        for name, (is_right, takes) in _VALUES.items()
        if name in options and not is_right(options[name])
    }


def check_values(options: Mapping[str, Any]) -> None:
    """Raises `ImproperlyConfigured` if the value of an option cannot be used."""
    for name, takes in wrong_values(options).items():
        message = f"{name} must be {takes}, not {options[name]!r}"
        raise ImproperlyConfigured(message)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= MAX_SECONDS


def _is_share(value: Any) -> bool:
    # 0 and False are as no jitter.
    return not value or (_is_number(value) and 0 < value < 1)


def _is_one_of(*values: Any) -> Callable[[Any], bool]:
    # Not by a set: a wrong value may have no hash.
    return lambda value: any(value is each or value == each for each in values)


def _is_mapping(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, (str, bytes, int))


def _is_given(value: Any) -> bool:
    # What cannot be imported has an error of its own.
    return bool(value)


def _is_protocol(value: Any) -> bool:
    try:
        return int(value) <= pickle.HIGHEST_PROTOCOL
    except (TypeError, ValueError):
        return False


_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "CLEAR": (_is_one_of(None, "prefix"), "'prefix' or None"),
    "CLIENT_CLASS": (_is_given, "the path of a class"),
    "COMPAT": (_is_one_of(None, "django-redis"), "'django-redis' or None"),
    "COMPRESSOR": (_is_given, _PATH),
    "COMPUTE_ONCE": (_is_one_of(None, "store", "process", False), "'store', 'process' or None"),
    "COMPUTE_WAIT": (_is_duration, _DURATION),
    "CONNECTION_POOL_KWARGS": (_is_mapping, "a dict"),
    "PASSWORD": (_is_text, "a string"),
    "PICKLE_VERSION": (_is_protocol, f"a number up to {pickle.HIGHEST_PROTOCOL}"),
    "SENTINEL_KWARGS": (_is_mapping, "a dict"),
    "SERIALIZER": (_is_given, _PATH),
    "STALE": (_is_duration, _DURATION),
    "TTL_JITTER": (_is_share, "a part of the timeout, such as 0.1 for a tenth"),
    "USERNAME": (_is_text, "a string"),
}
