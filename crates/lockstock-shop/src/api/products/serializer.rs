//! The fields of a product: how they are validated, shown and documented.

use axum::http::StatusCode;
use axum::http::header::ETAG;
use lockstock_http::RecordedResponse;
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::drf::body::Fields;
use crate::drf::fields::{CharField, Completeness, Field, IntegerField, Validator};
use crate::error::ApiError;
use crate::http::idempotency;
use crate::openapi::request_bodies;
use crate::storage::{Changes, Product, WriteOutcome};
use crate::{etag, timestamp};

const NAME: CharField = CharField {
    required: true,
    allow_blank: false,
    max_length: Some(200),
    example: Some("Canvas sneakers"),
    ..CharField::new("name")
};

const DESCRIPTION: CharField = CharField {
    example: Some("White, the last ten pairs of the season"),
    ..CharField::new("description")
};

const PRICE: IntegerField = IntegerField {
    required: true,
    description: Some("In minor units: cents, won."),
    example: Some(49900),
    ..IntegerField::positive("price")
};

const STOCK: IntegerField = IntegerField {
    example: Some(10),
    ..IntegerField::positive("stock")
};

/// The fields of a product.
pub(crate) const FIELDS: &[Field] = &[
    Field::ReadOnly {
        name: "id",
        kind: "integer",
    },
    Field::Char(NAME),
    Field::Char(DESCRIPTION),
    Field::Integer(PRICE),
    Field::Integer(STOCK),
    Field::ReadOnly {
        name: "version",
        kind: "integer",
    },
    Field::ReadOnly {
        name: "created_at",
        kind: "datetime",
    },
    Field::ReadOnly {
        name: "updated_at",
        kind: "datetime",
    },
];

/// The body of a request that creates or replaces a product.
pub(crate) struct ProductRequest;

/// The body of a request that changes some fields of a product.
pub(crate) struct ProductPatch;

impl PartialSchema for ProductRequest {
    fn schema() -> RefOr<Schema> {
        let description = "The body of a request that creates or, with PUT, replaces a product.";
        request_bodies::object(description, FIELDS, Completeness::Full).into()
    }
}

impl PartialSchema for ProductPatch {
    fn schema() -> RefOr<Schema> {
        let description = "The body of a request that changes a product: any of its fields.";
        request_bodies::object(description, FIELDS, Completeness::Partial).into()
    }
}

impl ToSchema for ProductRequest {}

impl ToSchema for ProductPatch {}

/// A product in a response.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Product")]
pub(crate) struct ProductResponse {
    #[schema(read_only, example = 1)]
    id: i64,
    #[schema(example = "Canvas sneakers")]
    name: String,
    description: String,
    #[schema(schema_with = price)]
    price: i64,
    #[schema(schema_with = stock)]
    stock: i64,
    /// Number of changes so far; the ETag.
    #[schema(read_only, example = 1)]
    version: i64,
    #[schema(read_only, format = DateTime)]
    created_at: String,
    #[schema(read_only, format = DateTime)]
    updated_at: String,
    /// How much of the stock is reserved. Present only while some is: a product without
    /// reservations has exactly the fields that Django returns.
    #[schema(read_only, minimum = 1, nullable = false, example = 3)]
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<i64>,
    /// How much of the stock can be bought. Present only while some is reserved; otherwise all
    /// of it can.
    #[schema(read_only, minimum = 0, nullable = false, example = 7)]
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<i64>,
}

fn price() -> Object {
    request_bodies::integer(&PRICE)
}

fn stock() -> Object {
    request_bodies::integer(&STOCK)
}

impl From<Product> for ProductResponse {
    fn from(product: Product) -> Self {
        let is_reserved = product.held > 0;
        let available = product.stock_levels().available();
        Self {
            id: product.id,
            name: product.name,
            description: product.description,
            price: product.price,
            stock: product.stock,
            version: product.version,
            created_at: timestamp::format(product.created_at),
            updated_at: timestamp::format(product.updated_at),
            held: is_reserved.then_some(product.held),
            available: is_reserved.then_some(available),
        }
    }
}

/// Validates the fields of a request.
pub(crate) fn validate(fields: &Fields, completeness: Completeness) -> Result<Changes, ApiError> {
    let mut validator = Validator::new(fields, completeness);
    let changes = Changes {
        name: validator.char(&NAME),
        description: validator.char(&DESCRIPTION),
        price: validator.integer(&PRICE),
        stock: validator.integer(&STOCK),
    };
    validator.finish(changes)
}

/// Builds the response with a product and its entity tag.
pub(crate) fn response(status: StatusCode, product: &Product) -> RecordedResponse {
    let tag = etag::format(product.version, product.held);
    idempotency::json(status, &ProductResponse::from(product.clone())).header(ETAG, tag)
}

/// Returns the product if it was written.
pub(crate) fn into_product(written: WriteOutcome<Product>) -> Result<Product, ApiError> {
    match written {
        WriteOutcome::Done(product) => Ok(product),
        // Callers with a key replay the recorded response instead.
        WriteOutcome::AlreadyRecorded(_) => Err(ApiError::key_reused()),
        WriteOutcome::NotFound => Err(ApiError::product_not_found()),
        WriteOutcome::VersionMismatch { version } => Err(ApiError::precondition_failed(version)),
        WriteOutcome::Held { held } => Err(ApiError::product_held(held)),
        WriteOutcome::Fenced => {
            tracing::warn!("the update lock was lost; the late write was rejected");
            metrics::counter!("lockstock_fenced_writes_total").increment(1);
            Err(ApiError::lock_lost())
        }
    }
}
