//! The collector takes OTLP/HTTP in protobuf, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpStream;

use lockstock_testkit::Collector;

/// Returns a field of protobuf whose value has a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    assert!(length < 128, "one byte of a varint");
    [&[number << 3 | 2, length], value].concat()
}

/// Sends a request and returns the status of the response.
fn post(collector: &Collector, path: &str, content_type: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(collector.address()).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: collector\r\nConnection: close\r\n\
         Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_span_is_read_field_by_field() {
    let collector = Collector::start();
    let attribute = [field(1, b"http.route"), field(2, &field(1, b"/"))].concat();
    let span = [
        field(1, &[0xab; 16]),
        field(2, &[0xcd; 8]),
        field(4, &[0xef; 8]),
        field(5, b"GET /"),
        // The kind, a number.
        vec![6 << 3, 2],
        field(9, &attribute),
        // The status: the number 2 in field 3.
        field(15, &[3 << 3, 2]),
    ]
    .concat();
    let body = field(1, &field(2, &field(2, &span)));
    assert_eq!(
        post(&collector, "/v1/traces", "application/x-protobuf", &body),
        200
    );
    let spans = collector.wait_for(|spans| !spans.is_empty());
    let span = &spans[0];
    assert_eq!(span.trace_id, "ab".repeat(16));
    assert_eq!(span.span_id, "cd".repeat(8));
    assert_eq!(span.parent_id, "ef".repeat(8));
    assert_eq!((&*span.name, span.kind), ("GET /", 2));
    assert_eq!(span.attribute("http.route"), "/");
    assert!(span.is_error);
}

#[test]
fn other_requests_are_rejected() {
    let collector = Collector::start();
    let protobuf = "application/x-protobuf";
    assert_eq!(post(&collector, "/v1/logs", protobuf, b""), 404);
    assert_eq!(
        post(&collector, "/v1/traces", "application/json", b"{}"),
        415
    );
    assert_eq!(post(&collector, "/v1/traces", protobuf, b"\xff\xff"), 400);
    assert!(collector.spans().is_empty());
}
