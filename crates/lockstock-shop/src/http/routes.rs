//! The paths of the API: what is where, and which methods it takes. Known before a request is
//! routed, because DRF tells what is allowed with every answer, refusals included.

use percent_encoding::percent_decode_str;
use uuid::Uuid;

use crate::drf::python;
use crate::error::ApiError;

/// What is behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// Its name in the metrics: few, however many products there are.
    pub(crate) pattern: &'static str,
    /// For the header `Allow`.
    pub(crate) allow: &'static str,
}

const fn route(pattern: &'static str, allow: &'static str) -> Route {
    Route { pattern, allow }
}

/// What is behind `path`, if it is one of the API's.
pub(crate) fn find(path: &str) -> Option<Route> {
    let segments = path.strip_prefix("/api/")?.strip_suffix('/')?;
    let segments = segments.split('/').collect::<Vec<_>>();
    let route = match segments[..] {
        ["products"] => route("/api/products/", "GET, POST, HEAD, OPTIONS"),
        ["products", id] if is_id(id) => route(
            "/api/products/{id}/",
            "GET, PUT, PATCH, DELETE, HEAD, OPTIONS",
        ),
        ["products", id, "purchases"] if is_id(id) => {
            route("/api/products/{id}/purchases/", "GET, POST, HEAD")
        }
        ["products", id, "ledger"] if is_id(id) => route("/api/products/{id}/ledger/", "GET, HEAD"),
        ["products", id, "reservations"] if is_id(id) => {
            route("/api/products/{id}/reservations/", "POST")
        }
        ["products", id, "reservations", rid] if is_id(id) && is_id(rid) => route(
            "/api/products/{id}/reservations/{rid}/",
            "GET, DELETE, HEAD",
        ),
        ["products", id, "reservations", rid, "confirm"] if is_id(id) && is_id(rid) => {
            route("/api/products/{id}/reservations/{rid}/confirm/", "POST")
        }
        ["products", id, "reservations", rid, "extend"] if is_id(id) && is_id(rid) => {
            route("/api/products/{id}/reservations/{rid}/extend/", "POST")
        }
        ["purchases", id] if is_id(id) => route("/api/purchases/{id}/", "GET, HEAD"),
        _ => return None,
    };
    Some(route)
}

/// What DRF's router takes for one.
fn is_id(segment: &str) -> bool {
    let decoded = percent_decode_str(segment).decode_utf8_lossy();
    !decoded.is_empty() && !decoded.contains(['/', '.'])
}

/// The id in `/api/products/{id}/…`, read as Python's `int` does.
pub(crate) fn product_id(path: &str) -> Result<i64, ApiError> {
    let decoded = percent_decode_str(segment(path, 3)).decode_utf8_lossy();
    python::int(&decoded).ok_or_else(ApiError::not_found)
}

/// The id in `/api/products/{id}/reservations/{rid}/…`.
pub(crate) fn reservation_id(path: &str) -> Result<Uuid, ApiError> {
    let id = Uuid::try_parse(segment(path, 5));
    id.map_err(|_| ApiError::not_found_of("Reservation"))
}

/// The id in `/api/purchases/{id}/`.
pub(crate) fn purchase_id(path: &str) -> Result<Uuid, ApiError> {
    let id = Uuid::try_parse(segment(path, 3));
    id.map_err(|_| ApiError::not_found_of("Purchase"))
}

fn segment(path: &str, number: usize) -> &str {
    path.split('/').nth(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_place_or_none() {
        let route = |path| find(path).map(|route| route.pattern);
        assert_eq!(route("/api/products/"), Some("/api/products/"));
        assert_eq!(route("/api/products/7/"), Some("/api/products/{id}/"));
        assert_eq!(
            route("/api/products/7/reservations/x/extend/"),
            Some("/api/products/{id}/reservations/{rid}/extend/")
        );
        for elsewhere in [
            "/api/",
            "/api/products",
            "/api/products//",
            "/api/products/1.5/",
            "/api/products/a%2Fb/",
            "/api/products/7/else/",
            "/api/purchases/",
            "/products/7/",
        ] {
            assert_eq!(route(elsewhere), None, "{elsewhere}");
        }
    }
}
