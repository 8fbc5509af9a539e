//! The documentation page at `/docs/` (Swagger UI) and the OpenAPI document at `/openapi.json`.
//!
//! The page works offline: its files are part of the binary. The two large files are stored
//! compressed; they are decompressed only for a client that does not accept gzip.
//!
//! Clients revalidate a file by its entity tag before each use, because a file of the next
//! version has the same URL.

use axum::Router;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::header_list::members;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Allows scripts, styles and requests of this server only. Icons are part of the stylesheet.
const SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Length of a gzip header without optional fields (RFC 1952, section 2.3): `gzip -n` writes
/// none.
const GZIP_HEADER_LEN: usize = 10;

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
        ("/openapi.json", File::plain("application/json", document)),
        ("/docs/", File::plain(HTML, asset!("index.html"))),
        ("/docs/page.css", File::plain(CSS, asset!("page.css"))),
        ("/docs/page.js", File::plain(JAVASCRIPT, asset!("page.js"))),
        (
            "/docs/swagger-ui.css",
            File::gzipped(CSS, asset!("swagger-ui.css.gz")),
        ),
        (
            "/docs/swagger-ui-bundle.js",
            File::gzipped(JAVASCRIPT, bundle),
        ),
        (
            "/docs/swagger-ui-bundle.js.LICENSE.txt",
            File::plain(TEXT, notices),
        ),
    ]
    .into_iter()
    .fold(
        Router::new().route("/docs", get(async || Redirect::to("/docs/"))),
        |router, (path, file)| {
            router.route(
                path,
                get(async move |headers: HeaderMap| file.respond(&headers)),
            )
        },
    )
}

/// A file in memory.
#[derive(Clone)]
struct File {
    content_type: &'static str,
    body: Bytes,
    is_gzipped: bool,
    /// Weak, because both encodings have the same tag.
    etag: HeaderValue,
}

impl File {
    fn plain(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::new(content_type, body.into(), false)
    }

    fn gzipped(content_type: &'static str, body: &'static [u8]) -> Self {
        Self::new(content_type, Bytes::from_static(body), true)
    }

    fn new(content_type: &'static str, body: Bytes, is_gzipped: bool) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(&body));
        let tag = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let etag = HeaderValue::try_from(format!("W/\"{tag:016x}\""));
        Self {
            content_type,
            body,
            is_gzipped,
            etag: etag.expect("hexadecimal digits are valid in a header"),
        }
    }

    fn respond(&self, request: &HeaderMap) -> Response {
        let mut headers = HeaderMap::from_iter([
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (ETAG, self.etag.clone()),
        ]);
        if self.is_gzipped {
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        if self.is_fresh(request) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.extend([
            (CONTENT_TYPE, HeaderValue::from_static(self.content_type)),
            (
                CONTENT_SECURITY_POLICY,
                HeaderValue::from_static(SECURITY_POLICY),
            ),
        ]);
        if !self.is_gzipped {
            (headers, self.body.clone()).into_response()
        } else if accepts_gzip(request) {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            (headers, self.body.clone()).into_response()
        } else {
            (headers, gunzip(&self.body)).into_response()
        }
    }

    /// Returns whether the client's copy is this file, by the weak comparison of RFC 9110,
    /// section 8.8.3.2.
    fn is_fresh(&self, request: &HeaderMap) -> bool {
        let is_this = |tag: &str| self.etag == tag || self.etag == format!("W/{tag}");
        members(request, &IF_NONE_MATCH).any(|tag| tag == "*" || is_this(tag))
    }
}

/// Returns whether the client accepts gzip. A client that sends no `Accept-Encoding` would
/// accept it by RFC 9110, section 12.5.3, but such a client often cannot decompress.
fn accepts_gzip(request: &HeaderMap) -> bool {
    let mut any = false;
    for member in members(request, &ACCEPT_ENCODING) {
        let (coding, parameters) = member.split_once(';').unwrap_or((member, ""));
        let quality = parameters.trim().strip_prefix("q=");
        let accepted = quality.is_none_or(|q| q.trim().parse().is_ok_and(|q: f32| q > 0.0));
        match coding.trim() {
            name if name.eq_ignore_ascii_case("gzip") => return accepted,
            "*" => any = accepted,
            _ => {}
        }
    }
    any
}

fn gunzip(file: &[u8]) -> Vec<u8> {
    // What follows the compressed data is its checksum and length.
    miniz_oxide::inflate::decompress_to_vec(&file[GZIP_HEADER_LEN..])
        .expect("the files are part of the binary, and a test decompresses each")
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderName, Request};
    use tower::ServiceExt;

    use super::*;

    async fn fetch(path: &str, headers: &[(HeaderName, &str)]) -> (StatusCode, HeaderMap, Bytes) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
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
        let (_, _, page) = fetch("/docs/", &[]).await;
        let page = String::from_utf8(page.into()).unwrap();
        let files = page
            .split(['"'])
            .filter(|it| it.ends_with(".css") || it.ends_with(".js"));
        let files: Vec<_> = files.collect();
        assert_eq!(files.len(), 4, "{page}");
        for file in files {
            let (status, headers, body) = fetch(&format!("/docs/{file}"), &[]).await;
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

    #[tokio::test]
    async fn gzip_is_sent_to_clients_that_accept_it() {
        let path = "/docs/swagger-ui.css";
        let (_, _, plain) = fetch(path, &[]).await;
        for accept in ["gzip", "br, GZIP;q=0.5", "*", "gzip, *;q=0"] {
            let (_, headers, body) = fetch(path, &[(ACCEPT_ENCODING, accept)]).await;
            assert_eq!(headers[CONTENT_ENCODING], "gzip", "{accept}");
            assert_eq!(headers[VARY], "Accept-Encoding", "{accept}");
            assert_eq!(gunzip(&body), plain, "{accept}");
        }
        for accept in ["identity", "gzip;q=0, *", "br, gzip;q=0.0", ""] {
            let (_, headers, body) = fetch(path, &[(ACCEPT_ENCODING, accept)]).await;
            assert_eq!(headers.get(CONTENT_ENCODING), None, "{accept}");
            assert_eq!(body, plain, "{accept}");
        }
    }

    #[tokio::test]
    async fn a_file_that_the_client_has_is_not_sent_again() {
        for path in ["/openapi.json", "/docs/", "/docs/swagger-ui-bundle.js"] {
            let (_, headers, _) = fetch(path, &[]).await;
            let tag = headers[ETAG].to_str().unwrap();
            let strong = tag.strip_prefix("W/").unwrap();
            for tags in [tag, strong, "*", &format!("\"other\", {tag}")] {
                let (status, headers, body) = fetch(path, &[(IF_NONE_MATCH, tags)]).await;
                assert_eq!(
                    (status, body.len()),
                    (StatusCode::NOT_MODIFIED, 0),
                    "{path} {tags}"
                );
                assert_eq!(headers[ETAG], tag);
            }
            let (status, ..) = fetch(path, &[(IF_NONE_MATCH, "\"other\"")]).await;
            assert_eq!(status, 200, "{path}");
        }
    }
}
