//! The rows of a CSV file.

use std::io::BufRead;

use super::csv_records::{Fault, Record, Records};
use super::row::{self, COLUMNS};
use super::{Mistake, ReadError};
use crate::drf::body::Fields;
use crate::storage::{ExistingProducts, ImportRow};

pub(super) struct CsvRows<R> {
    records: Records<R>,
    existing: ExistingProducts,
    /// `None` before the header is read.
    header: Option<Header>,
}

struct Header {
    columns: Vec<String>,
    /// Whether the rows after it are read.
    is_valid: bool,
}

impl<R: BufRead> CsvRows<R> {
    pub(super) fn new(input: R, existing: ExistingProducts) -> Self {
        Self {
            records: Records::new(input),
            existing,
            header: None,
        }
    }

    fn read_header(&mut self) -> Result<Header, ReadError> {
        let Some(record) = self.records.next()? else {
            let message =
                format!("The file is empty: its first line names the columns, {COLUMNS}.");
            return Err(Mistake::new(1, message).into());
        };
        let line = record.line;
        if let Some(fault) = record.fault {
            return Err(Mistake::new(line, fault.message()).into());
        }
        let mut columns = Vec::new();
        let mut mistakes = Vec::new();
        for index in 0..record.fields.min(row::MAX_COLUMNS) {
            let Ok(name) = str::from_utf8(self.records.field(index)) else {
                let message = "The first line is not UTF-8: save the file as UTF-8.";
                return Err(Mistake::new(line, message).into());
            };
            let name = name.trim().to_owned();
            if columns.contains(&name) {
                mistakes.push(Mistake::new(
                    line,
                    format!("The column '{name}' is there twice."),
                ));
            } else if let Some(message) = row::unknown("column", &name) {
                mistakes.push(Mistake::new(line, message));
            }
            columns.push(name);
        }
        if columns.len() == 1 && mistakes.len() == 1 && columns[0].contains([';', '\t']) {
            let message = "The columns are separated by commas, and not by semicolons or tabs.";
            return Err(Mistake::new(line, message).into());
        }
        if record.fields > columns.len() {
            let message = format!("There are more than {} columns.", row::MAX_COLUMNS);
            mistakes.push(Mistake::new(line, message));
        }
        if mistakes.is_empty() {
            let missing = row::missing_columns(&columns, self.existing);
            mistakes.extend(missing.map(|message| Mistake::new(line, message)));
        }
        if mistakes.is_empty() {
            let is_valid = true;
            Ok(Header { columns, is_valid })
        } else {
            Err(ReadError::Mistakes(mistakes))
        }
    }

    fn row(&self, record: &Record, columns: &[String]) -> Result<ImportRow, ReadError> {
        let line = record.line;
        if let Some(fault) = record.fault {
            return Err(Mistake::new(line, fault.message()).into());
        }
        if record.fields != columns.len() {
            let values = match record.fields {
                1 => "1 value".to_owned(),
                count => format!("{count} values"),
            };
            let message = format!("The row has {values}, and the header {}.", columns.len());
            return Err(Mistake::new(line, message).into());
        }
        let mut inputs = Vec::with_capacity(columns.len());
        let mut mistakes = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            match str::from_utf8(self.records.field(index)) {
                Ok(text) => inputs.push((column.clone(), text.to_owned())),
                Err(_) => mistakes.push(Mistake {
                    field: Some(column.clone()),
                    ..Mistake::new(line, "The text is not UTF-8.")
                }),
            }
        }
        if !mistakes.is_empty() {
            return Err(ReadError::Mistakes(mistakes));
        }
        let fields = Fields::from_inputs(inputs);
        row::validate(line, &fields, self.existing).map_err(ReadError::Mistakes)
    }
}

impl<R: BufRead> Iterator for CsvRows<R> {
    type Item = Result<ImportRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.header.is_none() {
            let read = self.read_header();
            let (header, error) = match read {
                Ok(header) => (header, None),
                Err(error) => {
                    let (columns, is_valid) = (Vec::new(), false);
                    (Header { columns, is_valid }, Some(Err(error)))
                }
            };
            self.header = Some(header);
            if error.is_some() {
                return error;
            }
        }
        let header = self.header.as_ref().filter(|header| header.is_valid)?;
        match self.records.next() {
            Ok(record) => Some(self.row(&record?, &header.columns)),
            Err(error) => Some(Err(error.into())),
        }
    }
}

impl Fault {
    fn message(self) -> String {
        match self {
            Self::TooLarge => super::too_large(),
            Self::OpenQuote => "A quote of this row is not closed.".to_owned(),
        }
    }
}
