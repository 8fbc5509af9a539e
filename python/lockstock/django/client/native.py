"""The native path: a call of the cache is one call of the native module.

It makes the key, sends the command and decodes the reply. It is taken where no subclass changes
what it does. Where it returns `NotImplemented`, it has sent nothing.
"""

from __future__ import annotations

import functools
import pickle
from typing import Any, ClassVar

from django.core.cache.backends.base import default_key_func
from django.core.exceptions import ImproperlyConfigured

from ... import _core
from ...entry import Unusable
from .. import options as options_
from ..compressors.identity import IdentityCompressor
from ..serializers.pickle import PickleSerializer
from ..util import CacheKey
from .coding import Coding, dump, load
from .connections import Connections

__all__ = ["NativePath", "plain_methods"]

# Methods that the native path takes the place of. With another one, commands are executed.
_REPLACED = """
    encode decode get_next_client_index _execute _execute_on _aexecute _guarded _aguarded _store
    _target _target_at _timeout _get _set _get_many _incr _touch
""".split()


def plain_methods(client: type) -> dict[str, Any]:
    """Returns the methods of a class that the native path takes the place of."""
    return {name: getattr(client, name) for name in _REPLACED}


class NativePath(Connections, Coding):
    """Opens the native cache of a client."""

    # Of `DefaultClient`.
    _plain_methods: ClassVar[dict[str, Any]]
    # None: not opened yet, or not usable.
    _native: _core.Cache | None = None
    _near: _core.NearCache | None = None
    _is_opened = False

    def _open_native(self) -> _core.Cache | None:
        """Returns the native cache, None if commands have to be executed."""
        if self._is_opened:
            return self._native
        if self._is_plain():
            store = self._store(0)
            backend = self._backend
            self._near = options_.near(store, self._options, backend.key_prefix)
            makes_keys = (
                backend.key_func is default_key_func
                and type(self).make_key is Coding.make_key
                and not self._validates_all
            )
            self._native = _core.Cache(
                store,
                loads=functools.partial(_load, tuple(self._compressors), tuple(self._serializers)),
                pickle_loads=self._pickle_loads(),
                dumps=self._dumps(),
                made_key=CacheKey,
                makes_keys=makes_keys,
                warns=not self._is_compatible,
                near=self._near,
            )
        elif self._options.get("NEAR_CACHE"):
            message = (
                "NEAR_CACHE needs lockstock.django.client.DefaultClient with one URL in LOCATION"
            )
            raise ImproperlyConfigured(message)
        self._is_opened = True
        return self._native

    def _is_plain(self) -> bool:
        own = type(self)
        return len(self._server) == 1 and all(
            getattr(own, name) is method for name, method in self._plain_methods.items()
        )

    def _pickle_loads(self) -> Any:
        is_compressed = any(type(each) is not IdentityCompressor for each in self._compressors)
        is_pickled = all(type(each).loads is PickleSerializer.loads for each in self._serializers)
        return pickle.loads if is_pickled and not is_compressed else None

    def _dumps(self) -> Any:
        serializer = self._serializer
        if type(self._compressor) is IdentityCompressor:
            if type(serializer).dumps is PickleSerializer.dumps:
                return functools.partial(pickle.dumps, protocol=serializer._pickle_version)
            return serializer.dumps
        return functools.partial(dump, self._compressor, serializer)

    def _made(self, key: Any, version: int | None) -> CacheKey:
        """Returns the key in the store, made by Python."""
        name = self.make_key(key, version=version)
        return name if isinstance(name, CacheKey) else CacheKey(name)

    def _call(self, method: str, key: Any, version: int | None, *args: Any) -> Any:
        """Calls a method of the native cache. If it returns `NotImplemented`, commands remain."""
        native = self._native or self._open_native()
        if native is None:
            return NotImplemented
        call, backend = getattr(native, method), self._backend
        try:
            if version is None:
                reply = call(key, backend.version, backend.key_prefix, *args)
            else:
                reply = call(key, version, backend.key_prefix, *args)
            if reply is NotImplemented:
                reply = call(self._made(key, version), None, None, *args)
            return reply
        except Exception as failure:
            self._fail(failure, self._stores[0])


def _load(compressors: tuple[Any, ...], serializers: tuple[Any, ...], value: bytes) -> Any:
    try:
        return load(compressors, serializers, value)
    except Unusable:
        # It counts as no value.
        return NotImplemented
