//! The documentation page at `/docs/` (Swagger UI) and the OpenAPI document at `/openapi.json`.
//!
//! The page works offline: its files are part of the binary. The two large files are stored
//! compressed; they are decompressed only for a client that does not accept gzip.
//!
//! Clients revalidate a file by its entity tag before each use, because a file of the next
//! version has the same URL.

use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::Redirect;
use axum::routing::get;

use super::static_file::{CSS, HTML, JAVASCRIPT, StaticFile, TEXT};

/// Allows scripts, styles and requests of this server only. Icons are part of the stylesheet.
const SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

macro_rules! asset {
    ($name:literal) => {
        include_bytes!(concat!("../../assets/docs/", $name)).as_slice()
    };
}

/// Returns the routes of the page and of the OpenAPI `document`, which is JSON.
pub(crate) fn routes<S>(document: String) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let bundle = asset!("swagger-ui-bundle.js.gz");
    let notices = asset!("swagger-ui-bundle.js.LICENSE.txt");
    [
        (
            "/openapi.json",
            StaticFile::plain("application/json", document),
        ),
        ("/docs/", StaticFile::plain(HTML, asset!("index.html"))),
        ("/docs/page.css", StaticFile::plain(CSS, asset!("page.css"))),
        (
            "/docs/page.js",
            StaticFile::plain(JAVASCRIPT, asset!("page.js")),
        ),
        (
            "/docs/swagger-ui.css",
            StaticFile::gzipped(CSS, asset!("swagger-ui.css.gz")),
        ),
        (
            "/docs/swagger-ui-bundle.js",
            StaticFile::gzipped(JAVASCRIPT, bundle),
        ),
        (
            "/docs/swagger-ui-bundle.js.LICENSE.txt",
            StaticFile::plain(TEXT, notices),
        ),
    ]
    .into_iter()
    .fold(
        Router::new().route("/docs", get(async || Redirect::to("/docs/"))),
        |router, (path, file)| {
            let file = file.with(CONTENT_SECURITY_POLICY, SECURITY_POLICY);
            router.route(
                path,
                get(async move |headers: HeaderMap| file.respond(&headers)),
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::header::CONTENT_ENCODING;
    use axum::http::{Request, StatusCode};
    use bytes::Bytes;
    use tower::ServiceExt;

    use super::*;

    async fn fetch(path: &str) -> (StatusCode, HeaderMap, Bytes) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = routes("{}".to_owned()).oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        (
            head.status,
            head.headers,
            to_bytes(body, usize::MAX).await.unwrap(),
        )
    }

    #[tokio::test]
    async fn every_file_of_the_page_is_served() {
        let (_, _, page) = fetch("/docs/").await;
        let page = String::from_utf8(page.into()).unwrap();
        let files = page
            .split(['"'])
            .filter(|it| it.ends_with(".css") || it.ends_with(".js"));
        let files: Vec<_> = files.collect();
        assert_eq!(files.len(), 4, "{page}");
        for file in files {
            let (status, headers, body) = fetch(&format!("/docs/{file}")).await;
            assert_eq!(status, 200, "{file}");
            assert!(
                std::str::from_utf8(&body).is_ok_and(|text| text.len() > 50),
                "{file}"
            );
            assert_eq!(headers.get(CONTENT_ENCODING), None, "{file}");
            assert!(headers.contains_key(CONTENT_SECURITY_POLICY), "{file}");
        }
        assert!(
            !page.contains("<script>") && !page.contains("<style"),
            "{page}"
        );
    }
}
