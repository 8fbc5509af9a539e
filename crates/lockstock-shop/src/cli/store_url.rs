//! The URL of the lock store, as users get it wrong.

/// Adds what may be wrong with the URL of a store to the error of the first connection.
pub(crate) fn explain_first_error(url: &str, error: String) -> String {
    const SILENCES: [&str; 4] = [
        "did not reply",
        "no reply",
        "timed out",
        "InvalidContentType",
    ];
    let is_tls = url.starts_with("rediss");
    let advice = if is_tls && SILENCES.iter().any(|silence| error.contains(silence)) {
        "does this port speak TLS? redis:// does not"
    } else if !is_tls && error.contains("reset by peer") {
        "does this port speak TLS? Then the URL begins with rediss://"
    } else if error.contains("Parse error") {
        "what listens there does not reply as Redis does"
    } else {
        return error;
    };
    // The parser of replies has several lines.
    let error = error.lines().next().unwrap_or_default();
    format!("{error} ({advice})")
}
