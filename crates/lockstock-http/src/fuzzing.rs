//! What the fuzz targets in `fuzz/` check: that what is read means the same when it is written and
//! read again. `cargo fuzz` sets `cfg(fuzzing)`.

use http::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, Method};

use crate::{
    EntityTag, Preconditions, RecordedResponse, TagCondition, Validators, idempotency_key,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Checks the conditional headers. Each line of the input is a header.
pub fn conditions(input: &[u8]) {
    if let Some(tag) = EntityTag::parse(input)
        && str::from_utf8(input).is_ok()
    {
        assert_eq!(EntityTag::parse(tag.to_string().as_bytes()), Some(tag));
    }
    for name in [IF_MATCH, IF_NONE_MATCH] {
        for method in [Method::GET, Method::PATCH] {
            let Ok(conditions) = Preconditions::of(&method, &headers(&name, lines(input))) else {
                continue;
            };
            // No version and no tag may cause a panic.
            let _ = conditions.check(None);
            let _ = conditions.check(Some(&Validators::default()));
            let tags = match (&conditions.if_match, &conditions.if_none_match) {
                (TagCondition::OneOf(tags), _) | (_, TagCondition::OneOf(tags)) => tags,
                _ => continue,
            };
            let written = tags.iter().map(EntityTag::to_string).collect::<Vec<_>>();
            if tags.is_empty() || written.iter().any(|tag| tag.contains('\u{fffd}')) {
                continue;
            }
            for tag in tags {
                let current = Validators::from(&*tag.to_string());
                let is_met = conditions.check(Some(&current)).is_ok();
                // A weak current tag never matches, any other one does.
                assert_eq!(is_met, name == IF_MATCH && !tag.is_weak(), "{tag}");
            }
            let written = written.join(", ");
            let again = headers(&name, [written.as_bytes()]);
            assert_eq!(Preconditions::of(&method, &again).ok(), Some(conditions));
        }
    }
}

/// Checks the header `Idempotency-Key`, and the records that a store returns.
pub fn idempotency(input: &[u8]) {
    let headers_of = |values: &[&[u8]]| headers(&IDEMPOTENCY_KEY, values.iter().copied());
    let values: Vec<_> = lines(input).collect();
    if let Ok(Some(key)) = idempotency_key(&headers_of(&values)) {
        assert!((1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
        let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        let again = idempotency_key(&headers_of(&[quoted.as_bytes()]));
        assert_eq!(again.ok(), Some(Some(key)));
    }
    if let Ok(record) = RecordedResponse::from_bytes(input.to_vec()) {
        assert!(record.body.len() <= input.len());
        assert_eq!(
            RecordedResponse::from_bytes(record.to_bytes()).as_ref(),
            Ok(&record)
        );
        let _ = record.replay::<bytes::Bytes>();
    }
}

fn lines(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|byte| *byte == b'\n')
}

/// Builds headers of one name, without the values that no header can have.
fn headers<'a>(name: &HeaderName, values: impl IntoIterator<Item = &'a [u8]>) -> HeaderMap {
    let values = values.into_iter().map(HeaderValue::from_bytes);
    values.flatten().map(|value| (name.clone(), value)).fold(
        HeaderMap::new(),
        |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_of_the_fuzzer_mean_the_same_when_written_and_read_again() {
        for (_, input) in lockstock_testkit::fuzz_inputs("conditions") {
            conditions(&input);
        }
        for (_, input) in lockstock_testkit::fuzz_inputs("idempotency") {
            idempotency(&input);
        }
    }
}
