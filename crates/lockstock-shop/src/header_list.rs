//! Headers whose value is a comma-separated list, on one line or on several (RFC 9110, section 5.6.1).

use axum::http::{HeaderMap, HeaderName};

/// Returns the members of a list, without surrounding white space. Empty members, and lines that are
/// not text, are skipped.
pub(crate) fn members<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let members = lines.flat_map(|line| line.split(',')).map(str::trim);
    members.filter(|member| !member.is_empty())
}
