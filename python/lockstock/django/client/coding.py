"""The keys and the bytes in the store: django-redis'."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

from django.core.cache.backends.base import (
    DEFAULT_TIMEOUT,
    MEMCACHE_MAX_KEY_LENGTH,
    BaseCache,
    get_key_func,
)
from django.utils.module_loading import import_string

from ...entry import payload_of
from ..exceptions import CompressorError
from ..options import is_compatible
from ..util import CacheKey, glob_escape
from .commands import CommandBuilder

__all__ = ["Coding", "dump", "load"]


class Coding(CommandBuilder):
    """Makes keys, and encodes and decodes values."""

    def __init__(self, params: dict[str, Any], backend: BaseCache) -> None:
        options: dict[str, Any] = params.get("OPTIONS", {})
        self._backend = backend
        self._is_compatible = is_compatible(options)
        # Django's own validation takes as long as a command. It is left out for keys that pass it.
        self._validates_all = type(backend).validate_key is not BaseCache.validate_key
        self.reverse_key = get_key_func(
            params.get("REVERSE_KEY_FUNCTION") or "lockstock.django.util.default_reverse_key"
        )
        serializers = _paths(
            options.get("SERIALIZER", "lockstock.django.serializers.pickle.PickleSerializer")
        )
        compressors = _paths(
            options.get("COMPRESSOR", "lockstock.django.compressors.identity.IdentityCompressor")
        )
        # The first writes, any of them reads.
        self._serializers = [import_string(path)(options=options) for path in serializers]
        self._compressors = [import_string(path)(options=options) for path in compressors]
        self._serializer = self._serializers[0]
        self._compressor = self._compressors[0]

    def make_key(self, key: Any, version: int | None = None, prefix: str | None = None) -> CacheKey:
        """Returns the key in the store."""
        if isinstance(key, CacheKey):
            return key
        if prefix is None:
            prefix = self._backend.key_prefix
        if version is None:
            version = self._backend.version
        name = CacheKey(self._backend.key_func(key, prefix, version))
        if not self._is_compatible and (self._validates_all or not _is_valid_for_memcached(name)):
            self._backend.validate_key(name)
        return name

    def make_pattern(
        self, pattern: str, version: int | None = None, prefix: str | None = None
    ) -> CacheKey:
        """Returns a pattern of keys in the store. Prefix and version match themselves only."""
        if isinstance(pattern, CacheKey):
            return pattern
        if prefix is None:
            prefix = self._backend.key_prefix
        if version is None:
            version = self._backend.version
        return CacheKey(
            self._backend.key_func(pattern, glob_escape(prefix), glob_escape(str(version)))
        )

    def encode(self, value: Any, *, allow_int: bool = True) -> bytes | int:
        """Returns the bytes of a value. An int stays one, so that Redis can increment it."""
        if allow_int and isinstance(value, int) and not isinstance(value, (bool, Enum)):
            return value
        return dump(self._compressor, self._serializer, value)

    def decode(self, value: Any) -> Any:
        """Returns the value of the bytes in the store.

        Raises `lockstock.entry.Unusable` if they are an entry that counts as missing.
        """
        try:
            return int(value)
        except (TypeError, ValueError):
            pass
        return load(self._compressors, self._serializers, value)

    def _has_compression_enabled(self) -> bool:
        return not type(self._compressor).__name__.startswith("Identity")

    def _timeout(self, timeout: Any) -> Any:
        return self._backend.default_timeout if timeout is DEFAULT_TIMEOUT else timeout


def dump(compressor: Any, serializer: Any, value: Any) -> bytes:
    """Returns the bytes of a value that is no integer."""
    dumped: bytes = compressor.compress(serializer.dumps(value))
    return dumped


def load(compressors: Sequence[Any], serializers: Sequence[Any], value: bytes) -> Any:
    """Returns the value of bytes that are no integer: one of the serializers has written them.

    Raises `lockstock.entry.Unusable` if they are an entry that counts as missing.
    """
    entry, value = value, payload_of(value)
    if value is not entry:
        # In an envelope, an integer is its digits too.
        with suppress(ValueError):
            return int(value)
    for compressor in compressors:
        with suppress(CompressorError):
            value = compressor.decompress(value)
            break
    if len(serializers) == 1:
        return serializers[0].loads(value)
    first = None
    for serializer in serializers:
        try:
            return serializer.loads(value)
        except Exception as failure:
            first = first or failure
    assert first is not None
    raise first


def _is_valid_for_memcached(name: str) -> bool:
    """Returns whether Django warns of no key: false for some keys that it does not warn of."""
    return len(name) <= MEMCACHE_MAX_KEY_LENGTH and name.isprintable() and " " not in name


def _paths(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
