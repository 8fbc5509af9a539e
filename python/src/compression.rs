//! Compressors that Python's standard library does not have.

use std::io::{self, Read, Write};

use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

const LZ4_MAGIC: &[u8] = &0x184D_2204_u32.to_le_bytes();
const ZSTD_MAGIC: &[u8] = &0xFD2F_B528_u32.to_le_bytes();

/// Compresses as one LZ4 frame.
#[pyfunction]
pub(crate) fn lz4_compress<'py>(py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let compressed = py.detach(|| {
        let mut encoder = FrameEncoder::new(Vec::new());
        encoder.write_all(value)?;
        Ok::<_, io::Error>(encoder.finish()?)
    });
    Ok(PyBytes::new(py, &compressed.map_err(invalid)?))
}

/// Decompresses LZ4 frames. Raises `ValueError` for other bytes, and for more than `max_bytes`.
#[pyfunction]
pub(crate) fn lz4_decompress<'py>(
    py: Python<'py>,
    value: &[u8],
    max_bytes: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    // The decoder returns nothing for a value of four bytes, instead of an error.
    begins_with(LZ4_MAGIC, value)?;
    // It takes the end of the value for the end of the frame.
    if !has_end(value) {
        return Err(invalid("the compressed value is incomplete"));
    }
    let decompressed = py.detach(|| read(FrameDecoder::new(value), max_bytes));
    not_empty(py, &decompressed.map_err(invalid)?)
}

/// Compresses as one Zstandard frame, at the library's default level.
#[pyfunction]
pub(crate) fn zstd_compress<'py>(py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let compressed = py.detach(|| zstd::encode_all(value, zstd::DEFAULT_COMPRESSION_LEVEL));
    Ok(PyBytes::new(py, &compressed.map_err(invalid)?))
}

/// Decompresses Zstandard frames. Raises `ValueError` for other bytes, and for more than `max_bytes`.
#[pyfunction]
pub(crate) fn zstd_decompress<'py>(
    py: Python<'py>,
    value: &[u8],
    max_bytes: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    begins_with(ZSTD_MAGIC, value)?;
    let decompressed = py.detach(|| read(zstd::Decoder::new(value)?, max_bytes));
    not_empty(py, &decompressed.map_err(invalid)?)
}

/// Reads all bytes, or fails if there are more than `max_bytes`.
fn read(source: impl Read, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let max_read = max_bytes as u64 + 1;
    source.take(max_read).read_to_end(&mut bytes)?;
    match bytes.len() > max_bytes {
        true => Err(io::Error::other("the value becomes too large")),
        false => Ok(bytes),
    }
}

/// Whether an LZ4 frame has its end mark.
/// <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>
fn has_end(frame: &[u8]) -> bool {
    const HAS_DICTIONARY_ID: u8 = 1;
    const HAS_CONTENT_SIZE: u8 = 1 << 3;
    const HAS_BLOCK_CHECKSUMS: u8 = 1 << 4;
    const IS_UNCOMPRESSED: u32 = 1 << 31;
    let Some(flags) = frame.get(LZ4_MAGIC.len()) else {
        return false;
    };
    let has = |flag| flags & flag != 0;
    // Behind the magic number: flags, the maximum size of a block, and a checksum of the header.
    let mut position = LZ4_MAGIC.len() + 3;
    position += if has(HAS_CONTENT_SIZE) { 8 } else { 0 };
    position += if has(HAS_DICTIONARY_ID) { 4 } else { 0 };
    while let Some(size) = frame.get(position..).and_then(<[u8]>::first_chunk) {
        let size = u32::from_le_bytes(*size) & !IS_UNCOMPRESSED;
        if size == 0 {
            return true;
        }
        let checksum = if has(HAS_BLOCK_CHECKSUMS) { 4 } else { 0 };
        position += 4 + size as usize + checksum;
    }
    false
}

fn begins_with(magic: &[u8], value: &[u8]) -> PyResult<()> {
    if value.starts_with(magic) {
        Ok(())
    } else {
        Err(invalid("the value does not begin as a compressed one"))
    }
}

/// Returns what was decompressed. No value that is compressed is empty: the frame was cut off.
fn not_empty<'py>(py: Python<'py>, decompressed: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    if decompressed.is_empty() {
        Err(invalid("the compressed value is incomplete"))
    } else {
        Ok(PyBytes::new(py, decompressed))
    }
}

fn invalid(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}
