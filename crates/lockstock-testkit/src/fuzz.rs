//! Inputs of the fuzz targets, for tests that check them without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the seeds of a fuzz target and the inputs that once made it fail, each with its file.
pub fn fuzz_inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let folders = ["seeds", "finds"].map(|kind| fuzz.join(kind).join(target));
    let files = folders.iter().flat_map(|folder| {
        // A target without finds has no such folder.
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.expect("the folder can be read").path())
    });
    let inputs: Vec<_> = files
        .map(|file| {
            let input = fs::read(&file).expect("the file can be read");
            (file, input)
        })
        .collect();
    assert!(!inputs.is_empty(), "{target} has seeds");
    inputs
}
