//! Splits a search into terms, as DRF's `search_smart_split`: at white space and commas, but not
//! within quotes.

use crate::drf::python;

/// Splits `search` into terms.
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

/// Splits at white space, but not within a closed quotation.
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

/// Returns the length of the quotation at the start of `text`, with its quotation marks, or
/// `None` if it is not closed.
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

/// Returns the unescaped text between the quotation marks of a quoted word. A word that is a
/// single mark counts as quoted and empty.
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
    fn a_search_is_split_at_spaces_and_commas_but_not_in_quotes() {
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
