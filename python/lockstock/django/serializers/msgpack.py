"""Values as MessagePack. Requires the package `msgpack`: `pip install lockstock[msgpack]`."""

from __future__ import annotations

from typing import Any

import msgpack

from .base import BaseSerializer

__all__ = ["MSGPackSerializer"]


class MSGPackSerializer(BaseSerializer):
    """MessagePack. Tuples come back as lists."""

    def dumps(self, value: Any) -> bytes:
        packed: bytes = msgpack.dumps(value)
        return packed

    def loads(self, value: bytes) -> Any:
        return msgpack.loads(value, raw=False)
