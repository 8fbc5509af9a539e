"""No compression, the default."""

from __future__ import annotations

from .base import BaseCompressor

__all__ = ["IdentityCompressor"]


class IdentityCompressor(BaseCompressor):
    """Leaves values as they are."""

    def compress(self, value: bytes) -> bytes:
        return value

    def decompress(self, value: bytes) -> bytes:
        return value
