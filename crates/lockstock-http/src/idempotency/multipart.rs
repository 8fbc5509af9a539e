//! The parts of a `multipart` body, without what separates them. For comparing, not for reading.

/// The boundary that a content type names, if it is a `multipart` one.
pub(super) fn boundary(content_type: &[u8]) -> Option<&[u8]> {
    let mut words = content_type
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii);
    let kind = words.next()?.get(..10)?;
    if !kind.eq_ignore_ascii_case(b"multipart/") {
        return None;
    }
    let given = words.find_map(|word| {
        let (name, value) = word.split_at_checked(9)?;
        name.eq_ignore_ascii_case(b"boundary=").then_some(value)
    })?;
    let bare = match given {
        [b'"', quoted @ .., b'"'] => quoted,
        bare => bare,
    };
    // An empty one separates nothing, and more than 70 bytes it may not have (RFC 2046): looking
    // for it takes as long as it is.
    (1..=70).contains(&bare.len()).then_some(bare)
}

/// What is before, between and behind the boundaries.
pub(super) fn parts<'a>(body: &'a [u8], boundary: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut left = Some(body);
    std::iter::from_fn(move || {
        let rest = left?;
        let at = rest
            .windows(boundary.len())
            .position(|here| here == boundary);
        let (part, rest) = match at {
            Some(at) => (&rest[..at], Some(&rest[at + boundary.len()..])),
            None => (rest, None),
        };
        left = rest;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_found_and_cut_out() {
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
