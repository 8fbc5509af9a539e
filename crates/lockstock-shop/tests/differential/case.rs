//! The requests of the tables in `cases/`.
//!
//! One request a line: method, target, and, if it has a body, the kind of the body and the body.
//! Indented lines below it are further headers. `#` begins a comment.
//!
//! ```text
//! PATCH ~13/ json {"stock": 9}
//! PATCH ~13/ multipart stock=9 & name@photo.png=the bytes of a file
//! GET ~{new}/
//!   Accept: text/html
//! ```
//!
//! | written | sent |
//! |---|---|
//! | `~` at the start of a target | `/api/products/` |
//! | `{new}` in a target | the id of the last created product |
//! | `{own}` in a target | the id of a product created for this case and deleted after it |
//! | `json`, `form`, `multipart` | the body with its `Content-Type` |
//! | `text` | the body without a `Content-Type`, unless one follows |
//! | `<<a*201>>` | `a`, 201 times |
//! | `<<x ff fe>>` | these bytes |
//! | `<<crlf>>` | CR and LF |
//!
//! A write that succeeds on only one of the servers needs a product of its own: on a shared
//! product the versions would differ from then on.

/// The first table creates the products that the others read.
const TABLES: [(&str, &str); 10] = [
    ("start.txt", include_str!("cases/start.txt")),
    ("numbers.txt", include_str!("cases/numbers.txt")),
    ("names.txt", include_str!("cases/names.txt")),
    ("bodies.txt", include_str!("cases/bodies.txt")),
    ("media.txt", include_str!("cases/media.txt")),
    ("accept.txt", include_str!("cases/accept.txt")),
    ("routes.txt", include_str!("cases/routes.txt")),
    ("lists.txt", include_str!("cases/lists.txt")),
    ("filters.txt", include_str!("cases/filters.txt")),
    ("hostile.txt", include_str!("cases/hostile.txt")),
];

/// The requests to servers that require keys.
const ACCESS: [(&str, &str); 1] = [("access.txt", include_str!("cases/access.txt"))];

const BOUNDARY: &str = "b-o-u-n-d-a-r-y";

/// The language that the client prefers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Language {
    English,
    Korean,
}

/// One request.
pub(crate) struct Case {
    /// The line and its headers, separated by ` | `. The tables of differences use this name.
    pub(crate) name: String,
    /// Table and line number.
    pub(crate) position: String,
    pub(crate) method: &'static str,
    target: &'static str,
    kind: &'static str,
    body: &'static str,
    headers: Vec<&'static str>,
}

/// Returns the cases of all tables for servers without keys, in order.
pub(crate) fn all() -> Vec<Case> {
    parse(&TABLES)
}

/// Returns the cases for servers that require keys.
pub(crate) fn with_keys() -> Vec<Case> {
    parse(&ACCESS)
}

fn parse(tables: &[(&str, &'static str)]) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for &(table, text) in tables {
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(header) = line.strip_prefix("  ") {
                let case = cases.last_mut().expect("a header belongs to a request");
                case.name += &format!(" | {header}");
                case.headers.push(header);
                continue;
            }
            let mut words = line.splitn(4, ' ');
            let mut next = || words.next().unwrap_or("");
            cases.push(Case {
                name: line.into(),
                position: format!("{table}:{}", index + 1),
                method: next(),
                target: next(),
                kind: next(),
                body: next(),
                headers: Vec::new(),
            });
        }
    }
    cases
}

impl Case {
    /// Returns whether the case needs a product of its own.
    pub(crate) fn needs_own_product(&self) -> bool {
        self.target.contains("{own}")
    }

    /// Returns the bytes of the request, with these ids for `{new}` and `{own}`.
    pub(crate) fn bytes(&self, new: &str, own: &str, language: Language) -> Vec<u8> {
        let target = match self.target.strip_prefix('~') {
            Some(rest) => format!("/api/products/{rest}"),
            None => self.target.into(),
        };
        let (content_type, body) = self.content();
        let mut bytes = format!("{} ", self.method).into_bytes();
        bytes.extend(expand(&target.replace("{new}", new).replace("{own}", own)));
        bytes.extend(b" HTTP/1.1\r\nConnection: close\r\n");
        for header in &self.headers {
            bytes.extend(expand(header));
            bytes.extend(b"\r\n");
        }
        // Both servers get the same host, so that their links are equal.
        for (name, default) in [("host", "shop.test"), ("accept", "*/*")] {
            if !self.has_header(name) {
                bytes.extend(format!("{name}: {default}\r\n").bytes());
            }
        }
        if language == Language::Korean {
            bytes.extend(b"Accept-Language: ko\r\n");
        }
        if let Some(content_type) = content_type {
            bytes.extend(format!("Content-Type: {content_type}\r\n").bytes());
        }
        if let Some(body) = &body
            && !self.has_header("transfer-encoding")
        {
            bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body.unwrap_or_default());
        bytes
    }

    fn has_header(&self, header: &str) -> bool {
        self.headers.iter().any(|line| {
            let name = line.split(':').next().unwrap_or_default();
            name.eq_ignore_ascii_case(header)
        })
    }

    fn content(&self) -> (Option<String>, Option<Vec<u8>>) {
        let typed = |content_type: &str, body| (Some(content_type.to_owned()), Some(body));
        match self.kind {
            "" => (None, None),
            "text" => (None, Some(expand(self.body))),
            "json" => typed("application/json", expand(self.body)),
            "form" => typed("application/x-www-form-urlencoded", expand(self.body)),
            "multipart" => typed(
                &format!("multipart/form-data; boundary={BOUNDARY}"),
                multipart(self.body),
            ),
            other => panic!("{}: unknown kind of body {other:?}", self.position),
        }
    }
}

/// Encodes `name=text & name@file=bytes` as parts.
fn multipart(fields: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields.split(" & ").filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').expect("a part has a value");
        let disposition = match name.split_once('@') {
            None => format!("name=\"{name}\"\r\n"),
            Some((name, file)) => format!(
                "name=\"{name}\"; filename=\"{file}\"\r\nContent-Type: application/octet-stream\r\n"
            ),
        };
        bytes.extend(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n").bytes(),
        );
        bytes.extend(expand(value));
        bytes.extend(b"\r\n");
    }
    bytes.extend(format!("--{BOUNDARY}--\r\n").bytes());
    bytes
}

/// Expands the `<<…>>` of the tables.
fn expand(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<<") {
        let (inner, after) = after.split_once(">>").expect("<< has a >>");
        bytes.extend(before.bytes());
        if inner == "crlf" {
            bytes.extend(b"\r\n");
        } else if let Some(digits) = inner.strip_prefix("x ") {
            let byte = |pair| u8::from_str_radix(pair, 16).expect("two hexadecimal digits");
            bytes.extend(digits.split(' ').map(byte));
        } else {
            let (unit, times) = inner.rsplit_once('*').expect("text * times");
            bytes.extend(
                unit.repeat(times.parse().expect("a number of times"))
                    .bytes(),
            );
        }
        rest = after;
    }
    bytes.extend(rest.bytes());
    bytes
}
