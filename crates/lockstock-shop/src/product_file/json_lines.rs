//! The rows of a file with a JSON object on each line.

use std::io::{BufRead, Read};

use super::{MAX_ROW_BYTES, Mistake, ReadError, row};
use crate::drf::body::Fields;
use crate::storage::{ExistingProducts, ImportRow};

pub(super) struct JsonLines<R> {
    input: R,
    existing: ExistingProducts,
    /// The line that was read last.
    line: u64,
    text: Vec<u8>,
}

impl<R: BufRead> JsonLines<R> {
    pub(super) fn new(input: R, existing: ExistingProducts) -> Self {
        Self {
            input,
            existing,
            line: 0,
            text: Vec::new(),
        }
    }

    /// Reads the next line that is not blank. Returns `None` at the end of the file.
    fn read_line(&mut self) -> Result<Option<()>, ReadError> {
        loop {
            self.text.clear();
            let limit = MAX_ROW_BYTES as u64 + 1;
            let mut line = self.input.by_ref().take(limit);
            if line.read_until(b'\n', &mut self.text)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.text.len() > MAX_ROW_BYTES && self.text.last() != Some(&b'\n') {
                self.input.skip_until(b'\n')?;
                return Err(Mistake::new(self.line, super::too_large()).into());
            }
            if !self.text.trim_ascii().is_empty() {
                return Ok(Some(()));
            }
        }
    }

    fn row(&self) -> Result<ImportRow, ReadError> {
        let fields = Fields::from_json(&self.text).map_err(|error| {
            let mistakes = error.into_messages().into_iter().map(|(_, message)| {
                // The parser counts the lines of its text, which is one.
                let message = message.replace(" at line 1 column ", " at column ");
                Mistake::new(self.line, message)
            });
            ReadError::Mistakes(mistakes.collect())
        })?;
        let mut names = fields.names().collect::<Vec<_>>();
        names.sort_unstable();
        let unknown = names
            .into_iter()
            .filter_map(|name| row::unknown("field", name));
        let unknown = unknown.map(|message| Mistake::new(self.line, message));
        let mut mistakes = unknown.collect::<Vec<_>>();
        match row::validate(self.line, &fields, self.existing) {
            Ok(row) if mistakes.is_empty() => Ok(row),
            Ok(_) => Err(ReadError::Mistakes(mistakes)),
            Err(further) => {
                mistakes.extend(further);
                Err(ReadError::Mistakes(mistakes))
            }
        }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<ImportRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read_line() {
            Ok(line) => line.map(|()| self.row()),
            Err(error) => Some(Err(error)),
        }
    }
}
