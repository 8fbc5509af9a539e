//! Differences in URLs, headers and lists.

use super::{Exception, Reason};
use crate::compare::Aspect::{Allow, Body, ContentType, Etag, Promises, Status, Vary};

pub(super) const REASONS: &[Reason] = &[
    Reason {
        why: "After a 301 most clients repeat a PATCH as a GET, without its body. After a 308 they repeat the PATCH.",
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
        why: "A program that reads JSON should not have to parse HTML in order to handle an error.",
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
                // The response to HEAD has no body.
                cases: &["HEAD /nowhere/"],
                differs_in: &[ContentType],
                status: 404,
                body: "",
            },
            Exception {
                // A product has no POST, whatever its id.
                cases: &["POST ~1%2F/ json {}"],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 405,
                body: r#"{"detail": "Method \"POST\" not allowed."}"#,
            },
        ],
    },
    Reason {
        why: "The URL identifies one product. A filter that hides it, or a DELETE that fails because of a search, is a surprise.",
        exceptions: &[
            Exception {
                cases: &[
                    "GET ~1/?price=999",
                    "GET ~1/?price=abc",
                    "GET ~1/?search=nothing",
                    "GET ~1/?search=%00",
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: r#"{"id": 1, "…": ""}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/?price=999 json {"stock": 5}"#,
                    r#"PATCH ~{own}/?price=abc json {"stock": 5}"#,
                    r#"PATCH ~{own}/?search=nothing json {"stock": 5}"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: r#"{"name": "its own", "stock": 5, "…": ""}"#,
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
                body: r#"{"name": "Product Instance", "actions": {"PUT": {"…": ""}}, "…": ""}"#,
            },
        ],
    },
    Reason {
        why: "A price of 100 is not 100.5, and 0 is less than 0.5.",
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
                cases: &["GET ~?price__gte=2200.5"],
                differs_in: &[Body],
                status: 200,
                body: r#"{"count": 3, "…": ""}"#,
            },
            Exception {
                cases: &["GET ~?price__lt=100.5"],
                differs_in: &[Body],
                status: 200,
                body: r#"{"count": 2, "…": ""}"#,
            },
            Exception {
                cases: &["GET ~?price__gt=-0.5"],
                differs_in: &[Body],
                status: 200,
                body: r#"{"count": 24, "…": ""}"#,
            },
            Exception {
                cases: &["GET ~?price__lt=0.5"],
                differs_in: &[Body],
                status: 200,
                body: r#"{"count": 1, "…": ""}"#,
            },
        ],
    },
    Reason {
        why: "Programs write ASCII digits. Numbers that look alike but differ are a trap.",
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
                body: r#"{"next": "http://shop.test/api/products/?page=2&page_size=%EF%BC%95", "…": ""}"#,
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
        why: "There is one format, and clients negotiate with `Accept`.",
        exceptions: &[Exception {
            cases: &["GET ~1/?format=api", "GET ~1/?format=xml"],
            differs_in: &[Status, Etag, Body],
            status: 200,
            body: r#"{"id": 1, "…": ""}"#,
        }],
    },
    Reason {
        why: "A product is not a problem, and a client that accepts problem details can read them.",
        exceptions: &[
            Exception {
                cases: &["GET ~1/ | Accept: application/problem+json"],
                differs_in: &[ContentType],
                status: 200,
                body: r#"{"id": 1, "…": ""}"#,
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
        why: "The client names the version that it changes. Overwriting another version is the lost update that the header prevents.",
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
        why: "Each term adds a condition to the query, and SQLite accepts at most 1000.",
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
        why: "Only the links need a host. The rest of the response is correct without it.",
        exceptions: &[Exception {
            cases: &[
                "GET ~?page_size=3 | Host: bad host",
                "GET ~?page_size=3 | Host: shop/path",
                "GET ~?page_size=3 | Host: user@shop",
                "GET ~?page_size=3 | Host:",
            ],
            differs_in: &[Status, ContentType, Allow, Body],
            status: 200,
            body: r#"{"next": "http://localhost/api/products/?page=2&page_size=3", "…": ""}"#,
        }],
    },
    Reason {
        why: "A proxy that checks or logs URLs must see the same path as the server.",
        exceptions: &[Exception {
            cases: &[
                "GET /%61pi/products/1/",
                "GET /api%2Fproducts/1/",
                "GET /api/products%2F1/",
            ],
            differs_in: &[Status, Allow, Etag, Body],
            status: 404,
            body: r#"{"detail": "Not found."}"#,
        }],
    },
    Reason {
        why: "These characters are not valid in a URL (RFC 3986), and each HTTP library decides about them before the API sees the request. Clients that encode them see no difference.",
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
                body: r#"{"count": 1, "…": ""}"#,
            },
        ],
    },
];
