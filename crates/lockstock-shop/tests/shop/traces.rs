//! Traces of requests, as a collector gets them.

use lockstock_testkit::{CollectedSpan, Collector};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, ServerBuilder, product};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Sends spans to a collector without much delay.
fn traced(server: ServerBuilder, collector: &Collector) -> ServerBuilder {
    server
        .args(&["--otlp-endpoint", &collector.url()])
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
}

/// Waits for the span of a request with this name.
fn request(collector: &Collector, name: &str) -> CollectedSpan {
    let spans = collector.wait_for(|spans| spans.iter().any(|span| span.name == name));
    spans.into_iter().find(|span| span.name == name).unwrap()
}

/// Returns the children of a span, in the order in which they began.
fn children(spans: &[CollectedSpan], parent: &CollectedSpan) -> Vec<CollectedSpan> {
    let of_parent = spans.iter().filter(|span| span.parent_id == parent.span_id);
    let mut children = of_parent.cloned().collect::<Vec<_>>();
    children.sort_by_key(|span| span.start_ns);
    children
}

#[tokio::test]
async fn a_request_is_a_span_of_the_trace_of_its_client() {
    let collector = Collector::start();
    let server = traced(Server::embedded(), &collector).start();
    let id = server.create(10).await;
    let patch = server
        .request(Method::PATCH, &product(id))
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .json(&json!({ "stock": 9 }));
    assert_eq!(server.send(patch).await.status, 200);
    let span = request(&collector, "PATCH /api/products/{id}/");
    assert_eq!((&*span.trace_id, &*span.parent_id), (TRACE, PARENT));
    println!("{:#?}", collector.spans());
    println!("{}", server.log());
    let children = children(&collector.spans(), &span);
    let names = children.iter().map(|span| &*span.name);
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["lock.acquire", "database.update", "lock.keep"]
    );
}
