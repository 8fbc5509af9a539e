//! Cuts a search into its terms, as DRF's `search_smart_split`: words stand between white
//! space or commas, and quotes hold together what belongs together.

use crate::drf::python;

/// The terms of `search`; each must be found.
pub(crate) fn terms(search: &str) -> Vec<String> {
    let mut terms = Vec::new();
    for word in words(search) {
        let word = word.trim_matches(',');
        if let Some(inside) = quoted(word) {
            terms.push(inside);
        } else {
            let parts = word.split(',').map(python::strip);
            terms.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
        }
    }
    terms
}

/// Cuts at white space, but not within a quotation that is closed.
fn words(search: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut begin = None;
    let mut at = 0;
    while let Some(c) = search[at..].chars().next() {
        if python::is_space(c) {
            if let Some(begin) = begin.take() {
                words.push(&search[begin..at]);
            }
            at += c.len_utf8();
            continue;
        }
        begin.get_or_insert(at);
        at += match c {
            '"' | '\'' => quotation(&search[at..], c).unwrap_or(c.len_utf8()),
            _ => c.len_utf8(),
        };
    }
    words.extend(begin.map(|begin| &search[begin..]));
    words
}

/// How long the quotation is that `text` begins with, marks included.
fn quotation(text: &str, mark: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == mark => return Some(at + c.len_utf8()),
            _ => {}
        }
    }
    None
}

/// What stands between the marks of a word that begins and ends with the same one. A mark
/// alone is both its begin and its end.
fn quoted(word: &str) -> Option<String> {
    let mark = word.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    if !word.ends_with(mark) {
        return None;
    }
    let inside = word.get(1..word.len() - 1).unwrap_or_default();
    let unescaped = inside.replace(&format!("\\{mark}"), &mark.to_string());
    Some(unescaped.replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_commas_and_quotes() {
        let cases: &[(&str, &[&str])] = &[
            ("red apple", &["red", "apple"]),
            ("red,apple", &["red", "apple"]),
            (" , red , ", &["red"]),
            ("\"red apple\" pie", &["red apple", "pie"]),
            ("'red apple'", &["red apple"]),
            ("say \"a \\\" b\"", &["say", "a \" b"]),
            ("\"open end", &["\"open", "end"]),
            ("\"", &[""]),
            ("", &[]),
        ];
        for (search, expected) in cases {
            assert_eq!(&terms(search), expected, "{search}");
        }
    }

    proptest! {
        #[test]
        fn no_search_is_a_panic(search in r#"["'\\, a-z사]{0,40}"#, any in ".*") {
            terms(&search);
            terms(&any);
        }
    }
}
