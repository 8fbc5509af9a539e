//! The records of a CSV file, with the lines at which they begin, in a buffer of a fixed size.
//!
//! Not `csv::Reader`: it grows until a record ends, so that a missing quote makes it read the rest of a
//! file into memory, and accepts such a record.

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader};

use super::MAX_ROW_BYTES;

/// Maximum number of fields that are kept.
const MAX_FIELDS: usize = 64;

/// Is appended to a file. If its last record is complete, this is a record of its own. Otherwise a
/// quote is open, and it becomes the end of the last field.
pub(super) const SENTINEL: &[u8] = b"\n\0";

/// The records of a file to which [`SENTINEL`] is appended.
pub(super) struct Records<R> {
    input: R,
    parser: Reader,
    text: Box<[u8]>,
    /// The end of each field in `text`.
    ends: [usize; MAX_FIELDS],
    lines: LineCounter,
}

/// A record that was read.
pub(super) struct Record {
    /// The line at which it begins.
    pub(super) line: u64,
    /// Number of its fields.
    pub(super) fields: usize,
    pub(super) fault: Option<Fault>,
}

/// Why the fields of a record cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    TooLarge,
    OpenQuote,
}

impl<R: BufRead> Records<R> {
    pub(super) fn new(input: R) -> Self {
        let mut parser = Reader::new();
        // A blank line: the parser ignores a byte order mark in the first piece that it reads, if the
        // piece is long enough. The mark of a file is not in `input`.
        parser.read_record(b"\n", &mut [0], &mut [0]);
        Self {
            input,
            parser,
            text: vec![0; MAX_ROW_BYTES].into_boxed_slice(),
            ends: [0; MAX_FIELDS],
            lines: LineCounter::default(),
        }
    }

    /// Reads the next record. Blank lines are skipped.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        self.skip_blank_lines()?;
        let mut record = Record {
            line: self.lines.line(),
            fields: 0,
            fault: None,
        };
        // Of what does not fit, the beginning is overwritten.
        let (mut written, mut kept) = (0, 0);
        loop {
            let input = self.input.fill_buf()?;
            let (result, read, text, fields) =
                self.parser
                    .read_record(input, &mut self.text[written..], &mut self.ends[kept..]);
            self.lines.count(&input[..read]);
            self.input.consume(read);
            written += text;
            kept += fields;
            record.fields += fields;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => {
                    record.fault = Some(Fault::TooLarge);
                    written = 0;
                }
                ReadRecordResult::OutputEndsFull => kept = 0,
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
            }
        }
        if self.input.fill_buf()?.is_empty() {
            if record.fault.is_none() && record.fields == 1 && self.field(0) == b"\0" {
                return Ok(None);
            }
            record.fault = Some(Fault::OpenQuote);
        }
        Ok(Some(record))
    }

    /// Returns a field of the record that was read last. Empty if it is not kept.
    pub(super) fn field(&self, index: usize) -> &[u8] {
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1],
        };
        self.text.get(start..self.ends[index]).unwrap_or_default()
    }

    fn skip_blank_lines(&mut self) -> io::Result<()> {
        loop {
            let input = self.input.fill_buf()?;
            let is_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            let blank = input.iter().take_while(is_end).count();
            if blank == 0 {
                return Ok(());
            }
            self.lines.count(&input[..blank]);
            self.input.consume(blank);
        }
    }
}

/// Counts line ends: LF, CRLF, and CR alone.
#[derive(Default)]
struct LineCounter {
    ended: u64,
    /// Whether the last byte was CR.
    after_cr: bool,
}

impl LineCounter {
    fn count(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.ended += u64::from(*byte == b'\r' || *byte == b'\n' && !self.after_cr);
            self.after_cr = *byte == b'\r';
        }
    }

    fn line(&self) -> u64 {
        self.ended + 1
    }
}
