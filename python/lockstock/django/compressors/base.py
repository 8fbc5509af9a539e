"""The interface of a compressor."""

from __future__ import annotations

from ..exceptions import CompressorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Stream(Protocol):
        """A decompressor of the standard library, which stops at the end of a stream."""

        @property
        def eof(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...
        def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


__all__ = ["BaseCompressor", "decompress_streams"]


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


def decompress_streams(value: bytes, max_bytes: int, new_stream: Callable[[], Stream]) -> bytes:
    """Decompresses one stream or several in a row, each of which zeros may follow."""
    decompressed, rest = b"", value
    while True:
        stream = new_stream()
        left = max_bytes - len(decompressed)
        decompressed += stream.decompress(rest, max(left, 1))
        if not stream.eof or left <= 0:
            raise CompressorError
        rest = stream.unused_data.lstrip(b"\0")
        if not rest:
            return decompressed
