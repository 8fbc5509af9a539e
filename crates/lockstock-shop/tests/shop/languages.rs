//! The language of messages, negotiated with `Accept-Language`. `differential.rs` compares every
//! message with a Korean Django project.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Response, Server, product};

async fn patch(server: &Server, id: i64, body: Value, headers: &[(&str, &str)]) -> Response {
    let mut request = server.request(Method::PATCH, &product(id)).json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request).await
}

#[tokio::test]
async fn the_sentences_of_drf_are_korean_for_a_korean_client() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let korean = ("Accept-Language", "ko-KR,ko;q=0.9,en;q=0.8");
    let invalid = json!({ "name": "", "price": 2_147_483_648_i64, "stock": "nine" });

    let response = patch(&server, id, invalid.clone(), &[korean]).await;
    assert_eq!(response.status, 400);
    assert_eq!(
        response.body,
        json!({
            "name": ["이 필드는 blank일 수 없습니다."],
            "price": ["이 값이 2147483647보다 작거나 같은지 확인하세요."],
            "stock": ["유효한 정수를 입력하세요."],
        })
    );
    assert_eq!(response.header("vary"), "Accept, Accept-Language");

    let problem = ("Accept", "application/problem+json");
    let response = patch(&server, id, json!({ "stock": "nine" }), &[korean, problem]).await;
    assert_eq!(response.body["detail"], "요청이 올바르지 않습니다.");
    assert_eq!(
        response.body["errors"],
        json!({ "stock": ["유효한 정수를 입력하세요."] })
    );

    let list = |query: &str| {
        let request = server.request(Method::GET, &format!("/api/products/{query}"));
        request.header(korean.0, korean.1)
    };
    let response = server.send(list("?page=2")).await;
    assert_eq!(response.body["detail"], "페이지가 유효하지 않습니다.");
    let response = server.send(list("?price=abc")).await;
    assert_eq!(response.body, json!({ "price": ["숫자를 입력하세요."] }));

    // Without the header the message is in English. Caches tell the two apart.
    let response = patch(&server, id, invalid, &[]).await;
    assert_eq!(
        response.body["stock"],
        json!(["A valid integer is required."])
    );
    assert_eq!(response.header("vary"), "Accept, Accept-Language");
}

#[tokio::test]
async fn a_busy_rejection_has_the_wording_of_drf_in_korean() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let korean = ("Accept-Language", "ko");
    let updated = patch(&server, id, json!({ "stock": 9 }), &[korean]).await;
    assert_eq!(updated.status, 200);

    let rejected = patch(&server, id, json!({ "stock": 8 }), &[korean]).await;
    assert_eq!(rejected.status, 429);
    let seconds = rejected.retry_after();
    assert_eq!(
        rejected.body["detail"],
        format!("요청이 제한되었습니다. {seconds} 초 후에 사용 가능합니다.")
    );
    assert_eq!(rejected.body["error"], "60초에 한 번만 수정할 수 있습니다.");
}
