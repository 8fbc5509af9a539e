//! Where we mean to answer otherwise than Django REST framework, and why.
//!
//! Each entry is checked three ways: every case in it must exist, must differ in exactly these
//! aspects, and our answer must be the one written here.

use crate::compare::Aspect::{self, Allow, Body, ContentType, Status, Vary};

/// Cases that differ in the same way for the same reason.
pub(crate) struct Difference {
    pub(crate) why: &'static str,
    pub(crate) cases: &'static [&'static str],
    pub(crate) differs_in: &'static [Aspect],
    /// Ours.
    pub(crate) status: u16,
    /// Ours, as JSON. Not looked at if empty.
    pub(crate) body: &'static str,
}

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        why: "Django answers an address that it does not know with an HTML page",
        cases: &[
            "GET ~1//",
            "GET //api/products/",
            "GET /api//products/",
            "GET /API/products/",
            "GET /api/Products/",
            "GET /api/product/",
            "GET /api/",
            "GET /api",
            "GET /nowhere/",
            "GET /nowhere",
            "POST /nowhere/ json {}",
            "GET ~1/nowhere/",
            "GET ~1.0/",
            "GET ~1.5/",
            "GET ~1.json",
            "GET ~1%2F/",
            "GET ~../products/1/",
            "GET ~./",
            "OPTIONS /nowhere/",
            "FOO /nowhere/",
        ],
        differs_in: &[ContentType, Body],
        status: 404,
        body: r#"{"detail": "Not found."}"#,
    },
    Difference {
        why: "the same, and HEAD has no body to differ in",
        cases: &["HEAD /nowhere/"],
        differs_in: &[ContentType],
        status: 404,
        body: "",
    },
    Difference {
        why: "301 makes clients forget the method and the body; 308 keeps both",
        cases: &[
            "GET ~1",
            "GET ~1?a=b",
            "GET /api/products",
            "GET /api/products?page=2",
            r#"POST /api/products json {"name": "n", "price": 1}"#,
            r#"PATCH ~1 json {"stock": 9}"#,
            r#"PUT ~1 json {"stock": 9}"#,
            "DELETE ~1",
            "OPTIONS ~1",
            "HEAD ~1",
        ],
        differs_in: &[Status, ContentType],
        status: 308,
        body: "",
    },
    Difference {
        why: "Django falls over JSON that is nested too deep, with an HTML page and a 500",
        cases: &[
            "PATCH ~17/ json <<[*30000>><<]*30000>>",
            "PATCH ~17/ json <<[*30000>>",
            r#"PATCH ~17/ json <<{"a":*5000>>1<<}*5000>>"#,
        ],
        differs_in: &[Status, ContentType, Allow, Vary, Body],
        status: 400,
        body: r#"{"detail": "JSON parse error - too deep"}"#,
    },
    Difference {
        why: "we read no body over 64 KiB",
        cases: &[r#"PATCH ~15/ json {"name": "<<a*100000>>"}"#],
        differs_in: &[Status, Body],
        status: 413,
        body: "",
    },
    Difference {
        why: "media types have no case; Django finds the multipart parser and then loses it",
        cases: &[
            r#"PATCH ~{new}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>29<<crlf>>--B--<<crlf>> | Content-Type: Multipart/Form-Data; Boundary=B"#,
        ],
        differs_in: &[Status, Aspect::Etag, Body],
        status: 200,
        body: "",
    },
    Difference {
        why: "a product is not a problem: only errors are application/problem+json",
        cases: &["GET ~1/ | Accept: application/problem+json"],
        differs_in: &[ContentType],
        status: 200,
        body: "",
    },
    Difference {
        why: "an error as problem+json has the members of RFC 9457",
        cases: &["GET ~9999/ | Accept: application/problem+json"],
        differs_in: &[Body],
        status: 404,
        body: r#"{
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "No Product matches the given query."
        }"#,
    },
    Difference {
        why: "the same for a refused field, whose messages are members beside them",
        cases: &[r#"PATCH ~20/ json {"stock": -1} | Accept: application/problem+json"#],
        differs_in: &[Body],
        status: 400,
        body: "",
    },
    Difference {
        why: "we keep the caller's precondition, of which Django knows nothing",
        cases: &[r#"PATCH ~{new}/ json {"stock": 3} | If-Match: "1""#],
        differs_in: &[Status, Aspect::Etag, Body],
        status: 412,
        body: "",
    },
];
