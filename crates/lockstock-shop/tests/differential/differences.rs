//! Where we mean to answer otherwise than Django REST framework, and why.
//!
//! Each exception is checked three ways: its cases must exist, must differ in exactly these
//! aspects, and our answer must be the one written here. The reasons are the rows of
//! `docs/differences.md`, in the same order.

use crate::compare::Aspect::{self, Allow, Body, ContentType, Etag, Promises, Status, Vary};

/// Why some answers differ, and which.
pub(crate) struct Reason {
    /// The last cell of its row in `docs/differences.md`.
    pub(crate) why: &'static str,
    pub(crate) exceptions: &'static [Exception],
}

/// Cases that differ in the same way.
pub(crate) struct Exception {
    pub(crate) cases: &'static [&'static str],
    /// All that differs, and nothing else.
    pub(crate) differs_in: &'static [Aspect],
    /// Ours.
    pub(crate) status: u16,
    /// Ours, as JSON. Not looked at if empty.
    pub(crate) body: &'static str,
}

pub(crate) const REASONS: &[Reason] = &[
    Reason {
        why: "After a 301 most clients repeat a PATCH as a GET, without its body. After a 308 none does.",
        exceptions: &[Exception {
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
        }],
    },
    Reason {
        why: "A program that reads JSON should not have to read HTML when something is wrong.",
        exceptions: &[
            Exception {
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
                    "GET ~%2E/",
                    "GET ~1%2E0/",
                    "GET ~%2E%2E/products/1/",
                    "DELETE ~1%2E0/",
                ],
                differs_in: &[ContentType, Body],
                status: 404,
                body: r#"{"detail": "Not found."}"#,
            },
            Exception {
                // It has no body to differ in.
                cases: &["HEAD /nowhere/"],
                differs_in: &[ContentType],
                status: 404,
                body: "",
            },
            Exception {
                // Whatever the id would be, there is no POST to it.
                cases: &["POST ~1%2F/ json {}"],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 405,
                body: r#"{"detail": "Method \"POST\" not allowed."}"#,
            },
        ],
    },
    Reason {
        why: "The address names one product. A filter that hides it, or a DELETE that fails because of a search, surprises everybody.",
        exceptions: &[
            Exception {
                cases: &[
                    "GET ~1/?price=999",
                    "GET ~1/?price=abc",
                    "GET ~1/?search=nothing",
                    "GET ~1/?search=%00",
                    r#"PATCH ~{own}/?price=999 json {"stock": 5}"#,
                    r#"PATCH ~{own}/?price=abc json {"stock": 5}"#,
                    r#"PATCH ~{own}/?search=nothing json {"stock": 5}"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: "",
            },
            Exception {
                cases: &["DELETE ~{own}/?price=999", "DELETE ~{own}/?search=nothing"],
                differs_in: &[Status, ContentType, Body],
                status: 204,
                body: "",
            },
            Exception {
                cases: &["GET ~9999/?price=abc"],
                differs_in: &[Status, Body],
                status: 404,
                body: r#"{"detail": "No Product matches the given query."}"#,
            },
            Exception {
                cases: &["GET ~abc/?price=abc"],
                differs_in: &[Status, Body],
                status: 404,
                body: r#"{"detail": "Not found."}"#,
            },
            Exception {
                cases: &["PATCH ~1/?price=abc json {broken"],
                differs_in: &[Body],
                status: 400,
                body: r#"{"detail": "JSON parse error - broken"}"#,
            },
            Exception {
                cases: &["OPTIONS ~1/?price=abc"],
                differs_in: &[Body],
                status: 200,
                body: "",
            },
        ],
    },
    Reason {
        why: "A product that costs 100 does not cost 100.5, and 0 is less than 0.5.",
        exceptions: &[
            Exception {
                cases: &[
                    "GET ~?price=100.5",
                    "GET ~?price=-0.9",
                    "GET ~?price=1e-400",
                    "GET ~?price=0.<<0*3000>>1",
                ],
                differs_in: &[Body],
                status: 200,
                body: r#"{"count": 0, "next": null, "previous": null, "results": []}"#,
            },
            Exception {
                cases: &[
                    "GET ~?price__gte=2200.5",
                    "GET ~?price__lt=100.5",
                    "GET ~?price__gt=-0.5",
                    "GET ~?price__lt=0.5",
                ],
                differs_in: &[Body],
                status: 200,
                body: "",
            },
        ],
    },
    Reason {
        why: "Nobody types them into an API, and a number that looks like another one is a trap.",
        exceptions: &[
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ json {"stock": "９.0"}"#,
                    r#"PATCH ~{own}/ json {"stock": "９"}"#,
                    r#"PATCH ~{own}/ json {"stock": "٩"}"#,
                    r#"PATCH ~{own}/ json {"stock": "९९"}"#,
                    r#"PATCH ~{own}/ json {"stock": "𝟗"}"#,
                    "PATCH ~{own}/ form stock=%EF%BC%99",
                ],
                differs_in: &[Status, Etag, Body],
                status: 400,
                body: r#"{"stock": ["A valid integer is required."]}"#,
            },
            Exception {
                cases: &[r#"PATCH ~13/ json {"stock": "<<９*1000>>"}"#],
                differs_in: &[Body],
                status: 400,
                body: r#"{"stock": ["A valid integer is required."]}"#,
            },
            Exception {
                cases: &["GET ~%EF%BC%91/", "GET ~%D9%A1/"],
                differs_in: &[Status, Etag, Body],
                status: 404,
                body: r#"{"detail": "Not found."}"#,
            },
            Exception {
                cases: &["GET ~?page=%EF%BC%91"],
                differs_in: &[Status, Body],
                status: 404,
                body: r#"{"detail": "Invalid page."}"#,
            },
            Exception {
                cases: &["GET ~?page_size=%EF%BC%95"],
                differs_in: &[Body],
                status: 200,
                body: "",
            },
            Exception {
                cases: &["GET ~?price=%EF%BC%91%EF%BC%90%EF%BC%90"],
                differs_in: &[Status, Body],
                status: 400,
                body: r#"{"price": ["Enter a number."]}"#,
            },
        ],
    },
    Reason {
        why: "There is one format. What a client reads it says in `Accept`.",
        exceptions: &[Exception {
            cases: &["GET ~1/?format=api", "GET ~1/?format=xml"],
            differs_in: &[Status, Etag, Body],
            status: 200,
            body: "",
        }],
    },
    Reason {
        why: "A product is not a problem, and a client that names problem details can read them.",
        exceptions: &[
            Exception {
                cases: &["GET ~1/ | Accept: application/problem+json"],
                differs_in: &[ContentType],
                status: 200,
                body: "",
            },
            Exception {
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
            Exception {
                cases: &["GET ~9999/ | Accept: application/json, application/problem+json"],
                differs_in: &[ContentType, Body],
                status: 404,
                body: r#"{
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "No Product matches the given query."
                }"#,
            },
            Exception {
                cases: &[r#"PATCH ~20/ json {"stock": -1} | Accept: application/problem+json"#],
                differs_in: &[Body],
                status: 400,
                body: r#"{
                    "type": "about:blank",
                    "title": "Bad Request",
                    "status": 400,
                    "detail": "The request is not valid.",
                    "errors": {"stock": ["Ensure this value is greater than or equal to 0."]}
                }"#,
            },
        ],
    },
    Reason {
        why: "The caller says which version it means to change; to write over another one is the lost update that the header is there to prevent.",
        exceptions: &[Exception {
            cases: &[r#"PATCH ~{new}/ json {"stock": 3} | If-Match: "1""#],
            differs_in: &[Status, Etag, Body],
            status: 412,
            body: r#"{
                "detail": "The product was changed in the meantime: it is at version 3 now.",
                "version": 3,
                "code": "precondition_failed"
            }"#,
        }],
    },
    Reason {
        why: "No product is that large, and whoever may send without end can fill a server up.",
        exceptions: &[Exception {
            cases: &[r#"PATCH ~15/ json {"name": "<<a*100000>>"}"#],
            differs_in: &[Status, Body],
            status: 413,
            body: r#"{
                "detail": "The request's body is larger than 65536 bytes.",
                "code": "body_too_large"
            }"#,
        }],
    },
    Reason {
        why: "A bad request is not the server's fault; and one bound for the depth is easier to keep than two.",
        exceptions: &[
            Exception {
                cases: &[
                    "PATCH ~17/ json <<[*30000>><<]*30000>>",
                    "PATCH ~17/ json <<[*30000>>",
                    r#"PATCH ~17/ json <<{"a":*5000>>1<<}*5000>>"#,
                ],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 400,
                body: r#"{"detail": "JSON parse error - too deep"}"#,
            },
            Exception {
                cases: &[r#"PATCH ~17/ json {"unknown": <<[*200>><<]*200>>}"#],
                differs_in: &[Status, Etag, Body],
                status: 400,
                body: r#"{"detail": "JSON parse error - too deep"}"#,
            },
        ],
    },
    Reason {
        why: "The limit is one of Python's conversion; ours has none, and the number is too large either way.",
        exceptions: &[Exception {
            cases: &[r#"PATCH ~13/ json {"stock": <<9*4301>>}"#],
            differs_in: &[Body],
            status: 400,
            body: r#"{"stock": ["Ensure this value is less than or equal to 2147483647."]}"#,
        }],
    },
    Reason {
        why: "Half a character is no text, and no field and no database here can hold one.",
        exceptions: &[
            Exception {
                cases: &[
                    r#"PATCH ~13/ json {"stock": "\ud8009"}"#,
                    r#"PATCH ~15/ json {"name": "lone \ud800 surrogate"}"#,
                    r#"PATCH ~15/ json {"name": "low \udc00"}"#,
                    r#"PATCH ~15/ json {"name": "swapped \udc00\ud800"}"#,
                    r#"PATCH ~15/ json {"name": "two \ud800 and \ud801"}"#,
                    r#"PATCH ~15/ json {"name": "\ud800<<a*201>>"}"#,
                    r#"PATCH ~15/ json {"name": "\ud800\u0000"}"#,
                    r#"PATCH ~15/ json {"description": "lone \ud800 surrogate"}"#,
                ],
                differs_in: &[Body],
                status: 400,
                body: r#"{"detail": "JSON parse error - half a character"}"#,
            },
            Exception {
                cases: &[r#"PATCH ~17/ json {"\ud800": 1}"#],
                differs_in: &[Status, Etag, Body],
                status: 400,
                body: r#"{"detail": "JSON parse error - half a character"}"#,
            },
        ],
    },
    Reason {
        why: "JSON between programs is UTF-8 (RFC 8259), and so are forms today.",
        exceptions: &[
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text {"name": "caf<<x e9>>"} | Content-Type: application/json; charset=latin-1"#,
                    r#"PATCH ~{own}/ text {"name": "caf<<x e9>>"} | Content-Type: application/json; charset=iso-8859-1"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 400,
                body: r#"{"detail": "JSON parse error - not UTF-8"}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text {"name": "é"} | Content-Type: application/json; charset=us-ascii"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: "",
            },
            Exception {
                cases: &[
                    "PATCH ~{own}/ text name=caf%E9 | Content-Type: application/x-www-form-urlencoded; charset=latin-1",
                ],
                differs_in: &[Body],
                status: 200,
                body: "",
            },
        ],
    },
    Reason {
        why: "A body has a type of its own; a wildcard belongs into `Accept`.",
        exceptions: &[
            Exception {
                cases: &[r#"PATCH ~{own}/ text {"stock": 20} | Content-Type: */*"#],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"*/*\" in request."}"#,
            },
            Exception {
                cases: &[r#"PATCH ~{own}/ text {"stock": 20} | Content-Type: application/*"#],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"application/*\" in request."}"#,
            },
        ],
    },
    Reason {
        why: "A body is a body, whether its length is known before or not.",
        exceptions: &[Exception {
            cases: &[
                r#"PATCH ~{own}/ text b<<crlf>>{"stock":9}<<crlf>>0<<crlf>><<crlf>> | Content-Type: application/json | Transfer-Encoding: chunked"#,
            ],
            differs_in: &[Etag, Body],
            status: 200,
            body: "",
        }],
    },
    Reason {
        why: "Names of media types and of their parameters have no case (RFC 9110).",
        exceptions: &[Exception {
            cases: &[
                r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>29<<crlf>>--B--<<crlf>> | Content-Type: Multipart/Form-Data; Boundary=B"#,
            ],
            differs_in: &[Status, Etag, Body],
            status: 200,
            body: "",
        }],
    },
    Reason {
        why: "Half of a request is not the request: what is cut off or garbled may be the very field that matters.",
        exceptions: &[
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>33 | Content-Type: multipart/form-data; boundary=B"#,
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>9<<crlf>>--B | Content-Type: multipart/form-data; boundary=B"#,
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>9<<crlf>>--Bextra<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                    r#"PATCH ~{own}/ text --B<<crlf>>No colon here<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                    r#"PATCH ~{own}/ text --B<<x 0a>>Content-Disposition: form-data; name="stock"<<x 0a>><<x 0a>>9<<x 0a>>--B--<<x 0a>> | Content-Type: multipart/form-data; boundary=B"#,
                    "PATCH ~{own}/ text --B<<crlf>><<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B",
                    r#"PATCH ~19/ text --B<<crlf>>Content-Disposition: form-data; name="stock" | Content-Type: multipart/form-data; boundary=B"#,
                    "PATCH ~19/ text --B<<crlf>><<crlf>>34<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B",
                    "PATCH ~19/ text not multipart at all | Content-Type: multipart/form-data; boundary=B",
                ],
                differs_in: &[Status, Etag, Body],
                status: 400,
                body: r#"{"detail": "Multipart form parse error - incomplete"}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~19/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>35<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=C"#,
                ],
                differs_in: &[Body],
                status: 400,
                body: r#"{"detail": "Multipart form parse error - incomplete"}"#,
            },
        ],
    },
    Reason {
        why: "RFC 7578 took these out of forms, and no client of an API sends them.",
        exceptions: &[
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>>Content-Transfer-Encoding: base64<<crlf>><<crlf>>Mzc=<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 400,
                body: r#"{"stock": ["A valid integer is required."]}"#,
            },
            Exception {
                cases: &[
                    "PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name*=UTF-8''stock<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B",
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; NAME="stock"<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                ],
                differs_in: &[Etag, Body],
                status: 200,
                body: "",
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"; filename*=UTF-8''a.txt<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: "",
            },
        ],
    },
    Reason {
        why: "What may be sent at all is bounded already: 64 KiB of headers and 64 KiB of body.",
        exceptions: &[
            Exception {
                cases: &[
                    "PATCH ~{own}/ form <<a=1&*1000>>stock=9",
                    "PATCH ~{own}/ form <<&*20000>>stock=9",
                ],
                differs_in: &[Status, ContentType, Allow, Etag, Body],
                status: 200,
                body: "",
            },
            Exception {
                cases: &["GET ~?page_size=1&<<a&*1001>>"],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 200,
                body: "",
            },
            Exception {
                cases: &["GET ~1/ | Accept: <<a/b,*1000>>application/json"],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: "",
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>X-Header: <<a*2000>><<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                    r#"PATCH ~{own}/ text --<<b*300>><<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>9<<crlf>>--<<b*300>>--<<crlf>> | Content-Type: multipart/form-data; boundary=<<b*300>>"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: "",
            },
        ],
    },
    Reason {
        why: "Each term is a scan of the table, and a database refuses what has too many of them.",
        exceptions: &[Exception {
            cases: &[
                "GET ~?search=<<a+*101>>",
                "GET ~?search=<<a,*101>>",
                "GET ~?search=<<%22a+*500>>",
            ],
            differs_in: &[Status, Body],
            status: 400,
            body: r#"["The search is too long."]"#,
        }],
    },
    Reason {
        why: "A link that nobody can follow is the caller's own affair; there is nothing to refuse.",
        exceptions: &[Exception {
            cases: &[
                "GET ~?page_size=3 | Host: bad host",
                "GET ~?page_size=3 | Host: shop/path",
                "GET ~?page_size=3 | Host: user@shop",
                "GET ~?page_size=3 | Host:",
            ],
            differs_in: &[Status, ContentType, Allow, Body],
            status: 200,
            body: "",
        }],
    },
    Reason {
        why: "Whoever checks or logs addresses in front of the server must see the same address that it sees.",
        exceptions: &[Exception {
            cases: &[
                "GET /%61pi/products/1/",
                "GET /api%2Fproducts/1/",
                "GET /api/products%2F1/",
            ],
            differs_in: &[Status, Allow, Vary, Etag, Body],
            status: 404,
            body: r#"{"detail": "Not found."}"#,
        }],
    },
    Reason {
        why: "They are no characters of an address (RFC 3986): clients encode them. What is no HTTP is refused before the API sees it, as gunicorn does.",
        exceptions: &[
            Exception {
                cases: &[
                    "GET ~?page_size=3&a=<b>",
                    r#"GET ~?page_size=3&a="q""#,
                    r#"GET ~?search=hello""#,
                    r#"GET ~?search=a"b+c"d"#,
                    r#"GET ~?search=<<"*1000>>"#,
                    "GET ~1`/",
                ],
                differs_in: &[Status, ContentType, Allow, Vary, Body, Promises],
                status: 400,
                body: "",
            },
            Exception {
                cases: &["GET ~사과/"],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 404,
                body: r#"{"detail": "Not found."}"#,
            },
            Exception {
                cases: &["GET ~?search=사과"],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 200,
                body: "",
            },
        ],
    },
];
