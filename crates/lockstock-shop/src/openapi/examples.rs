//! An example of each request body, which the documentation page offers to send.
//!
//! Without one the page would make a body up of the schema: an update of every field, with the
//! highest price that is allowed.

use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, RefOr};

use super::operations;
use crate::settings::Settings;

/// Adds an example to every request body.
pub(super) fn add(document: &mut OpenApi, settings: &Settings) {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        let example = example(operation, settings);
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            for content in body.content.values_mut() {
                if let RefOr::T(content) = content {
                    content.example.clone_from(&example);
                }
            }
        }
    }
}

fn example(operation: &Operation, settings: &Settings) -> Option<Value> {
    let hold_secs = settings.reservation_ttl.as_secs();
    Some(match operation.operation_id.as_deref()? {
        "create_product" | "replace_product" => json!({
            "name": "Canvas sneakers",
            "description": "White, the last ten pairs of the season",
            "price": 49_900,
            "stock": 10,
        }),
        "change_product" => json!({ "stock": 9 }),
        "buy" => json!({ "quantity": 1 }),
        "reserve" => json!({ "quantity": 1, "hold": hold_secs }),
        "extend" => json!({ "hold": hold_secs }),
        _ => return None,
    })
}
