//! Intended differences from Django REST framework, with their reasons.
//!
//! Each exception is checked three ways: its cases must exist, the responses must differ in exactly
//! these aspects, and Lockstock's response must be the one given here. The reasons are the rows of
//! `docs/differences.md`, in the same order.

#[path = "differences/bodies.rs"]
mod bodies;
#[path = "differences/requests.rs"]
mod requests;

use crate::compare::Aspect;

/// A reason and the responses that differ because of it.
pub(crate) struct Reason {
    /// The last cell of its row in `docs/differences.md`.
    pub(crate) why: &'static str,
    pub(crate) exceptions: &'static [Exception],
}

/// Cases that differ in the same way.
pub(crate) struct Exception {
    pub(crate) cases: &'static [&'static str],
    /// Exactly the aspects that differ.
    pub(crate) differs_in: &'static [Aspect],
    /// Status of Lockstock's response.
    pub(crate) status: u16,
    /// Body of Lockstock's response as JSON, empty if it has none. A member "…" matches any others.
    pub(crate) body: &'static str,
}

/// The sentences of the tables, and their Korean. A text that is not listed has no translation.
const KOREAN: &[(&str, &str)] = &[
    ("Not found.", "찾을 수 없습니다."),
    ("Invalid page.", "페이지가 유효하지 않습니다."),
    (
        r#"Method \"POST\" not allowed."#,
        r#"메서드 \"POST\"는 허용되지 않습니다."#,
    ),
    ("A valid integer is required.", "유효한 정수를 입력하세요."),
    (
        "Ensure this value is greater than or equal to 0.",
        "이 값이 0보다 크거나 같은지 확인하세요.",
    ),
    (
        "Ensure this value is less than or equal to 2147483647.",
        "이 값이 2147483647보다 작거나 같은지 확인하세요.",
    ),
    (
        "Invalid data. Expected a dictionary, but got list.",
        "유효하지 않은 데이터. 딕셔너리(dictionary)대신 list를 받았습니다.",
    ),
    ("Enter a number.", "숫자를 입력하세요."),
    ("The search is too long.", "검색어가 너무 깁니다."),
    ("The request is not valid.", "요청이 올바르지 않습니다."),
    (
        "The request body is larger than 65536 bytes.",
        "요청 본문이 65536바이트보다 큽니다.",
    ),
    (
        "The product was changed in the meantime: it is at version 3 now.",
        "그 사이에 상품이 변경되었습니다. 현재 버전은 3입니다.",
    ),
];

/// The sentences with an argument: what is before it and behind it, in English and in Korean.
const KOREAN_WITH_ARGUMENT: &[[(&str, &str); 2]] = &[
    [
        ("Unsupported media type ", "요청된 "),
        (" in request.", "가 지원되지 않는 미디어 형태입니다."),
    ],
    [
        (
            "Unsupported content encoding ",
            "지원하지 않는 콘텐츠 인코딩 ",
        ),
        (" in request.", "입니다."),
    ],
];

/// Returns the body of an [`Exception`] in Korean.
pub(crate) fn in_korean(body: &str) -> String {
    let mut body = body.to_owned();
    for (english, korean) in KOREAN {
        body = body.replace(english, korean);
    }
    for [before, behind] in KOREAN_WITH_ARGUMENT {
        if body.contains(before.0) {
            body = body.replace(before.0, before.1).replace(behind.0, behind.1);
        }
    }
    body
}

/// Returns every reason in the order of the document.
pub(crate) fn reasons() -> impl Iterator<Item = &'static Reason> {
    requests::REASONS.iter().chain(bodies::REASONS)
}
