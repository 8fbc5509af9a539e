//! The entity tags of products (RFC 9110, section 8.8.3).

use axum::http::HeaderValue;

/// The entity tag of a product: its version and, while some of it is held, how many. Strong,
/// because two answers with one tag are the same.
pub(crate) fn etag(version: i64, held: i64) -> HeaderValue {
    let tag = match held {
        0 => format!("\"{version}\""),
        held => format!("\"{version}.{held}\""),
    };
    // Digits, a dot and quotes are always a header value.
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// The version in a tag of ours. How many were held is nothing that a change could undo.
pub(crate) fn parse_version(tag: &str) -> Option<i64> {
    let text = tag.strip_prefix('"')?.strip_suffix('"')?;
    let (version, held) = text.split_once('.').unwrap_or((text, "0"));
    let (version, held) = (version.parse().ok()?, held.parse().ok()?);
    // Only as we write it: "+3" and "03" are other tags.
    (etag(version, held).as_bytes() == tag.as_bytes()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_a_tag_as_we_write_it_and_from_no_other() {
        for (tag, is) in [("\"3\"", 3), ("\"3.2\"", 3), ("\"17\"", 17)] {
            assert_eq!(parse_version(tag), Some(is), "{tag}");
        }
        assert_eq!(
            (etag(3, 0), etag(3, 2)),
            ("\"3\"".parse().unwrap(), "\"3.2\"".parse().unwrap())
        );
        for none in [
            "\"a,*,b\"",
            "W/\"3\"",
            "3",
            "\"03\"",
            "\"+3\"",
            "\"3.0\"",
            "\"3.\"",
            "\"3.01\"",
            "\"abc\"",
            "",
            "\"",
        ] {
            assert_eq!(parse_version(none), None, "{none}");
        }
    }
}
