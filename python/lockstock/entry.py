"""What is in the store under the key of a cache: the bytes of a value, or an envelope around them.

The Rust crate writes an envelope where a value has a time after which it is stale, or tags. All
other entries are the plain bytes of their value.
"""

from __future__ import annotations

import struct
import time

__all__ = ["Unusable", "payload_of"]

# No JSON, no pickle, no MessagePack and no integer begins with C1. 01 is the version.
_MAGIC = b"\xc1LS\x01"
# When the value becomes stale, in ms since 1970; how long it was computed, in us; how many tags.
_HEAD = struct.Struct(">4xQQH")
_NEVER_MS = 2**64 - 1


class Unusable(Exception):
    """The entry counts as missing: its value is stale, or has tags, which are not read here."""


def payload_of(entry: bytes) -> bytes:
    """Returns the bytes of the value. Raises `Unusable` if the entry counts as missing."""
    if not isinstance(entry, bytes) or entry[:4] != _MAGIC:
        return entry
    if len(entry) < _HEAD.size:
        raise Unusable
    stale_at_ms, _, tags = _HEAD.unpack_from(entry)
    if tags or (stale_at_ms != _NEVER_MS and stale_at_ms <= time.time() * 1000):
        raise Unusable
    return entry[_HEAD.size :]
