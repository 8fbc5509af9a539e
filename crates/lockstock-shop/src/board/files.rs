//! The files of the board's pages, at `/board/VERSION/NAME`.
//!
//! The version is a digest of all files, so that modules import each other by relative paths and
//! every cache may keep them for ever. Another version, of a page that another server has rendered,
//! gets the same files without that permission.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::routing::get;
use sha2::{Digest, Sha256};

use crate::http::static_file::{CSS, JAVASCRIPT, SVG, StaticFile, TEXT};

/// Allows nothing that is not of this server, and nothing that is inline.
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

macro_rules! file {
    ($content_type:expr, $folder:literal, $name:literal) => {
        (
            $name,
            $content_type,
            include_bytes!(concat!("../../web/", $folder, $name)).as_slice(),
        )
    };
}

const FILES: [(&str, &str, &[u8]); 17] = [
    file!(CSS, "", "board.css"),
    file!(JAVASCRIPT, "", "api.js"),
    file!(JAVASCRIPT, "", "board.js"),
    file!(JAVASCRIPT, "", "curve.js"),
    file!(JAVASCRIPT, "", "episodes.js"),
    file!(JAVASCRIPT, "", "history.js"),
    file!(JAVASCRIPT, "", "lanes.js"),
    file!(JAVASCRIPT, "", "locks.js"),
    file!(JAVASCRIPT, "", "page.js"),
    file!(JAVASCRIPT, "", "product.js"),
    file!(JAVASCRIPT, "", "products.js"),
    file!(JAVASCRIPT, "", "race.js"),
    file!(JAVASCRIPT, "", "stream.js"),
    file!(JAVASCRIPT, "vendor/", "uPlot.iife.min.js"),
    file!(CSS, "vendor/", "uPlot.min.css"),
    file!(TEXT, "vendor/", "uPlot.LICENSE.txt"),
    file!(SVG, "", "icon.svg"),
];

/// The version of the files, as in their paths.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for (name, _, content) in FILES {
        digest.update(name);
        digest.update(content);
    }
    hex::encode(&digest.finalize()[..6])
});

/// Returns the routes of the files. A file is compressed when it is first requested, because most
/// servers show no page.
pub(super) fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    FILES
        .into_iter()
        .fold(Router::new(), |router, (name, content_type, content)| {
            let file = Arc::new(LazyLock::new(move || {
                StaticFile::compressed(content_type, content)
                    .with(CONTENT_SECURITY_POLICY, SECURITY_POLICY)
            }));
            router.route(
                &format!("/board/{{version}}/{name}"),
                get(
                    async move |Path(version): Path<String>, headers: HeaderMap| {
                        let file = StaticFile::clone(&file);
                        let is_this = version == *VERSION;
                        let file = if is_this { file.immutable() } else { file };
                        file.respond(&headers)
                    },
                ),
            )
        })
}
