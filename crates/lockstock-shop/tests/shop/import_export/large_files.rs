//! Files of any size are imported and exported in bounded memory.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Shop;

/// More than what both sizes of a file may differ by: the caches of SQLite, and allocation. The text of
/// the larger file alone is larger.
const MAX_GROWTH_KIB: u64 = 32 * 1024;

const DESCRIPTION_BYTES: usize = 400;

/// Writes a file with this number of products.
fn write_products(file: &Path, count: usize) {
    let mut output = BufWriter::new(File::create(file).unwrap());
    writeln!(output, "id,name,price,stock,description").unwrap();
    let description = "x".repeat(DESCRIPTION_BYTES);
    for number in 1..=count {
        writeln!(output, "{number},Product {number},100,5,{description}").unwrap();
    }
    output.flush().unwrap();
}

/// Runs a command to its end. Returns its peak memory, as far as it was seen, in KiB.
fn peak_memory(mut command: Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let read = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(read.unwrap_or_default());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[test]
fn the_memory_of_an_import_and_an_export_does_not_grow_with_the_file() {
    const SIZES: [usize; 2] = [10_000, 100_000];
    assert!(SIZES[1] * DESCRIPTION_BYTES > MAX_GROWTH_KIB as usize * 1024);
    for kind in [Shop::sqlite as fn() -> Shop, Shop::postgres] {
        let peaks = SIZES.map(|size| {
            let shop = kind();
            let file = shop.path("products.csv");
            write_products(&file, size);
            let import = peak_memory(shop.command("import", &file, &["--quiet"]));
            let export = shop.command("export", &shop.path("exported.jsonl"), &["--quiet"]);
            (import, peak_memory(export))
        });
        let [small, large] = peaks;
        assert!(small.0 > 0 && small.1 > 0);
        assert!(large.0 < small.0 + MAX_GROWTH_KIB, "import: {peaks:?}");
        assert!(large.1 < small.1 + MAX_GROWTH_KIB, "export: {peaks:?}");
    }
}

#[test]
fn an_export_ends_quietly_when_its_reader_does() {
    let shop = Shop::sqlite();
    let file = shop.path("products.csv");
    // More than a pipe holds.
    write_products(&file, 2000);
    shop.import(&file, &[]);
    let mut export = shop.command("export", Path::new("-"), &[]);
    export.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut export = export.spawn().unwrap();
    let mut output = export.stdout.take().unwrap();
    output.read_exact(&mut [0; 100]).unwrap();
    drop(output);
    let output = export.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
