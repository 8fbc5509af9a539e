//! The fields of a row, validated as those of a request are.

use super::Mistake;
use crate::api::products::serializer::{self, FIELDS};
use crate::drf::body::Fields;
use crate::drf::fields::{Completeness, IntegerField, Validator};
use crate::error::ApiError;
use crate::storage::{ExistingProducts, ImportRow};

/// The columns that an import reads.
pub(super) const COLUMNS: &str = "like id,name,description,price,stock,version";

/// More than there are.
pub(super) const MAX_COLUMNS: usize = 64;

/// The fields that a product in a response has only while units are reserved.
const OF_RESERVATIONS: [&str; 2] = ["held", "available"];

/// The largest id of a row. Below 2^53, up to which every client reads numbers in JSON exactly, with
/// room for the ids that the database assigns afterwards.
const MAX_ID: i64 = 1_000_000_000_000_000;

/// The similarity from which a name is suggested, the same as clap's.
const MIN_SIMILARITY: f64 = 0.7;

const ID: IntegerField = IntegerField::up_to("id", MAX_ID);
const VERSION: IntegerField = IntegerField::up_to("version", i64::MAX);

/// Validates the fields of a row. Returns all mistakes.
pub(super) fn validate(
    line: u64,
    fields: &Fields,
    existing: ExistingProducts,
) -> Result<ImportRow, Vec<Mistake>> {
    let mut validator = Validator::new(fields, Completeness::Partial);
    let (id, version) = (validator.integer(&ID), validator.integer(&VERSION));
    let ids = validator.finish((id, version));
    // If the product exists, the row may leave fields as they are.
    let completeness = match (existing, &ids) {
        (ExistingProducts::Conflict, _) | (_, Ok((None, _))) => Completeness::Full,
        (ExistingProducts::Update, _) => Completeness::Partial,
    };
    match (ids, serializer::validate(fields, completeness)) {
        (Ok((id, version)), Ok(changes)) => Ok(ImportRow {
            line,
            id,
            changes,
            version,
        }),
        (ids, changes) => {
            let errors = [ids.err(), changes.err()];
            let errors = errors.into_iter().flatten();
            let messages = errors.flat_map(ApiError::into_messages);
            let mistakes = messages.map(|(field, message)| Mistake {
                line,
                field,
                message,
            });
            Err(mistakes.collect())
        }
    }
}

/// Returns a message about a name that no field has. `noun` is what the name is of.
pub(super) fn unknown(noun: &str, name: &str) -> Option<String> {
    let known = || {
        FIELDS
            .iter()
            .map(|field| field.name())
            .chain(OF_RESERVATIONS)
    };
    if known().any(|known| known == name) {
        return None;
    }
    let nearest = known()
        .map(|known| (strsim::jaro(name, known), known))
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let hint = match nearest {
        Some((_, nearest)) => format!("did you mean '{nearest}'?"),
        None => format!("the {noun}s are those of a product, {COLUMNS}."),
    };
    Some(format!("There is no {noun} '{}': {hint}", shortened(name)))
}

/// Returns a message about each column that every row needs.
pub(super) fn missing_columns(
    columns: &[String],
    existing: ExistingProducts,
) -> impl Iterator<Item = String> {
    let has = |name: &str| columns.iter().any(|column| column == name);
    let is_partial = existing == ExistingProducts::Update && has("id");
    let required = FIELDS.iter().filter(|field| field.is_required());
    let missing = required
        .map(|field| field.name())
        .filter(move |name| !is_partial && !has(name));
    missing
        .map(|name| format!("The column '{name}' is missing."))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Shortens a name for a message: what is taken for one may be a whole row.
fn shortened(name: &str) -> String {
    const MAX_CHARS: usize = 40;
    let name = name.escape_debug().to_string();
    match name.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}
