"""Values that are compressed: cut off, foreign, or much larger than what is in Redis."""

from __future__ import annotations

import random
from typing import Any

import pytest
from django.utils.module_loading import import_string

from lockstock.django.compressors.lz4 import Lz4Compressor
from lockstock.django.exceptions import CompressorError

COMPRESSORS = [
    "zlib.ZlibCompressor",
    "gzip.GzipCompressor",
    "lzma.LzmaCompressor",
    "lz4.Lz4Compressor",
    "zstd.ZStdCompressor",
]


@pytest.fixture(params=COMPRESSORS)
def compressor(request: pytest.FixtureRequest) -> Any:
    return import_string(f"lockstock.django.compressors.{request.param}")({})


def test_a_value_that_becomes_too_large_is_an_error(compressor: Any) -> None:
    value = bytes(8 * 1024 * 1024)
    bomb = compressor.compress(value)
    assert len(bomb) < len(value) // 100
    assert compressor.decompress(bomb) == value
    compressor.max_bytes = 1024 * 1024
    with pytest.raises(CompressorError):
        compressor.decompress(bomb)
    small = bytes(1024 * 1024 - 1)
    assert compressor.decompress(compressor.compress(small)) == small


def test_a_value_that_is_cut_off_is_an_error(compressor: Any) -> None:
    value = random.Random(0).randbytes(200_000)
    compressed = compressor.compress(value)
    assert compressor.decompress(compressed) == value
    lengths = {*range(0, len(compressed), 9973), *range(len(compressed) - 20, len(compressed))}
    for length in lengths:
        with pytest.raises(CompressorError):
            decompressed = compressor.decompress(compressed[:length])
            raise AssertionError(f"{length} of {len(compressed)} bytes became {len(decompressed)}")


def test_an_lz4_value_that_is_cut_off_between_blocks_is_an_error() -> None:
    # Does not shrink: each block has the size of its data, behind four bytes.
    block_bytes = 4 * 1024 * 1024
    value = random.Random(0).randbytes(2 * block_bytes + 1000)
    compressor = Lz4Compressor({})
    compressed = compressor.compress(value)
    assert compressor.decompress(compressed) == value
    for count in range(3):
        with pytest.raises(CompressorError):
            compressor.decompress(compressed[: 7 + count * (4 + block_bytes)])


def test_foreign_bytes_are_an_error(compressor: Any) -> None:
    for foreign in [
        b"text that is not compressed",
        b"\x80\x04\x95pickle",
        bytes(100),
        b"\xff" * 100,
    ]:
        with pytest.raises(CompressorError):
            compressor.decompress(foreign)
