//! What the fuzz targets in `fuzz/` check. `cargo fuzz` sets `cfg(fuzzing)`.

/// Checks the readers of Redis replies with any bytes.
pub fn replies(input: &[u8]) {
    crate::store::check_replies(input);
}
