//! Differences in the parsing of bodies.

use super::{Exception, Reason};
use crate::compare::Aspect::{Allow, Body, ContentType, Etag, Status};

pub(super) const REASONS: &[Reason] = &[
    Reason {
        why: "No product is that large, and a client without a limit could exhaust the memory of the server.",
        exceptions: &[Exception {
            cases: &[r#"PATCH ~15/ json {"name": "<<a*100000>>"}"#],
            differs_in: &[Status, Body],
            status: 413,
            body: r#"{
                "detail": "The request body is larger than 65536 bytes.",
                "code": "body_too_large"
            }"#,
        }],
    },
    Reason {
        why: "The parser builds nothing for unknown fields, so their depth costs no memory. A request must not cause a 500.",
        exceptions: &[
            Exception {
                cases: &["PATCH ~17/ json <<[*30000>>"],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 400,
                body: r#"{"detail": "JSON parse error - no end"}"#,
            },
            Exception {
                cases: &["PATCH ~17/ json <<[*30000>><<]*30000>>"],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 400,
                body: r#"{
                    "non_field_errors": ["Invalid data. Expected a dictionary, but got list."]
                }"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~17/ json <<{"a":*5000>>1<<}*5000>>"#,
                    r#"PATCH ~17/ json {"unknown": <<[*30000>><<]*30000>>}"#,
                ],
                differs_in: &[Status, ContentType, Allow, Etag, Body],
                status: 200,
                body: r#"{"id": 17, "…": ""}"#,
            },
        ],
    },
    Reason {
        why: "The limit is Python's own. The number is valid JSON and too large for the field.",
        exceptions: &[Exception {
            cases: &[r#"PATCH ~13/ json {"stock": <<9*4301>>}"#],
            differs_in: &[Body],
            status: 400,
            body: r#"{"stock": ["Ensure this value is less than or equal to 2147483647."]}"#,
        }],
    },
    Reason {
        why: "Half a surrogate pair is not a character. No field and neither database can store it.",
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
        why: "Text that is decoded with another charset is other text. JSON between programs is UTF-8 (RFC 8259), and forms are UTF-8 today.",
        exceptions: &[
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text {"name": "caf<<x e9>>"} | Content-Type: application/json; charset=latin-1"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"application/json; charset=latin-1\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text {"name": "caf<<x e9>>"} | Content-Type: application/json; charset=iso-8859-1"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"application/json; charset=iso-8859-1\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text {"name": "é"} | Content-Type: application/json; charset=nonsense"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"application/json; charset=nonsense\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~19/ text <<x 7b 00 7d 00>> | Content-Type: application/json; charset=utf-16"#,
                ],
                differs_in: &[Status, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"application/json; charset=utf-16\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text {"name": "é"} | Content-Type: application/json; charset=us-ascii"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: r#"{"name": "é", "…": ""}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text name=caf%E9 | Content-Type: application/x-www-form-urlencoded; charset=latin-1"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"application/x-www-form-urlencoded; charset=latin-1\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text stock=25 | Content-Type: application/x-www-form-urlencoded; charset=nonsense"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"application/x-www-form-urlencoded; charset=nonsense\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text _charset_=euc-kr&stock=1 | Content-Type: application/x-www-form-urlencoded"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"euc-kr\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="name"<<crlf>>Content-Type: text/plain; charset=latin-1<<crlf>><<crlf>>caf<<x e9>><<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported media type \"text/plain; charset=latin-1\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text name=caf<<x e9>> | Content-Type: application/x-www-form-urlencoded"#,
                    r#"PATCH ~{own}/ form name=%ff%fe"#,
                    r#"PATCH ~{own}/ form name=<<x ff fe>>"#,
                    r#"PATCH ~{own}/ form name=%ED%A0%80"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 400,
                body: r#"{"detail": "Form parse error - the text is not UTF-8"}"#,
            },
            Exception {
                cases: &[r#"PATCH ~{own}/ multipart name=<<x ff fe>>"#],
                differs_in: &[Status, Etag, Body],
                status: 400,
                body: r#"{"detail": "Multipart form parse error - the text is not UTF-8"}"#,
            },
        ],
    },
    Reason {
        why: "A compressed body that is read as it is changes nothing, or stores nonsense.",
        exceptions: &[Exception {
            cases: &[
                r#"PATCH ~{own}/ text {"stock": 9} | Content-Type: application/json | Content-Encoding: gzip"#,
            ],
            differs_in: &[Status, Etag, Body],
            status: 415,
            body: r#"{"detail": "Unsupported content encoding \"gzip\" in request."}"#,
        }],
    },
    Reason {
        why: "A body has one type. Wildcards belong in `Accept`.",
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
        why: "The framing of a body does not change its content.",
        exceptions: &[Exception {
            cases: &[
                r#"PATCH ~{own}/ text b<<crlf>>{"stock":9}<<crlf>>0<<crlf>><<crlf>> | Content-Type: application/json | Transfer-Encoding: chunked"#,
            ],
            differs_in: &[Etag, Body],
            status: 200,
            body: r#"{"stock": 9, "…": ""}"#,
        }],
    },
    Reason {
        why: "Names of media types and of their parameters are case-insensitive (RFC 9110).",
        exceptions: &[Exception {
            cases: &[
                r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>29<<crlf>>--B--<<crlf>> | Content-Type: Multipart/Form-Data; Boundary=B"#,
            ],
            differs_in: &[Status, Etag, Body],
            status: 200,
            body: r#"{"stock": 29, "…": ""}"#,
        }],
    },
    Reason {
        why: "An incomplete request is not the request: the missing or damaged field may be the one that matters.",
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
        why: "RFC 7578 advises against the first three, and no common client sends the last.",
        exceptions: &[
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>>Content-Transfer-Encoding: base64<<crlf>><<crlf>>Mzc=<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 415,
                body: r#"{"detail": "Unsupported content encoding \"base64\" in request."}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"<<crlf>>Content-Transfer-Encoding: quoted-printable<<crlf>><<crlf>>=39<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                ],
                differs_in: &[Status, Body],
                status: 415,
                body: r#"{"detail": "Unsupported content encoding \"quoted-printable\" in request."}"#,
            },
            Exception {
                cases: &[
                    "PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name*=UTF-8''stock<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B",
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; NAME="stock"<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                ],
                differs_in: &[Etag, Body],
                status: 200,
                body: r#"{"stock": 0, "version": 1, "…": ""}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>Content-Disposition: form-data; name="stock"; filename*=UTF-8''a.txt<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: r#"{"stock": 9, "…": ""}"#,
            },
        ],
    },
    Reason {
        why: "The size of a request is already limited: 64 KiB of headers, 64 KiB of body.",
        exceptions: &[
            Exception {
                cases: &[
                    "PATCH ~{own}/ form <<a=1&*1000>>stock=9",
                    "PATCH ~{own}/ form <<&*20000>>stock=9",
                ],
                differs_in: &[Status, ContentType, Allow, Etag, Body],
                status: 200,
                body: r#"{"stock": 9, "…": ""}"#,
            },
            Exception {
                cases: &["GET ~?page_size=1&<<a&*1001>>"],
                differs_in: &[Status, ContentType, Allow, Body],
                status: 200,
                body: r#"{"count": 24, "…": ""}"#,
            },
            Exception {
                cases: &["GET ~1/ | Accept: <<a/b,*1000>>application/json"],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: r#"{"id": 1, "…": ""}"#,
            },
            Exception {
                cases: &[
                    r#"PATCH ~{own}/ text --B<<crlf>>X-Header: <<a*2000>><<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>9<<crlf>>--B--<<crlf>> | Content-Type: multipart/form-data; boundary=B"#,
                    r#"PATCH ~{own}/ text --<<b*300>><<crlf>>Content-Disposition: form-data; name="stock"<<crlf>><<crlf>>9<<crlf>>--<<b*300>>--<<crlf>> | Content-Type: multipart/form-data; boundary=<<b*300>>"#,
                ],
                differs_in: &[Status, Etag, Body],
                status: 200,
                body: r#"{"stock": 9, "…": ""}"#,
            },
        ],
    },
];
