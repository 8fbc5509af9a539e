//! Entity tags of products (RFC 9110, section 8.8.3).

use axum::http::HeaderValue;
use lockstock_http::EntityTag;

/// Builds the entity tag of a product: its version and, while stock is reserved, how much.
/// The tag is strong because two responses with the same tag have the same body.
pub(crate) fn format(version: i64, held: i64) -> HeaderValue {
    let tag = match held {
        0 => format!("\"{version}\""),
        held => format!("\"{version}.{held}\""),
    };
    // Digits, a dot and quotes are always a header value.
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// Returns the version in a tag that [`format`] built. The reserved stock is ignored: an update of
/// the product does not overwrite it. So is `W/`, which a proxy that compresses adds: the version
/// still identifies all that an update overwrites.
pub(crate) fn version(tag: &EntityTag) -> Option<i64> {
    let text = str::from_utf8(tag.opaque()).ok()?;
    let (version, held) = text.split_once('.').unwrap_or((text, "0"));
    let (version, held) = (version.parse().ok()?, held.parse().ok()?);
    // `parse` also accepts "+3" and "03", which are other tags.
    let formatted = EntityTag::parse(format(version, held).as_bytes())?;
    (formatted.opaque() == tag.opaque()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_parsed_only_from_a_tag_as_it_is_formatted() {
        let parsed = |tag: &str| version(&EntityTag::parse(tag.as_bytes()).unwrap());
        for (tag, version) in [("\"3\"", 3), ("\"3.2\"", 3), ("W/\"17\"", 17)] {
            assert_eq!(parsed(tag), Some(version), "{tag}");
        }
        assert_eq!(
            (format(3, 0), format(3, 2)),
            ("\"3\"".parse().unwrap(), "\"3.2\"".parse().unwrap())
        );
        for invalid in [
            "\"a,*,b\"",
            "\"03\"",
            "\"+3\"",
            "\"3.0\"",
            "\"3.\"",
            "\"3.01\"",
            "\"abc\"",
            "\"\"",
            "\"3-gzip\"",
        ] {
            assert_eq!(parsed(invalid), None, "{invalid}");
        }
    }
}
