"""What marks a value that is stored with its expiry: see `client/herd.py`.

django-redis' clients pickle an object of `django_redis.client.herd.Marker`. The same bytes are
written and read here, whether django-redis is installed or not: the name of this module is as long
as that one, so that it can be replaced in a pickle.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from .serializers.base import BaseSerializer
from .serializers.pickle import PickleSerializer

__all__ = ["MarkedSerializer", "Marker"]

_OUR_NAME = __name__.encode()
_THEIR_NAME = b"django_redis.client.herd"
assert len(_OUR_NAME) == len(_THEIR_NAME)


class Marker:
    """Marks a value that is stored with its expiry."""


class MarkedSerializer(BaseSerializer):
    """A serializer whose values may be marked."""

    def __init__(self, inner: BaseSerializer) -> None:
        self._inner = inner

    def dumps(self, value: Any) -> bytes:
        pickled = self._inner.dumps(value)
        if isinstance(value, tuple) and value and isinstance(value[0], Marker):
            # The first occurrence is that of the marker, because it is the first element.
            return pickled.replace(_OUR_NAME, _THEIR_NAME, 1)
        return pickled

    def loads(self, value: bytes) -> Any:
        if _THEIR_NAME in value and isinstance(self._inner, PickleSerializer):
            return _Unpickler(io.BytesIO(value)).load()
        return self._inner.loads(value)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "Marker" and module.encode() == _THEIR_NAME:
            return Marker
        return super().find_class(module, name)
