//! Parts of a `multipart` body without the boundary, for comparison only.

/// Returns the boundary of a `multipart` content type.
pub(super) fn boundary(content_type: &[u8]) -> Option<&[u8]> {
    let mut words = content_type
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii);
    let kind = words.next()?.get(..10)?;
    if !kind.eq_ignore_ascii_case(b"multipart/") {
        return None;
    }
    let value = words.find_map(|word| {
        let (name, value) = word.split_at_checked(9)?;
        name.eq_ignore_ascii_case(b"boundary=").then_some(value)
    })?;
    let boundary = match value {
        [b'"', quoted @ .., b'"'] => quoted,
        bare => bare,
    };
    // RFC 2046 allows at most 70 bytes. The search in the body takes time in proportion to them.
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// Returns the text before, between and after the boundaries.
pub(super) fn parts<'a>(body: &'a [u8], boundary: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut remaining = Some(body);
    std::iter::from_fn(move || {
        let rest = remaining?;
        let at = rest
            .windows(boundary.len())
            .position(|window| window == boundary);
        let (part, rest) = match at {
            Some(at) => (&rest[..at], Some(&rest[at + boundary.len()..])),
            None => (rest, None),
        };
        remaining = rest;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_found_and_removed() {
        let of = |text: &'static str| boundary(text.as_bytes());
        assert_eq!(of("multipart/form-data; boundary=abc"), Some(&b"abc"[..]));
        assert_eq!(
            of("Multipart/Mixed; x=1; Boundary=\"a b\""),
            Some(&b"a b"[..])
        );
        for none in [
            "",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "text/plain; boundary=a",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
        let long = format!("multipart/form-data; boundary={}", "a".repeat(71));
        assert_eq!(boundary(long.as_bytes()), None);
        let body = b"--abc\r\none--abc\r\ntwo--abc--";
        let cut = parts(body, b"abc").collect::<Vec<_>>();
        assert_eq!(cut, [&b"--"[..], b"\r\none--", b"\r\ntwo--", b"--"]);
    }
}
