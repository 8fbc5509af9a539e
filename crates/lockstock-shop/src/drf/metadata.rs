//! The body of the response to OPTIONS, in the shape of DRF's `SimpleMetadata`.

use serde_json::{Map, Value, json};

use crate::drf::fields::Field;

/// Describes the view called `name`. `action` is the method whose fields are described, if the
/// view has an object to act on and the client may do so.
pub(crate) fn metadata(name: &str, action: Option<&str>, fields: &[Field]) -> Value {
    let mut metadata = json!({
        "name": name,
        "description": "",
        "renders": ["application/json", "application/problem+json"],
        "parses": [
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
        ],
    });
    if let Some(action) = action {
        let fields = fields.iter().map(describe).collect::<Map<_, _>>();
        metadata["actions"] = json!({ action: fields });
    }
    metadata
}

fn describe(field: &Field) -> (String, Value) {
    let (name, kind, required, read_only) = match *field {
        Field::Char(field) => (field.name, "string", field.required, false),
        Field::Integer(field) => (field.name, "integer", field.required, false),
        Field::ReadOnly { name, kind } => (name, kind, false, true),
    };
    let mut description = json!({
        "type": kind,
        "required": required,
        "read_only": read_only,
        "label": label(name),
    });
    match *field {
        Field::Char(field) => {
            if let Some(max_length) = field.max_length {
                description["max_length"] = json!(max_length);
            }
        }
        Field::Integer(field) => {
            description["min_value"] = json!(field.min_value);
            description["max_value"] = json!(field.max_value);
        }
        Field::ReadOnly { .. } => {}
    }
    (name.to_owned(), description)
}

/// Derives the label of a field from its name, as Django does: `created_at` is "Created at".
fn label(name: &str) -> String {
    if name == "id" {
        return "ID".to_owned();
    }
    let mut label = name.replace('_', " ");
    if let Some(first) = label.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    label
}
