//! `lockstock export`: writes all products to a file, as they are at one moment.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::HumanCount;

use super::progress::Progress;
use crate::cli::database::DatabaseArgs;
use crate::product_file::{Format, Writer};
use crate::storage::Export;

/// The progress is shown after each this many products.
const PROGRESS_INTERVAL: u64 = 1000;

const HELP: &str = "\
The file has the fields that a product has in the API. `lockstock import products --update` takes it \
back, as it is or edited. The file has the version of each product: a row whose product was sold or \
changed since is then an error. If the file has to win, remove its column `version`.

FILE is replaced when the export is complete. Servers may run meanwhile.

Examples:
  lockstock export products products.csv
  lockstock export products --format jsonl --database postgres://shop@127.0.0.1/shop | gzip > p.gz";

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(subcommand)]
    command: ExportCommand,
}

#[derive(Debug, Subcommand)]
enum ExportCommand {
    /// Export all products as CSV or JSON lines
    Products(ExportProductsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
struct ExportProductsArgs {
    /// File to write, or - for standard output
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,

    /// Format of the file [default: by its extension, .csv, .jsonl or .ndjson; csv for standard output]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Show no progress
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    database: DatabaseArgs,
}

/// Exports all products.
pub(crate) async fn run(args: ExportArgs) -> anyhow::Result<()> {
    let ExportCommand::Products(args) = args.command;
    let (file, quiet) = (&*args.file, args.quiet);
    if file == Path::new("-") {
        let format = args.format.unwrap_or(Format::Csv);
        let export = Export::open(&args.database.url).await?;
        let written = write(export, io::stdout().lock(), format, quiet).await?;
        return match written {
            // The reader has closed the pipe, as `head` does.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written.map(drop)?),
        };
    }
    let name = file.display();
    let format = Format::of(file, args.format)?;
    let export = Export::open(&args.database.url).await?;
    let cannot_write = || format!("cannot write {name}");
    let count = if file.exists() && !file.is_file() {
        // A pipe or a device, which cannot be replaced.
        let output = File::create(file).with_context(cannot_write)?;
        write(export, output, format, quiet)
            .await?
            .with_context(cannot_write)?
    } else {
        replace(export, file, format, quiet)
            .await
            .with_context(cannot_write)?
    };
    let products = match count {
        1 => "1 product".to_owned(),
        count => format!("{} products", HumanCount(count)),
    };
    writeln!(anstream::stdout(), "Exported {products} to {name}.")?;
    Ok(())
}

/// Writes the products to a new file, which takes the place of `file` when it is complete.
async fn replace(export: Export, file: &Path, format: Format, quiet: bool) -> anyhow::Result<u64> {
    // A symbolic link stays one.
    let file = match file.canonicalize() {
        Ok(file) => file,
        Err(_) => file.to_owned(),
    };
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let partial = tempfile::Builder::new()
        .prefix(".lockstock-export-")
        // Those of any new file: the mask of the process applies.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    let count = write(export, partial.as_file(), format, quiet).await??;
    partial.as_file().sync_all()?;
    partial.persist(&file)?;
    File::open(folder)?.sync_all()?;
    Ok(count)
}

/// Writes all products. Returns how many there are.
async fn write(
    mut export: Export,
    output: impl Write,
    format: Format,
    quiet: bool,
) -> anyhow::Result<io::Result<u64>> {
    let total = export.count().await?;
    let mut progress = Progress::new("Exporting", Some(total), quiet);
    let mut count = 0;
    let mut writer = match Writer::new(BufWriter::new(output), format) {
        Ok(writer) => writer,
        Err(error) => return Ok(Err(error)),
    };
    let written = export
        .for_each(|product| {
            count += 1;
            if count % PROGRESS_INTERVAL == 0 {
                progress.show(count, count);
            }
            writer.write(product)
        })
        .await?;
    let flushed = written.and_then(|()| writer.finish()?.flush());
    Ok(flushed.map(|()| count))
}
