//! `lockstock import`: writes the products of a file into the database, all or none.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use indicatif::HumanCount;
use uuid::Uuid;

use super::progress::Progress;
use crate::cli::database::DatabaseArgs;
use crate::product_file::{self, Format, Mistake, ReadError};
use crate::storage::{
    self, Conflict, ConflictKind, Conflicts, ExistingProducts, Import, ImportCounts, ImportOutcome,
    ImportRow, MAX_CONFLICTS, StorageError,
};

/// A batch of rows that are staged together is full when it has this many, or this much text.
const MAX_BATCH_ROWS: usize = 1000;
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// The exit code of a file with mistakes, the same as that of an invalid command line.
const INVALID: u8 = 2;

const HELP: &str = "\
The first line of a CSV file names its columns: id, name, description, price, stock, version. A file \
with JSON lines has an object with these fields on each line. A value must be one that the API accepts.

A row without an id creates a product. A row with the id of a product is an error, unless --update is \
given: then it changes the product, and the fields that the file lacks stay as they are. If the row \
has a version, the product must still have it.

Every row is checked first. If one cannot be imported, none is, and the first 20 mistakes are listed. \
The exit code is then 2; it is 1 if the database fails. Servers may run meanwhile: see \"Import and \
export\" in docs/operations.md.

Examples:
  lockstock import products products.csv
  lockstock import products products.csv --dry-run
  lockstock export products products.csv && vi products.csv &&
    lockstock import products products.csv --update
  zcat products.jsonl.gz | lockstock import products - --format jsonl \\
    --database postgres://shop@127.0.0.1/shop";

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(subcommand)]
    command: ImportCommand,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// Import products from CSV or JSON lines: all of them, or none
    Products(ImportProductsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = HELP)]
struct ImportProductsArgs {
    /// File to read, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Format of the file [default: by its extension, .csv, .jsonl or .ndjson]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Update the products that exist
    #[arg(long)]
    update: bool,

    /// Check every row, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Show no progress
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    database: DatabaseArgs,
}

/// Imports the products of a file.
pub(crate) async fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let ImportCommand::Products(args) = args.command;
    let source = Source::open(&args.file, args.format)?;
    let existing = match args.update {
        true => ExistingProducts::Update,
        false => ExistingProducts::Conflict,
    };
    let mut import = storage::import(&args.database.url, existing).await?;
    let imported = import_products(source, &mut *import, existing, &args).await;
    import.close().await;
    imported
}

async fn import_products(
    source: Source,
    import: &mut dyn Import,
    existing: ExistingProducts,
    args: &ImportProductsArgs,
) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let name = source.name.clone();
    let mut mistakes = stage(source, import, existing, args.quiet).await?;
    let (conflicts, counts) = import.check().await.map_err(nothing_written)?;
    mistakes.add_conflicts(conflicts);
    if mistakes.total > 0 {
        return Ok(mistakes.report(&name));
    }
    let mut out = anstream::stdout();
    if args.dry_run {
        writeln!(out, "{name} can be imported: {}.", described(&counts))?;
        return Ok(ExitCode::SUCCESS);
    }
    let request = format!("import-{}", Uuid::now_v7());
    let rows = counts.created + counts.updated + counts.unchanged;
    let mut progress = Progress::new("Writing", Some(rows), args.quiet);
    let outcome = import
        .write(&request, &mut |rows| progress.show(rows, rows))
        .await;
    drop(progress);
    match outcome.map_err(|error| failed(&error, &request))? {
        ImportOutcome::Rejected(conflicts) => {
            mistakes.add_conflicts(conflicts);
            Ok(mistakes.report(&name))
        }
        ImportOutcome::Written(counts) => {
            let time = seconds(started.elapsed());
            writeln!(out, "Imported {} in {time}.", described(&counts))?;
            if counts.created + counts.updated > 0 {
                writeln!(out, "Request in the ledger: {request}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What is imported.
struct Source {
    /// For messages.
    name: String,
    format: Format,
    input: Box<dyn Read + Send>,
    /// `None` if it is not known.
    bytes: Option<u64>,
}

impl Source {
    fn open(file: &Path, format: Option<Format>) -> anyhow::Result<Self> {
        if file == Path::new("-") {
            let format = format.context("standard input has no extension: give --format")?;
            return Ok(Self {
                name: "standard input".to_owned(),
                format,
                input: Box::new(io::stdin()),
                bytes: None,
            });
        }
        let name = file.display().to_string();
        let format = Format::of(file, format)?;
        let opened = File::open(file).with_context(|| format!("cannot open {name}"))?;
        let metadata = opened.metadata()?;
        Ok(Self {
            name,
            format,
            input: Box::new(opened),
            bytes: metadata.is_file().then_some(metadata.len()),
        })
    }
}

/// Reads all rows and stages the valid ones. Returns the mistakes in the others.
async fn stage(
    source: Source,
    import: &mut dyn Import,
    existing: ExistingProducts,
    quiet: bool,
) -> anyhow::Result<Mistakes> {
    let Source {
        name,
        format,
        input,
        bytes,
    } = source;
    let position = Arc::new(AtomicU64::new(0));
    let input = Counted {
        input,
        position: position.clone(),
    };
    let mut progress = Progress::new("Reading", bytes, quiet);
    let mut mistakes = Mistakes::default();
    let mut batch = Batch::default();
    let mut rows = 0;
    for row in product_file::read(input, format, existing) {
        match row {
            Ok(row) => {
                rows += 1;
                batch.push(row);
            }
            Err(ReadError::Mistakes(found)) => mistakes.add(found),
            Err(ReadError::Io(error)) => {
                return Err(anyhow!("cannot read {name}: {error}; nothing was imported"));
            }
        }
        if batch.is_full() {
            import.stage(batch.take()).await.map_err(nothing_written)?;
            progress.show(position.load(Ordering::Relaxed), rows);
        }
    }
    import.stage(batch.take()).await.map_err(nothing_written)?;
    Ok(mistakes)
}

/// An input whose bytes are counted.
struct Counted<R> {
    input: R,
    position: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.position.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Rows that are staged together.
#[derive(Default)]
struct Batch {
    rows: Vec<ImportRow>,
    text_bytes: usize,
}

impl Batch {
    fn push(&mut self, row: ImportRow) {
        let texts = [&row.changes.name, &row.changes.description];
        let texts = texts.into_iter().flatten();
        self.text_bytes += texts.map(String::len).sum::<usize>();
        self.rows.push(row);
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= MAX_BATCH_ROWS || self.text_bytes >= MAX_BATCH_BYTES
    }

    fn take(&mut self) -> Vec<ImportRow> {
        std::mem::take(self).rows
    }
}

/// The mistakes in a file, of which the first ones are kept.
#[derive(Default)]
struct Mistakes {
    first: Vec<Mistake>,
    total: u64,
}

impl Mistakes {
    fn add(&mut self, found: Vec<Mistake>) {
        self.total += found.len() as u64;
        let space = (MAX_CONFLICTS as usize).saturating_sub(self.first.len());
        self.first.extend(found.into_iter().take(space));
    }

    /// Adds conflicts, whose lines may be before those of other mistakes.
    fn add_conflicts(&mut self, conflicts: Conflicts) {
        self.total += conflicts.total;
        self.first.extend(conflicts.first.into_iter().map(mistake));
        self.first.sort_by_key(|mistake| mistake.line);
        self.first.truncate(MAX_CONFLICTS as usize);
    }

    fn report(self, name: &str) -> ExitCode {
        let count = match self.total {
            1 => "1 mistake".to_owned(),
            total => format!("{} mistakes", HumanCount(total)),
        };
        eprintln!("lockstock: {name} has {count}; nothing was imported");
        let more = self.total - self.first.len() as u64;
        for mistake in self.first {
            eprintln!("  {mistake}");
        }
        if more > 0 {
            eprintln!("  and {} more", HumanCount(more));
        }
        ExitCode::from(INVALID)
    }
}

fn mistake(conflict: Conflict) -> Mistake {
    let (field, message) = match conflict.kind {
        ConflictKind::Duplicate { first_line } => {
            ("id", format!("Line {first_line} has the same id."))
        }
        ConflictKind::Exists { id } => ("id", format!("Product {id} exists: see --update.")),
        ConflictKind::Deleted { id } => (
            "id",
            format!("Product {id} was deleted, and its id is not used again."),
        ),
        ConflictKind::VersionMismatch { version } => (
            "version",
            format!(
                "The product has changed since, and is at version {version}: export again, or leave out \
                 this column."
            ),
        ),
        ConflictKind::Held { held } => (
            "stock",
            format!("Reservations hold {held}: the stock may not fall below that."),
        ),
        ConflictKind::MissingName => ("name", NO_PRODUCT.to_owned()),
        ConflictKind::MissingPrice => ("price", NO_PRODUCT.to_owned()),
    };
    Mistake {
        line: conflict.line,
        field: Some(field.to_owned()),
        message,
    }
}

const NO_PRODUCT: &str = "There is no product with this id, and a new one needs this field.";

fn nothing_written(error: StorageError) -> anyhow::Error {
    anyhow!("{error}; nothing was imported")
}

fn failed(error: &StorageError, request: &str) -> anyhow::Error {
    if error.commit_unknown() {
        anyhow!(
            "{error}; it is not known whether the products were imported: if they were, the ledger has \
             the request {request}"
        )
    } else {
        anyhow!("{error}; nothing was imported")
    }
}

/// "1,000 products (990 new, 10 updated)".
fn described(counts: &ImportCounts) -> String {
    let ImportCounts {
        created,
        updated,
        unchanged,
    } = *counts;
    let total = created + updated + unchanged;
    let products = match total {
        1 => "1 product".to_owned(),
        _ => format!("{} products", HumanCount(total)),
    };
    let mut parts = vec![format!("{} new", HumanCount(created))];
    for (count, word) in [(updated, "updated"), (unchanged, "unchanged")] {
        if count > 0 {
            parts.push(format!("{} {word}", HumanCount(count)));
        }
    }
    format!("{products} ({})", parts.join(", "))
}

fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds < 10.0 {
        true => format!("{seconds:.1} s"),
        false => format!("{seconds:.0} s"),
    }
}
