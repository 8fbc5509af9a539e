//! Identity of a caller in an `Authorization` header.

use std::borrow::Cow;

use http::HeaderValue;

/// Returns a value that is the same for all spellings of the same credentials: `Bearer x`,
/// `bearer x` and `BEARER  x`. The scheme is compared without case
/// ([RFC 9110, section 11.1](https://www.rfc-editor.org/rfc/rfc9110#section-11.1)), the credentials
/// with it. A value without a scheme stays as it is.
///
/// ```
/// use http::HeaderValue;
/// use lockstock_http::normalized_authorization;
///
/// let bearer = HeaderValue::from_static("bearer  Xy");
/// assert_eq!(&*normalized_authorization(&bearer), b"Bearer Xy");
/// let raw = HeaderValue::from_static("Xy");
/// assert_eq!(&*normalized_authorization(&raw), b"Xy");
/// ```
pub fn normalized_authorization(value: &HeaderValue) -> Cow<'_, [u8]> {
    let value = value.as_bytes();
    let Some(end) = value.iter().position(|byte| *byte == b' ') else {
        return value.into();
    };
    let (scheme, credentials) = (&value[..end], value[end..].trim_ascii());
    let Some((initial, rest)) = scheme.split_first() else {
        return value.into();
    };
    if credentials.is_empty() {
        return value.into();
    }
    let mut normalized = Vec::with_capacity(value.len());
    // The usual spelling, in which existing records and reservations identify their callers.
    normalized.push(initial.to_ascii_uppercase());
    normalized.extend(rest.iter().map(u8::to_ascii_lowercase));
    normalized.push(b' ');
    normalized.extend_from_slice(credentials);
    normalized.into()
}
