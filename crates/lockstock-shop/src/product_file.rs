//! Files of products, which commands import and export: CSV, and JSON lines.
//!
//! The rules about fields are those of the API, and so are the messages: a row is validated as the
//! body of a request is, by `api::products::serializer`.
//!
//! Reading is a function of the bytes alone, in bounded memory: a row has at most [`MAX_ROW_BYTES`].

mod csv_records;
mod csv_rows;
mod json_lines;
mod row;
mod writer;

use std::fmt::{self, Display};
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::Path;

use anyhow::bail;
use clap::ValueEnum;

use self::csv_rows::CsvRows;
use self::json_lines::JsonLines;
use crate::storage::{ExistingProducts, ImportRow};

pub(crate) use self::writer::Writer;

/// Maximum size of a row. Longer than any body that a server accepts by default.
pub const MAX_ROW_BYTES: usize = 1024 * 1024;

const BUFFER_BYTES: usize = 64 * 1024;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated values in UTF-8. The first line names the columns
    Csv,
    /// A JSON object on each line
    Jsonl,
}

impl Format {
    /// Returns the format that is given, or else the one that the extension of the file names.
    pub(crate) fn of(file: &Path, given: Option<Self>) -> anyhow::Result<Self> {
        if let Some(given) = given {
            return Ok(given);
        }
        let extension = file.extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Ok(Self::Csv),
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            _ => bail!(
                "the extension of {} names no format: give --format csv or --format jsonl",
                file.display()
            ),
        }
    }
}

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line at which the row begins.
    pub line: u64,
    /// The field, if it is about one.
    pub field: Option<String>,
    /// A sentence.
    pub message: String,
}

impl Mistake {
    fn new(line: u64, message: impl Into<String>) -> Self {
        Self {
            line,
            field: None,
            message: message.into(),
        }
    }
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Why a row was not read.
#[derive(Debug)]
pub enum ReadError {
    /// The file cannot be read further.
    Io(io::Error),
    /// All mistakes of the row. The next row can be read, unless they are about the header.
    Mistakes(Vec<Mistake>),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Mistake> for ReadError {
    fn from(mistake: Mistake) -> Self {
        Self::Mistakes(vec![mistake])
    }
}

/// The rows of a file, in their order.
pub struct Rows<R>(Kind<R>);

enum Kind<R> {
    Csv(Box<CsvRows<Input<R>>>),
    JsonLines(JsonLines<Input<R>>),
    /// There is no further row. Contains an error that was not returned yet.
    Ended(Option<ReadError>),
}

/// The start of a file, its rest, and what is appended to it.
type Input<R> = BufReader<Chain<Chain<Cursor<Vec<u8>>, R>, &'static [u8]>>;

/// Returns the rows of a file. With [`ExistingProducts::Update`], a row with an id may lack fields.
pub fn read<R: Read>(mut input: R, format: Format, existing: ExistingProducts) -> Rows<R> {
    let start = match start(&mut input) {
        Ok(start) => start,
        Err(error) => return Rows(Kind::Ended(Some(error))),
    };
    let appended = match format {
        Format::Csv => csv_records::SENTINEL,
        Format::Jsonl => b"",
    };
    let input = Cursor::new(start).chain(input).chain(appended);
    let input = BufReader::with_capacity(BUFFER_BYTES, input);
    Rows(match format {
        Format::Csv => Kind::Csv(Box::new(CsvRows::new(input, existing))),
        Format::Jsonl => Kind::JsonLines(JsonLines::new(input, existing)),
    })
}

/// Returns the first bytes of a file, without a byte order mark.
fn start(input: &mut impl Read) -> Result<Vec<u8>, ReadError> {
    const LONGEST_MARK: u64 = 3;
    let mut start = Vec::new();
    input.take(LONGEST_MARK).read_to_end(&mut start)?;
    match &*start {
        b"\xef\xbb\xbf" => Ok(Vec::new()),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Err(Mistake::new(1, "The file is in UTF-16: save it as UTF-8.").into())
        }
        _ => Ok(start),
    }
}

impl<R: Read> Iterator for Rows<R> {
    type Item = Result<ImportRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match &mut self.0 {
            Kind::Csv(rows) => rows.next(),
            Kind::JsonLines(rows) => rows.next(),
            Kind::Ended(error) => return error.take().map(Err),
        };
        if matches!(next, None | Some(Err(ReadError::Io(_)))) {
            self.0 = Kind::Ended(None);
        }
        next
    }
}

fn too_large() -> String {
    format!(
        "The row is larger than {} MiB.",
        MAX_ROW_BYTES / 1024 / 1024
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns one byte with each call.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(1);
            self.0.read(&mut buffer[..length])
        }
    }

    fn rows(input: impl Read, format: Format) -> Vec<String> {
        let rows = read(input, format, ExistingProducts::Update);
        rows.map(|row| format!("{row:?}")).collect()
    }

    /// Bytes that matter to the parsers.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let any = prop::sample::select(&b"\",\n\r\0a1{}[]:\xff\xef\xbb\xbf "[..]);
        prop::collection::vec(any, 0..200)
    }

    proptest! {
        #[test]
        fn the_rows_do_not_depend_on_the_sizes_of_reads(
            bytes in bytes(),
            start in prop::sample::select(&["", "name,price\n", "{\"name\":\"", "id\n1\n"][..]),
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            for format in [Format::Csv, Format::Jsonl] {
                let found = rows(&*bytes, format);
                prop_assert_eq!(&rows(Slow(&bytes), format), &found);
                prop_assert!(found.len() <= bytes.len() + 1);
            }
        }
    }

    #[test]
    fn a_line_is_that_at_which_its_row_begins() {
        let line = |row: Result<ImportRow, ReadError>| match row {
            Ok(row) => row.line,
            Err(error) => panic!("{error:?}"),
        };
        for (end, blank) in [("\n", "\n"), ("\r\n", "\r\n\r\n"), ("\r", "\r")] {
            let text = format!(
                "name,price{end}a,1{end}\"b{end}b\",2{end}{blank}c,3{end}\"d\"\"\",4{end}e,5"
            );
            let rows = read(text.as_bytes(), Format::Csv, ExistingProducts::Conflict);
            let lines = rows.map(line).collect::<Vec<_>>();
            let skipped = if end == "\r\n" { 2 } else { 1 };
            let expected = [2, 3, 5 + skipped, 6 + skipped, 7 + skipped];
            assert_eq!(lines, expected, "{text:?}");
        }
    }
}
