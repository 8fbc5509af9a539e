//! Compressors that Python's standard library does not have.

use std::io::{Read, Write};

use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Compresses as one LZ4 frame.
#[pyfunction]
pub(crate) fn lz4_compress<'py>(py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let compressed = py.detach(|| {
        let mut encoder = FrameEncoder::new(Vec::new());
        encoder.write_all(value)?;
        Ok::<_, std::io::Error>(encoder.finish()?)
    });
    Ok(PyBytes::new(py, &compressed.map_err(invalid)?))
}

/// Decompresses LZ4 frames. Raises `ValueError` for other bytes.
#[pyfunction]
pub(crate) fn lz4_decompress<'py>(py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let decompressed = py.detach(|| {
        let mut decompressed = Vec::new();
        FrameDecoder::new(value).read_to_end(&mut decompressed)?;
        Ok::<_, std::io::Error>(decompressed)
    });
    Ok(PyBytes::new(py, &decompressed.map_err(invalid)?))
}

/// Compresses as one Zstandard frame, at the library's default level.
#[pyfunction]
pub(crate) fn zstd_compress<'py>(py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let compressed = py.detach(|| zstd::encode_all(value, zstd::DEFAULT_COMPRESSION_LEVEL));
    Ok(PyBytes::new(py, &compressed.map_err(invalid)?))
}

/// Decompresses Zstandard frames. Raises `ValueError` for other bytes.
#[pyfunction]
pub(crate) fn zstd_decompress<'py>(py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let decompressed = py.detach(|| zstd::decode_all(value));
    Ok(PyBytes::new(py, &decompressed.map_err(invalid)?))
}

fn invalid(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}
