//! URLs without secrets, for logs and errors.

/// Returns `url` without user, password and query, safe for logs and errors.
///
/// ```
/// assert_eq!(
///     lockstock::redact_url("redis://shop:hunter2@redis.internal:6379/1"),
///     "redis://redis.internal:6379/1",
/// );
/// ```
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // It may be a password that was entered in the wrong place.
        return "(not a URL)".to_owned();
    };
    // The last '@', before any other delimiter: a password may contain an unescaped '/'. With an
    // unescaped '?' or '#' its end is ambiguous.
    match rest.rsplit_once('@') {
        Some((secret, _)) if secret.contains(['?', '#']) => format!("{scheme}://(hidden)"),
        Some((_, host)) => format!("{scheme}://{}", without_query(host)),
        None => format!("{scheme}://{}", without_query(rest)),
    }
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::redact_url;

    #[test]
    fn no_part_of_a_password_is_shown() {
        for url in [
            "postgres://shop:hunter2@host/shop",
            "postgres://shop:hunter2secret@host/shop?sslmode=require",
            "postgres://shop:hun#ter2@host/shop",
            "postgres://shop:hun?ter2@host/shop",
            "postgres://shop:hun/ter2@host/shop",
            "postgres://shop:hun@ter2@host/shop",
            "postgres://host/shop?password=hunter2",
            "redis://:hunter2@host",
            "hunter2",
        ] {
            let shown = redact_url(url);
            assert!(!shown.contains("hun") && !shown.contains("ter2"), "{shown}");
        }
        assert_eq!(redact_url("redis://host:6379/1"), "redis://host:6379/1");
        assert_eq!(
            redact_url("sqlite:///var/shop.sqlite3"),
            "sqlite:///var/shop.sqlite3"
        );
    }
}
