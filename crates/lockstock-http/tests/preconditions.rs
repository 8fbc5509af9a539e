//! Conditional requests as clients see them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use axum::routing::any;
use bytes::Bytes;
use harness::{TestResponse, response_with, send};
use lockstock_http::{Preconditions, PreconditionsLayer, Rejection, Validators};

/// Name and value of a header.
type Header<'a> = (&'a str, &'a str);

fn request(method: &str, path: &str, headers: &[Header]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn sent(app: &Router, method: &str, headers: &[Header<'_>]) -> TestResponse {
    send(app, request(method, "/", headers)).await
}

/// Service that returns the `x-` headers of the request without that prefix.
fn mirror() -> Router {
    let handler = async |calls: HeaderMap| {
        let mut headers = HeaderMap::new();
        for (name, value) in &calls {
            if let Some(name) = name.as_str().strip_prefix("x-") {
                headers.append(name.parse::<HeaderName>().unwrap(), value.clone());
            }
        }
        let status = headers.remove("status");
        let status = status.map_or(StatusCode::OK, |status| {
            status.to_str().unwrap().parse().unwrap()
        });
        (status, headers, "the body")
    };
    Router::new()
        .route("/", any(handler))
        .layer(PreconditionsLayer::new())
}

#[tokio::test]
async fn a_version_that_the_client_has_is_not_sent_again() {
    let app = mirror();
    for (has, tag, status) in [
        ("\"3\"", "\"3\"", 304),
        ("W/\"3\"", "\"3\"", 304),
        ("\"3\"", "W/\"3\"", 304),
        ("\"2\", \"3\"", "\"3\"", 304),
        ("\"a,b\"", "\"a,b\"", 304),
        ("*", "\"3\"", 304),
        ("\"2\"", "\"3\"", 200),
        ("3", "\"3\"", 200),
        ("3", "3", 200),
        ("\"3\", 3", "\"3\"", 200),
        ("\"3", "\"3\"", 200),
        ("w/\"3\"", "\"3\"", 200),
        ("", "\"3\"", 200),
    ] {
        for method in ["GET", "HEAD"] {
            let response = sent(&app, method, &[("if-none-match", has), ("x-etag", tag)]).await;
            assert_eq!(response.status, status, "{has} {tag}");
            assert_eq!(response.header("etag"), tag);
            let body = if status == 304 || method == "HEAD" {
                ""
            } else {
                "the body"
            };
            assert_eq!(response.body, body, "{method} {has} {tag}");
        }
    }
    // Without a tag there is nothing to compare, but `*` matches every response.
    assert_eq!(
        sent(&app, "GET", &[("if-none-match", "\"3\"")])
            .await
            .status,
        200
    );
    assert_eq!(
        sent(&app, "GET", &[("if-none-match", "*")]).await.status,
        304
    );
    let seen = [("if-none-match", "\"3\""), ("x-etag", "\"3\"")];
    for status in ["404", "301", "500"] {
        let lines = [&seen[..], &[("x-status", status)]].concat();
        assert_eq!(sent(&app, "GET", &lines).await.status.to_string(), status);
    }
    // Without the current tag the layer cannot compare.
    assert_eq!(sent(&app, "POST", &seen).await.status, 200);
    assert_eq!(sent(&app, "PUT", &seen).await.status, 200);
}

#[tokio::test]
async fn a_304_keeps_the_headers_for_caches_and_drops_those_of_the_body() {
    let kept = [
        ("x-etag", "\"3\""),
        ("x-cache-control", "max-age=60"),
        ("x-vary", "accept"),
        ("x-expires", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("x-content-location", "/1"),
        ("x-date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("x-set-cookie", "a=1"),
        ("x-set-cookie", "b=2"),
    ];
    let dropped = [
        ("x-content-type", "text/plain"),
        ("x-content-length", "8"),
        ("x-content-encoding", "identity"),
        ("x-content-language", "en"),
        ("x-last-modified", DATE),
    ];
    let lines = [&kept[..], &dropped, &[("if-none-match", "\"3\"")]].concat();
    let response = sent(&mirror(), "GET", &lines).await;
    assert_eq!(response.status, 304);
    for (name, value) in kept {
        let mut values = response.headers.get_all(&name[2..]).iter();
        assert!(values.any(|one| one == value), "{name} {value}");
    }
    for (name, _) in dropped {
        // axum adds `content-length: 0` to every empty body.
        let left = response.header(&name[2..]);
        assert!(
            matches!((name, left), (_, "") | ("x-content-length", "0")),
            "{name}"
        );
    }
}

const BEFORE: &str = "Wed, 31 Dec 2025 23:59:59 GMT";
const DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
const AFTER: &str = "Thu, 01 Jan 2026 00:00:01 GMT";

#[tokio::test]
async fn conditions_of_a_read_are_evaluated_in_the_order_of_the_rfc() {
    let app = mirror();
    for (lines, status) in [
        (&[("if-match", "\"3\"")][..], 200),
        (&[("if-match", "W/\"3\"")], 200),
        (&[("if-match", "*")], 200),
        (&[("if-match", "\"2\"")], 412),
        (&[("if-match", "\"2\""), ("if-none-match", "\"3\"")], 412),
        (&[("if-match", "\"3\""), ("if-none-match", "\"3\"")], 304),
        (&[("if-unmodified-since", DATE)], 200),
        (&[("if-unmodified-since", BEFORE)], 412),
        (&[("if-unmodified-since", "yesterday")], 200),
        // The tag replaces the date.
        (
            &[("if-match", "\"3\""), ("if-unmodified-since", BEFORE)],
            200,
        ),
        (&[("if-modified-since", BEFORE)], 200),
        (&[("if-modified-since", DATE)], 304),
        (&[("if-modified-since", AFTER)], 304),
        (
            &[("if-none-match", "\"2\""), ("if-modified-since", AFTER)],
            200,
        ),
        (&[("if-none-match", "2"), ("if-modified-since", AFTER)], 200),
    ] {
        for method in ["GET", "HEAD"] {
            let version = [("x-etag", "\"3\""), ("x-last-modified", DATE)];
            let lines = [lines, &version].concat();
            let response = sent(&app, method, &lines).await;
            assert_eq!(response.status, status, "{method} {lines:?}");
            assert_eq!(response.header("etag"), "\"3\"");
            if status == 412 && method == "GET" {
                assert_eq!(response.code(), "precondition_failed");
            }
        }
    }
    // Without a version there is nothing that a list or a date can be compared with.
    for (line, status) in [
        (("if-match", "\"3\""), 412),
        (("if-match", "*"), 200),
        (("if-unmodified-since", BEFORE), 200),
        (("if-modified-since", AFTER), 200),
    ] {
        assert_eq!(sent(&app, "GET", &[line]).await.status, status, "{line:?}");
    }
    // A response without the condition that is not 2xx stays.
    let missing = [("if-match", "\"3\""), ("x-status", "404")];
    assert_eq!(sent(&app, "GET", &missing).await.status, 404);
}

#[tokio::test]
async fn what_is_no_entity_tag_is_rejected_with_an_example() {
    let app = show_condition(PreconditionsLayer::new());
    for malformed in ["2", "", "\"2", "w/\"2\"", "\"1\", 2", "*, \"2\""] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let response = sent(&app, method, &[("if-match", malformed)]).await;
            assert_eq!(response.status, 400, "{method} {malformed}");
        }
        let response = sent(&app, "PUT", &[("if-match", malformed)]).await;
        assert_eq!(response.code(), "precondition_malformed");
        assert!(
            response.body.contains(r#"such as \"2\"."#),
            "{}",
            response.body
        );
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let response = sent(&app, method, &[("if-none-match", malformed)]).await;
            assert_eq!(response.code(), "precondition_malformed", "{malformed}");
        }
        assert_eq!(
            sent(&app, "OPTIONS", &[("if-match", malformed)])
                .await
                .status,
            200
        );
    }
}

/// Service that returns the conditions that its handler gets.
fn show_condition(layer: PreconditionsLayer) -> Router {
    let handler = async |seen: Option<Preconditions>| {
        seen.map_or("nothing".to_owned(), |seen| {
            format!("{:?}, {:?}", seen.if_match, seen.if_none_match)
        })
    };
    Router::new().route("/", any(handler)).layer(layer)
}

#[tokio::test]
async fn a_handler_that_writes_gets_the_conditions_of_the_client() {
    let app = show_condition(PreconditionsLayer::new());
    for (lines, seen) in [
        (&[][..], "Absent, Absent"),
        (&[("if-match", "*")], "Any, Absent"),
        (&[("if-none-match", "*")], "Absent, Any"),
        (&[("if-match", "\"3\"")], r#"OneOf(["3"]), Absent"#),
        (
            &[("if-match", "\"3\", W/\"4\""), ("if-match", "\"5\"")],
            r#"OneOf(["3", W/"4", "5"]), Absent"#,
        ),
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(sent(&app, method, lines).await.body, seen);
        }
        assert_eq!(sent(&app, "OPTIONS", lines).await.body, "Absent, Absent");
    }
    assert_eq!(
        sent(&app, "GET", &[("if-match", "*")]).await.body,
        "nothing"
    );
}

#[tokio::test]
async fn a_write_without_a_condition_is_rejected_if_one_is_required() {
    let app = show_condition(PreconditionsLayer::new().require());
    for method in ["PUT", "PATCH", "DELETE"] {
        let rejected = sent(&app, method, &[]).await;
        let code = rejected.code();
        assert_eq!((rejected.status, &code[..]), (428, "precondition_required"));
        // The layer does not compare `If-None-Match` here.
        let other = sent(&app, method, &[("if-none-match", "*")]).await;
        assert_eq!(other.status, 428);
        assert_eq!(sent(&app, method, &[("if-match", "*")]).await.status, 200);
    }
    assert_eq!(sent(&app, "GET", &[]).await.status, 200);
    assert_eq!(sent(&app, "POST", &[]).await.status, 200);
    let posts = show_condition(PreconditionsLayer::new().require().methods([Method::POST]));
    assert_eq!(sent(&posts, "POST", &[]).await.status, 428);
    assert_eq!(sent(&posts, "PUT", &[]).await.status, 200);
}

/// `/3` has the tag "3", `/weak` a weak one, `/none` does not exist, `/secret` is forbidden.
async fn current(path: String, calls: Arc<AtomicUsize>) -> Result<Option<String>, Response<Bytes>> {
    calls.fetch_add(1, Ordering::SeqCst);
    match &path[..] {
        "/none" => Ok(None),
        "/weak" => Ok(Some("W/\"3\"".to_owned())),
        "/secret" => Err(response_with(StatusCode::FORBIDDEN, "")),
        other => Ok(Some(format!("\"{}\"", &other[1..]))),
    }
}

#[tokio::test]
async fn a_failed_comparison_before_the_handler_responds_with_the_current_tag() {
    let calls = Arc::new(AtomicUsize::new(0));
    let layer = PreconditionsLayer::new().current({
        let calls = calls.clone();
        move |parts| current(parts.uri.path().to_owned(), calls.clone())
    });
    let written = Arc::new(AtomicUsize::new(0));
    let handler = {
        let written = written.clone();
        async move || {
            written.fetch_add(1, Ordering::SeqCst);
            StatusCode::NO_CONTENT
        }
    };
    let app = |layer: PreconditionsLayer| {
        let handler = handler.clone();
        Router::new().route("/{id}", any(handler)).layer(layer)
    };
    let lax = app(layer.clone());
    for (path, lines, status) in [
        ("/3", &[("if-match", "\"3\"")][..], 204),
        ("/3", &[("if-match", "\"2\", \"3\"")], 204),
        ("/3", &[("if-match", "*")], 204),
        ("/3", &[("if-match", "\"2\"")], 412),
        // As a proxy that compresses changes the tag.
        ("/3", &[("if-match", "W/\"3\"")], 204),
        ("/3", &[("if-match", "W/\"2\"")], 412),
        ("/weak", &[("if-match", "W/\"3\"")], 412),
        ("/weak", &[("if-match", "\"3\"")], 412),
        ("/weak", &[("if-match", "*")], 204),
        ("/none", &[("if-match", "*")], 412),
        ("/none", &[("if-match", "\"3\"")], 412),
        ("/none", &[("if-none-match", "*")], 204),
        ("/3", &[("if-none-match", "*")], 412),
        ("/3", &[("if-none-match", "W/\"3\"")], 412),
        ("/3", &[("if-none-match", "\"2\"")], 204),
        (
            "/3",
            &[("if-match", "\"3\""), ("if-none-match", "\"3\"")],
            412,
        ),
        ("/secret", &[("if-match", "*")], 403),
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let before = written.load(Ordering::SeqCst);
            let response = send(&lax, request(method, path, lines)).await;
            assert_eq!(response.status, status, "{method} {path} {lines:?}");
            let now = written.load(Ordering::SeqCst);
            assert_eq!(now > before, status == 204, "{method} {path} {lines:?}");
            if status == 412 {
                assert_eq!(response.code(), "precondition_failed");
                let tag = match path {
                    "/3" => "\"3\"",
                    "/weak" => "W/\"3\"",
                    _ => "",
                };
                assert_eq!(response.header("etag"), tag);
                if path == "/weak" {
                    assert!(response.body.contains("is weak"), "{}", response.body);
                }
            }
        }
    }
    let before = calls.load(Ordering::SeqCst);
    assert_eq!(send(&lax, request("PUT", "/3", &[])).await.status, 204);
    let strict = app(layer.require());
    assert_eq!(send(&strict, request("PUT", "/3", &[])).await.status, 428);
    assert_eq!(calls.load(Ordering::SeqCst), before, "nothing to compare");
    let create = request("PUT", "/none", &[("if-none-match", "*")]);
    assert_eq!(send(&strict, create).await.status, 204);
}

#[tokio::test]
async fn a_write_is_compared_with_the_date_of_the_resource() {
    let modified = httpdate::parse_http_date(DATE).unwrap();
    let layer = PreconditionsLayer::new().current(move |_| async move {
        Ok(Some(Validators {
            etag: None,
            last_modified: Some(modified),
        }))
    });
    let app = show_condition(layer);
    for (lines, status) in [
        (&[("if-unmodified-since", BEFORE)][..], 412),
        (&[("if-unmodified-since", DATE)], 200),
        (&[("if-match", "*"), ("if-unmodified-since", BEFORE)], 200),
        (&[("if-match", "\"3\"")], 412),
        (&[("if-none-match", "*")], 412),
        // Only for a GET.
        (&[("if-modified-since", AFTER)], 200),
    ] {
        assert_eq!(sent(&app, "PUT", lines).await.status, status, "{lines:?}");
    }
}

#[tokio::test]
async fn the_response_to_a_rejection_is_configurable() {
    let layer = PreconditionsLayer::new()
        .current(|_| async { Ok(Some("\"3\"".to_owned())) })
        .on_rejection(|rejection, language| match rejection {
            Rejection::PreconditionFailed { header, current } => {
                let etag = current.and_then(|current| current.etag);
                response_with(
                    StatusCode::PRECONDITION_FAILED,
                    format!("{header} {etag:?}"),
                )
            }
            other => other.problem(language),
        });
    let app = show_condition(layer);
    let response = sent(&app, "PUT", &[("if-match", "\"2\"")]).await;
    assert_eq!((response.status, response.header("etag")), (412, "\"3\""));
    assert_eq!(response.body, r#"If-Match Some("\"3\"")"#);
}
