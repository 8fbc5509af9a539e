//! The locks: `/api/locks/`, and what happens to them and to the products as a stream of events.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lockstock::HolderId;
use tracing::{debug, warn};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Authenticated;
use crate::error::{ApiError, sentences};
use crate::http::request_context::RequestId;
use crate::live::wire::LockList;
use crate::live::{ForcedRelease, NoStream};
use crate::openapi::{ErrorDetail, ValidationErrors};
use crate::state::AppState;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// nginx would collect the events otherwise.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Which locks a list contains.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only the derive reads it")]
struct LockListParams {
    /// Name of the only lock. It is found without a scan of the store.
    #[param(nullable = false, example = "product-update-lock-1")]
    lock: Option<String>,
    /// Only locks that have been held, or waited for, for longer than this: `500ms`, `3s`.
    #[param(
        nullable = false,
        pattern = r"^[0-9]{1,6}(ms|s|m|h|d)$",
        example = "500ms"
    )]
    longer: Option<String>,
}

/// The lock and the holder of a forced release.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only the derive reads it")]
struct ForcedReleaseParams {
    /// Name of the lock.
    #[param(min_length = 1, example = "product-update-lock-1")]
    lock: String,
    /// The token of the holder, as `holder.id` in the list.
    #[param(
        pattern = "^[0-9a-f]{32}$",
        example = "00112233445566778899aabbccddeeff"
    )]
    holder: String,
}

/// Where a stream continues.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only the derive reads it")]
struct LastEventIdParam {
    /// The id of the last event that the client has received. The stream continues after it if the
    /// server still has the events since then, which it keeps for up to a minute.
    #[param(rename = "Last-Event-ID", required = false, nullable = false)]
    last_event_id: Option<String>,
}

/// Returns the routes with their operations in the OpenAPI document.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, force_release))
        .routes(routes!(events))
}

/// List the locks
///
/// The exclusive locks that are held, kept or waited for, of all servers and programs that use the
/// store. Without `lock`, the store is searched at most every 10 s, and not in full if it has more than
/// 100,000 keys. Locks of servers whose events are received are always current.
#[utoipa::path(get, path = "/api/locks/", operation_id = "list_locks", tag = "locks", params(LockListParams), responses(
    (status = 200, description = "The locks", body = LockList),
    (status = 400, description = "A parameter is malformed", body = ValidationErrors),
))]
async fn list(State(state): State<AppState>, parts: Parts) -> Result<Response, ApiError> {
    let query = Query::of(&parts);
    let longer = query.get("longer").map(|text| {
        parse_duration(text).ok_or_else(|| invalid("longer", sentences::INVALID_DURATION))
    });
    let longer = longer.transpose()?;
    let mut list = match query.get("lock") {
        None | Some("") => state.live.list().await,
        Some(name) => state.live.lock(name).await.map_err(unavailable)?,
    };
    if let Some(longer) = longer {
        let at = list.at;
        list.locks.retain(|lock| lock.lasts_longer(longer, at));
    }
    Ok((no_store(), axum::Json(list)).into_response())
}

/// Release a lock by force
///
/// Takes a lock away from a holder that does not release it. The first waiter gets it at once. The
/// holder notices when it releases; if it writes later, the database rejects the write, because a
/// later holder has a higher fence.
#[utoipa::path(delete, path = "/api/locks/", operation_id = "force_release", tag = "locks", params(ForcedReleaseParams), responses(
    (status = 204, description = "Released"),
    (status = 400, description = "A parameter is missing or malformed", body = ValidationErrors),
    (status = 404, description = "The lock has no holder", body = ErrorDetail),
    (status = 409, description = "Another holder has the lock (`other_holder`)", body = ErrorDetail),
))]
async fn force_release(State(state): State<AppState>, parts: Parts) -> Result<Response, ApiError> {
    let query = Query::of(&parts);
    let required = |name| {
        let value = query.get(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| invalid(name, sentences::REQUIRED))
    };
    let (name, holder) = (required("lock")?, required("holder")?);
    let holder: HolderId = holder
        .parse()
        .map_err(|_| invalid("holder", sentences::INVALID_HOLDER))?;
    let outcome = state.live.force_release(name, holder).await;
    match outcome.map_err(unavailable)? {
        ForcedRelease::Released => {
            let caller = parts.extensions.get::<Authenticated>();
            let request = parts.extensions.get::<RequestId>();
            warn!(
                lock = name,
                %holder,
                caller = caller.map(|key| &*key.0.name),
                client = state
                    .forwarding
                    .client(&parts.extensions, &parts.headers)
                    .map(tracing::field::display),
                request = request.map(|id| &*id.0),
                "a lock was released by force"
            );
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        ForcedRelease::NotHeld => Err(ApiError::not_found_of("Lock")),
        ForcedRelease::OtherHolder => Err(ApiError::other_holder()),
    }
}

/// Watch the locks and products
///
/// A stream of server-sent events. `snapshot` comes first, with the locks and products as they are;
/// then a `frame` for each server whenever something has changed, at most five times a second. After
/// `reset` the client forgets what it has, and another `snapshot` follows. `bye` is the last event
/// before the server stops. The data of each event is JSON: see the schemas `Snapshot` and `Frame`.
#[utoipa::path(get, path = "/api/locks/events", operation_id = "watch_locks", tag = "locks", params(LastEventIdParam), responses(
    (status = 200, description = "The events", content((String = "text/event-stream"))),
    (status = 503, description = "Too many streams are open (`too_many_watchers`), or the server is shutting down", body = ErrorDetail),
))]
async fn events(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let last_event_id = headers.get(LAST_EVENT_ID);
    let last_event_id = last_event_id.and_then(|id| id.to_str().ok());
    let stream = state
        .live
        .subscribe(last_event_id)
        .map_err(|reason| match reason {
            NoStream::Full => ApiError::too_many_watchers(),
            NoStream::Closed => ApiError::shutting_down(),
        })?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// The parameters of a query string. If one is repeated, the last one counts.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().rev().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| &**value)
    }
}

fn invalid(parameter: &str, message: sentences::Sentence) -> ApiError {
    ApiError::invalid(vec![(parameter.to_owned(), vec![message])])
}

fn unavailable(error: lockstock::Error) -> ApiError {
    debug!(%error, "the locks of the store are unknown");
    ApiError::locks_unavailable()
}

/// Parses a number of up to six digits and a unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|character: char| character.is_ascii_digit());
    let is_plain = (1..=6).contains(&(text.len() - unit.len()))
        && matches!(unit, "ms" | "s" | "m" | "h" | "d");
    humantime::parse_duration(text).ok().filter(|_| is_plain)
}

fn no_store() -> [(HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}
