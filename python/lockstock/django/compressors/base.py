"""The interface of a compressor."""

from __future__ import annotations

from typing import Any

__all__ = ["BaseCompressor"]


class BaseCompressor:
    """Compresses bytes. A subclass may be named in `OPTIONS["COMPRESSOR"]`."""

    # The maximum size of a decompressed value: that of a string in Redis. A few bytes in Redis must
    # not become more than the memory of a process.
    max_bytes = 512 * 1024 * 1024

    def __init__(self, options: dict[str, Any]) -> None:
        """Receives the `OPTIONS` of the cache."""
        self._options = options

    def compress(self, value: bytes) -> bytes:
        """Returns the compressed bytes, or `value` itself if it is short."""
        raise NotImplementedError

    def decompress(self, value: bytes) -> bytes:
        """Returns what `compress` received.

        Raises `CompressorError` if the bytes are not compressed, or would become more than
        `max_bytes`.
        """
        raise NotImplementedError
