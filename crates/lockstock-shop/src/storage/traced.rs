//! A storage whose calls are spans, for traces.
//!
//! A span is one call, from its begin to its result: that includes the wait for a connection and for the
//! batch that carries the call out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::debug_span;
use tracing::field::Empty;
use uuid::Uuid;

use super::{
    Changes, Connections, EntryFilter, IdempotencyKey, KnownCommits, LedgerEntry, NewProduct,
    Order, OrderOutcome, Precondition, Product, ProductQuery, RequestContext, Reservation,
    ResponseRecord, Result, Storage, WriteContext, WriteOutcome,
};
use crate::health::Health;

/// A storage and the name of its database system.
pub(super) struct Traced {
    pub(super) inner: Arc<dyn Storage>,
    /// As the conventions of OpenTelemetry name it.
    pub(super) system: &'static str,
}

impl Traced {
    /// Runs a call in a span. Without its values, which may be private.
    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let span = debug_span!(
            "database",
            otel.name = format_args!("database.{operation}"),
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = self.system,
            db.operation.name = operation,
            error.type = Empty,
        );
        // Never entered: sqlx takes the current span along to its threads, which may leave it last.
        let result = call.await;
        if let Err(error) = &result {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", error.name());
        }
        result
    }
}

#[async_trait]
impl Storage for Traced {
    async fn get(&self, id: i64) -> Result<Option<Product>> {
        self.call("get", self.inner.get(id)).await
    }

    async fn count(&self, query: &ProductQuery) -> Result<i64> {
        self.call("count", self.inner.count(query)).await
    }

    async fn list(&self, query: &ProductQuery, limit: i64, offset: i64) -> Result<Vec<Product>> {
        let list = self.inner.list(query, limit, offset);
        self.call("list", list).await
    }

    async fn create(
        &self,
        new: NewProduct,
        context: WriteContext,
    ) -> Result<WriteOutcome<Product>> {
        let create = self.inner.create(new, context);
        self.call("create", create).await
    }

    async fn create_if_empty(&self, new: &[NewProduct]) -> Result<bool> {
        self.inner.create_if_empty(new).await
    }

    async fn update(
        &self,
        id: i64,
        changes: Changes,
        precondition: Precondition,
        context: WriteContext,
    ) -> Result<WriteOutcome<Product>> {
        let update = self.inner.update(id, changes, precondition, context);
        self.call("update", update).await
    }

    async fn delete(
        &self,
        id: i64,
        precondition: Precondition,
        request: RequestContext,
    ) -> Result<WriteOutcome<Product>> {
        let delete = self.inner.delete(id, precondition, request);
        self.call("delete", delete).await
    }

    fn known_commits(&self) -> KnownCommits {
        self.inner.known_commits()
    }

    async fn submit_order(&self, order: Order) -> Result<OrderOutcome> {
        let submit = self.inner.submit_order(order);
        self.call("submit_order", submit).await
    }

    async fn purchase(&self, id: Uuid) -> Result<Option<LedgerEntry>> {
        self.call("purchase", self.inner.purchase(id)).await
    }

    async fn reservation(&self, id: Uuid) -> Result<Option<(Reservation, bool)>> {
        let reservation = self.inner.reservation(id);
        self.call("reservation", reservation).await
    }

    async fn count_entries(&self, product: i64, filter: EntryFilter) -> Result<i64> {
        let count = self.inner.count_entries(product, filter);
        self.call("count_entries", count).await
    }

    async fn entries(
        &self,
        product: i64,
        filter: EntryFilter,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<LedgerEntry>> {
        let entries = self.inner.entries(product, filter, limit, offset);
        self.call("entries", entries).await
    }

    async fn find_record(&self, key: &IdempotencyKey) -> Result<Option<ResponseRecord>> {
        let find = self.inner.find_record(key);
        self.call("find_record", find).await
    }

    // Not part of a request.
    async fn delete_expired_records(&self, max: i64) -> Result<u64> {
        self.inner.delete_expired_records(max).await
    }

    fn connections(&self) -> Connections {
        self.inner.connections()
    }

    fn health(&self) -> &Arc<Health> {
        self.inner.health()
    }

    async fn check(&self, limit: Duration) {
        self.inner.check(limit).await;
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
