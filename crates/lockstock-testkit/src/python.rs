use std::path::PathBuf;

/// The Python that has `bench/requirements.txt` installed: what `./dev setup` made, or
/// `LOCKSTOCK_PYTHON`.
///
/// Panics if there is none.
pub fn python() -> PathBuf {
    let python: PathBuf = match std::env::var_os("LOCKSTOCK_PYTHON") {
        Some(path) => path.into(),
        None => concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/venv/bin/python").into(),
    };
    assert!(
        python.exists(),
        "no {}: run `./dev setup`, or point LOCKSTOCK_PYTHON at a Python that has \
         bench/requirements.txt installed",
        python.display()
    );
    python
}
