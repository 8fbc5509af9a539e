//! A collector of traces.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Upper bound of a wait, far longer than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A collector of OpenTelemetry on 127.0.0.1, which takes traces over OTLP/HTTP in
/// protobuf and keeps them.
///
/// ```
/// let collector = lockstock_testkit::Collector::start();
/// // … a server sends its spans to the URL:
/// assert!(collector.url().starts_with("http://127.0.0.1:"));
/// assert!(collector.spans().is_empty());
/// ```
pub struct Collector {
    address: SocketAddr,
    received: Arc<Received>,
    runtime: Option<Runtime>,
}

/// A span that has arrived.
#[derive(Debug, Clone)]
pub struct CollectedSpan {
    /// The trace, in hexadecimal digits.
    pub trace_id: String,
    /// The span, in hexadecimal digits.
    pub span_id: String,
    /// The span that it is a part of. Empty if there is none.
    pub parent_id: String,
    /// The operation.
    pub name: String,
    /// 1 within a server, 2 of a request to it, 3 of a call that it makes.
    pub kind: i32,
    /// Its begin, in nanoseconds since 1970.
    pub start_ns: u64,
    /// Its end, in nanoseconds since 1970.
    pub end_ns: u64,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The attributes of the process that has sent it, as text.
    pub resource: BTreeMap<String, String>,
    /// Whether the operation failed.
    pub is_error: bool,
}

impl CollectedSpan {
    /// Returns an attribute, or nothing.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct Received {
    contents: Mutex<Contents>,
    arrived: Condvar,
}

#[derive(Default)]
struct Contents {
    spans: Vec<CollectedSpan>,
    bytes: Vec<u8>,
}

impl Collector {
    /// Starts a collector.
    pub fn start() -> Collector {
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let received = Arc::new(Received::default());
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(accept(listener, received.clone()));
        Collector {
            address,
            received,
            runtime: Some(runtime),
        }
    }

    /// Returns its URL, without the path of traces.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the spans up to now, in the order in which they ended.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.received.contents().spans.clone()
    }

    /// Returns all bytes of requests up to now, with their headers.
    pub fn bytes(&self) -> Vec<u8> {
        self.received.contents().bytes.clone()
    }

    /// Waits until `is_complete`, and returns the spans up to then.
    pub fn wait_for(&self, is_complete: impl Fn(&[CollectedSpan]) -> bool) -> Vec<CollectedSpan> {
        let contents = self.received.contents();
        let (contents, timeout) = self
            .received
            .arrived
            .wait_timeout_while(contents, PATIENCE, |contents| !is_complete(&contents.spans))
            .unwrap_or_else(PoisonError::into_inner);
        let spans = contents.spans.clone();
        drop(contents);
        assert!(!timeout.timed_out(), "not within {PATIENCE:?}: {spans:#?}");
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Received {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request, and returns the status of the response.
    async fn take(&self, request: Request<Incoming>) -> StatusCode {
        let (parts, body) = request.into_parts();
        if parts.method != Method::POST || parts.uri.path() != "/v1/traces" {
            return StatusCode::NOT_FOUND;
        }
        let content_type = parts.headers.get(CONTENT_TYPE);
        if content_type.is_none_or(|it| it != "application/x-protobuf") {
            return StatusCode::UNSUPPORTED_MEDIA_TYPE;
        }
        let Ok(body) = body.collect().await else {
            return StatusCode::BAD_REQUEST;
        };
        let body = body.to_bytes();
        let Ok(export) = ExportTraceServiceRequest::decode(body.clone()) else {
            return StatusCode::BAD_REQUEST;
        };
        let mut contents = self.contents();
        contents.spans.extend(spans(export));
        let head = format!("{} {:?}\n", parts.uri, parts.headers);
        contents.bytes.extend_from_slice(head.as_bytes());
        contents.bytes.extend_from_slice(&body);
        self.arrived.notify_all();
        StatusCode::OK
    }
}

async fn accept(listener: StdListener, received: Arc<Received>) {
    let listener = TcpListener::from_std(listener).expect("a socket");
    while let Ok((stream, _)) = listener.accept().await {
        let received = received.clone();
        let service = service_fn(move |request| {
            let received = received.clone();
            async move {
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = received.take(request).await;
                Ok::<_, Infallible>(response)
            }
        });
        // A client that disconnects is none of its business.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn spans(export: ExportTraceServiceRequest) -> impl Iterator<Item = CollectedSpan> {
    export.resource_spans.into_iter().flat_map(|group| {
        let resource = text(group.resource.unwrap_or_default().attributes);
        let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |span| CollectedSpan {
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_id: hex(&span.parent_span_id),
            name: span.name,
            kind: span.kind,
            start_ns: span.start_time_unix_nano,
            end_ns: span.end_time_unix_nano,
            attributes: text(span.attributes),
            resource: resource.clone(),
            is_error: span
                .status
                .is_some_and(|status| status.code == STATUS_ERROR),
        })
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| {
        let number = value.int_value.map(|number| number.to_string());
        let flag = value.bool_value.map(|flag| flag.to_string());
        value.string_value.or(number).or(flag).unwrap_or_default()
    };
    let pairs = attributes.into_iter();
    pairs
        .map(|pair| (pair.key, text(pair.value.unwrap_or_default())))
        .collect()
}

const STATUS_ERROR: i32 = 2;

// The messages of opentelemetry-proto 1.x, with the fields that tests read. Not from the crate of the
// exporter, which would hide its mistakes.

#[derive(Clone, PartialEq, Message)]
struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string_value: Option<String>,
    #[prost(bool, optional, tag = "2")]
    bool_value: Option<bool>,
    #[prost(int64, optional, tag = "3")]
    int_value: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}
