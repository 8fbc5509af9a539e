//! The routes of the API and the methods that each allows, read from the OpenAPI document.
//!
//! Django REST framework sends `Allow` with every response, errors included, so the middleware
//! needs to know the route of a request.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method};
use utoipa::openapi::{OpenApi, PathItem};

use crate::http::paths::is_id;

/// The routes of the API, by their patterns.
#[derive(Default)]
pub(crate) struct Routes(HashMap<Arc<str>, Route>);

/// A route of the API.
pub(crate) struct Route {
    /// The URL pattern, which also names the route in the metrics.
    pub(crate) pattern: Arc<str>,
    /// The value of the `Allow` header.
    pub(crate) allow: HeaderValue,
}

impl Routes {
    /// Reads the routes of `document`.
    pub(crate) fn from_openapi(document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter();
        let routes = paths.filter(|(path, _)| path.starts_with("/api/"));
        let routes = routes.filter_map(|(path, item)| {
            let pattern = Arc::from(path.as_str());
            let allow = HeaderValue::try_from(allowed_methods(item)).ok()?;
            Some((Arc::clone(&pattern), Route { pattern, allow }))
        });
        Self(routes.collect())
    }

    /// Returns the route of a request that the router has matched.
    pub(crate) fn of(&self, request: &Request) -> Option<&Route> {
        let matched = request.extensions().get::<MatchedPath>()?;
        let route = self.0.get(matched.as_str())?;
        route.matches(request.uri().path()).then_some(route)
    }

    /// Returns the route that matches `path`.
    pub(crate) fn find(&self, path: &str) -> Option<&Route> {
        self.0.values().find(|route| route.matches(path))
    }
}

impl Route {
    /// Whether the route has the method.
    pub(crate) fn allows(&self, method: &Method) -> bool {
        let allowed = self.allow.to_str().unwrap_or_default();
        allowed
            .split(", ")
            .any(|allowed| allowed == method.as_str())
    }

    fn matches(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        let mut patterns = self.pattern.split('/');
        let matches = patterns.all(|pattern| match segments.next() {
            Some(segment) if pattern.starts_with('{') => is_id(segment),
            segment => segment == Some(pattern),
        });
        matches && segments.next().is_none()
    }
}

/// Lists the methods of a route in the order in which Django REST framework lists them.
pub(crate) fn allowed_methods(item: &PathItem) -> String {
    let methods = [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
        ("HEAD", &item.get),
        ("OPTIONS", &item.options),
    ];
    let allowed = methods.iter().filter(|(_, operation)| operation.is_some());
    let names = allowed.map(|(name, _)| *name).collect::<Vec<_>>();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::openapi::path::{HttpMethod, Operation};
    use utoipa::openapi::{OpenApiBuilder, PathsBuilder};

    fn routes() -> Routes {
        let item = |methods: &[HttpMethod]| {
            PathItem::from_http_methods(methods.to_vec(), Operation::new())
        };
        let paths = PathsBuilder::new()
            .path("/api/products/", item(&[HttpMethod::Post, HttpMethod::Get]))
            .path("/api/products/{id}/", item(&[HttpMethod::Get]))
            .path(
                "/api/products/{id}/reservations/{rid}/extend/",
                item(&[HttpMethod::Post]),
            )
            .path("/healthz", item(&[HttpMethod::Get]));
        Routes::from_openapi(&OpenApiBuilder::new().paths(paths).build())
    }

    #[test]
    fn a_path_matches_at_most_one_route() {
        let routes = routes();
        let pattern = |path| routes.find(path).map(|route| &*route.pattern);
        assert_eq!(pattern("/api/products/"), Some("/api/products/"));
        assert_eq!(pattern("/api/products/7/"), Some("/api/products/{id}/"));
        assert_eq!(
            pattern("/api/products/7/reservations/x/extend/"),
            Some("/api/products/{id}/reservations/{rid}/extend/")
        );
        for unmatched in [
            "/api/",
            "/api/products",
            "/api/products//",
            "/api/products/1.5/",
            "/api/products/a%2Fb/",
            "/api/products/7/else/",
            "/api/purchases/",
            "/products/7/",
            "/healthz",
        ] {
            assert_eq!(pattern(unmatched), None, "{unmatched}");
        }
    }

    #[test]
    fn head_is_allowed_where_get_is() {
        let routes = routes();
        let allow = |path| routes.find(path).map(|route| route.allow.to_str().unwrap());
        assert_eq!(allow("/api/products/"), Some("GET, POST, HEAD"));
        assert_eq!(allow("/api/products/7/"), Some("GET, HEAD"));
    }
}
