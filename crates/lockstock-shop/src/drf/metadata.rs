//! The answer to OPTIONS, in the shape of DRF's `SimpleMetadata`.

use serde_json::{Map, Value, json};

/// What can be done at a place called `name`; `action` is the verb whose fields are
/// described, where there is something to act on.
pub(crate) fn metadata(name: &str, action: Option<&str>) -> Value {
    let mut answer = json!({
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
        answer["actions"] = Value::Object(Map::from_iter([(action.to_owned(), fields())]));
    }
    answer
}

fn fields() -> Value {
    let number = |required: bool, label: &str| {
        json!({ "type": "integer", "required": required, "read_only": false, "label": label,
                "min_value": 0, "max_value": 2_147_483_647 })
    };
    let given = |kind: &str, label: &str| json!({ "type": kind, "required": false, "read_only": true, "label": label });
    json!({
        "id": given("integer", "ID"),
        "name": { "type": "string", "required": true, "read_only": false, "label": "Name",
                  "max_length": 200 },
        "description": { "type": "string", "required": false, "read_only": false,
                         "label": "Description" },
        "price": number(true, "Price"),
        "stock": number(false, "Stock"),
        "version": given("integer", "Version"),
        "created_at": given("datetime", "Created at"),
        "updated_at": given("datetime", "Updated at"),
    })
}
