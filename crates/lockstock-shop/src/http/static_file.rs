//! Files that are part of the binary, and how they are sent.

use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::header_list::members;

pub(crate) const HTML: &str = "text/html; charset=utf-8";
pub(crate) const CSS: &str = "text/css; charset=utf-8";
pub(crate) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const SVG: &str = "image/svg+xml";

/// Header of a gzip file without optional fields (RFC 1952, section 2.3), as `gzip -n` writes it.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses as much as possible: it is done once.
const LEVEL: u8 = 10;

/// A file in memory.
#[derive(Clone)]
pub(crate) struct StaticFile {
    content_type: &'static str,
    body: Body,
    /// Weak, because both encodings have the same tag.
    etag: HeaderValue,
    caching: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone)]
enum Body {
    Plain(Bytes),
    /// Decompressed only for a client that does not accept gzip.
    Gzipped(Bytes),
}

impl StaticFile {
    /// Creates a file that is sent as it is.
    pub(crate) fn plain(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let etag = tag(&body);
        Self::new(content_type, Body::Plain(body), etag)
    }

    /// Creates a file from its gzip format.
    pub(crate) fn gzipped(content_type: &'static str, body: &'static [u8]) -> Self {
        let etag = tag(body);
        Self::new(content_type, Body::Gzipped(Bytes::from_static(body)), etag)
    }

    /// Creates a file that is compressed here.
    pub(crate) fn compressed(content_type: &'static str, body: &[u8]) -> Self {
        Self::new(content_type, Body::Gzipped(gzip(body).into()), tag(body))
    }

    /// A client revalidates the file by its entity tag before each use, unless it is
    /// [`immutable`](Self::immutable).
    fn new(content_type: &'static str, body: Body, etag: HeaderValue) -> Self {
        Self {
            content_type,
            body,
            etag,
            caching: HeaderValue::from_static("no-cache"),
            headers: Vec::new(),
        }
    }

    /// Lets every cache keep the file: another content has another URL.
    pub(crate) fn immutable(mut self) -> Self {
        self.caching = HeaderValue::from_static("public, max-age=31536000, immutable");
        self
    }

    /// Adds a header to each response.
    pub(crate) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// Returns the response to a request with these headers.
    pub(crate) fn respond(&self, request: &HeaderMap) -> Response {
        let mut headers = HeaderMap::from_iter([
            (CACHE_CONTROL, self.caching.clone()),
            (ETAG, self.etag.clone()),
        ]);
        if let Body::Gzipped(_) = self.body {
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        if self.is_fresh(request) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.extend(self.headers.iter().cloned());
        match &self.body {
            Body::Plain(body) => (headers, body.clone()).into_response(),
            Body::Gzipped(body) if accepts_gzip(request) => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                (headers, body.clone()).into_response()
            }
            Body::Gzipped(body) => (headers, gunzip(body)).into_response(),
        }
    }

    /// Returns whether the client's copy is this file, by the weak comparison of RFC 9110,
    /// section 8.8.3.2.
    fn is_fresh(&self, request: &HeaderMap) -> bool {
        let is_this = |tag: &str| self.etag == tag || self.etag == format!("W/{tag}");
        members(request, &IF_NONE_MATCH).any(|tag| tag == "*" || is_this(tag))
    }
}

fn tag(body: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(body);
    HeaderValue::try_from(format!("W/\"{}\"", hex::encode(&digest[..8])))
        .expect("hexadecimal digits are valid in a header")
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

fn gzip(body: &[u8]) -> Vec<u8> {
    let checksum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(body);
    let length = u32::try_from(body.len()).expect("a file of the binary is small");
    [
        GZIP_HEADER.as_slice(),
        &miniz_oxide::deflate::compress_to_vec(body, LEVEL),
        &checksum.to_le_bytes(),
        &length.to_le_bytes(),
    ]
    .concat()
}

fn gunzip(file: &[u8]) -> Vec<u8> {
    // What follows the compressed data is its checksum and length.
    miniz_oxide::inflate::decompress_to_vec(&file[GZIP_HEADER.len()..])
        .expect("the files are part of the binary, and a test decompresses each")
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn send(
        file: &StaticFile,
        name: HeaderName,
        value: &str,
    ) -> (StatusCode, HeaderMap, Bytes) {
        let request = HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())]);
        let (head, body) = file.respond(&request).into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, body)
    }

    #[tokio::test]
    async fn gzip_is_sent_to_clients_that_accept_it() {
        let text = b"a { color: red } ".repeat(100);
        let file = StaticFile::compressed(CSS, &text);
        for accept in ["gzip", "br, GZIP;q=0.5", "*", "gzip, *;q=0"] {
            let (_, headers, body) = send(&file, ACCEPT_ENCODING, accept).await;
            assert_eq!(headers[CONTENT_ENCODING], "gzip", "{accept}");
            assert_eq!(headers[VARY], "Accept-Encoding", "{accept}");
            assert!(body.len() < 100, "{accept}");
            assert_eq!(gunzip(&body), text, "{accept}");
        }
        for accept in ["identity", "gzip;q=0, *", "br, gzip;q=0.0", ""] {
            let (_, headers, body) = send(&file, ACCEPT_ENCODING, accept).await;
            assert_eq!(headers.get(CONTENT_ENCODING), None, "{accept}");
            assert_eq!(body, text, "{accept}");
        }
    }

    #[tokio::test]
    async fn a_file_that_the_client_has_is_not_sent_again() {
        for file in [
            StaticFile::plain(TEXT, "plain"),
            StaticFile::compressed(CSS, b"a {}").immutable(),
        ] {
            let tag = file.etag.to_str().unwrap();
            let strong = tag.strip_prefix("W/").unwrap();
            for tags in [tag, strong, "*", &format!("\"other\", {tag}")] {
                let (status, headers, body) = send(&file, IF_NONE_MATCH, tags).await;
                assert_eq!(
                    (status, body.len()),
                    (StatusCode::NOT_MODIFIED, 0),
                    "{tags}"
                );
                assert_eq!(headers[ETAG], tag);
            }
            let (status, ..) = send(&file, IF_NONE_MATCH, "\"other\"").await;
            assert_eq!(status, 200);
        }
    }
}
