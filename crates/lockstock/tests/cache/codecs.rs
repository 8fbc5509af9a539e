//! The formats of values.

use std::collections::HashMap;

use bytes::Bytes;
#[cfg(feature = "messagepack")]
use lockstock::MessagePack;
use lockstock::{Codec, Integer, Json, Raw, Store};
use serde::{Deserialize, Serialize};

use super::LONG;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Product {
    name: String,
    stock: Option<u32>,
    tags: Vec<String>,
}

/// [`Product`] before it had tags.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Earlier {
    name: String,
    stock: Option<u32>,
}

/// [`Product`] of a later version: with defaults, so that it reads earlier ones.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Later {
    name: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    price: Option<u64>,
}

fn product() -> Product {
    Product {
        name: "caf\u{e9} \u{1f512}".into(),
        stock: Some(7),
        tags: vec!["".into(), "mug".into()],
    }
}

/// Writes a value, reads it, and returns its bytes.
async fn stored<T, C>(codec: C, value: &T) -> Bytes
where
    T: PartialEq + std::fmt::Debug,
    C: Codec<T>,
{
    let store = Store::memory();
    let values = store.cache("values").codec(codec);
    values.set("a", value, LONG).await.unwrap();
    assert_eq!(values.get("a").await.unwrap().as_ref(), Some(value));
    let raw = store.cache::<Bytes>("values").codec(Raw);
    raw.get("a").await.unwrap().unwrap()
}

/// Returns what is read from these bytes, or the text of the error, which is malformed.
async fn read<T, C: Codec<T>>(codec: C, bytes: &[u8]) -> Result<T, String> {
    let store = Store::memory();
    let raw = store.cache::<Vec<u8>>("values").codec(Raw);
    raw.set("a", &bytes.to_vec(), LONG).await.unwrap();
    match store.cache("values").codec(codec).get("a").await {
        Ok(value) => Ok(value.unwrap()),
        Err(error) => {
            assert!(error.is_malformed() && !error.is_unavailable(), "{error}");
            Err(error.to_string())
        }
    }
}

#[tokio::test]
async fn json_is_the_default() {
    let (store, value) = (Store::memory(), product());
    let values = store.cache::<Product>("values");
    values.set("a", &value, LONG).await.unwrap();
    assert_eq!(values.get("a").await.unwrap(), Some(value.clone()));
    let raw = store.cache::<String>("values").codec(Raw);
    let expected = r#"{"name":"café 🔒","stock":7,"tags":["","mug"]}"#;
    assert_eq!(raw.get("a").await.unwrap().as_deref(), Some(expected));
    assert_eq!(stored(Json, &value).await, expected);
}

#[tokio::test]
async fn raw_values_are_their_bytes() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(stored(Raw, &bytes).await, bytes);
    assert_eq!(stored(Raw, &Bytes::from(bytes.clone())).await, bytes);
    assert_eq!(stored(Raw, &"caf\u{e9}".to_owned()).await, "caf\u{e9}");
    assert_eq!(stored(Raw, &Vec::new()).await, "");
    assert!(read::<String, _>(Raw, b"\xff").await.is_err());
}

#[tokio::test]
async fn integers_are_decimal_digits() {
    for (value, digits) in [(0, "0"), (-7, "-7"), (i64::MIN, "-9223372036854775808")] {
        assert_eq!(stored(Integer, &value).await, digits);
    }
    for other in [
        "",
        "x",
        "1.0",
        "+1",
        "01",
        "-0",
        " 1",
        "9223372036854775808",
    ] {
        assert!(
            read::<i64, _>(Integer, other.as_bytes()).await.is_err(),
            "{other:?}"
        );
    }
}

#[tokio::test]
async fn bytes_that_do_not_fit_are_malformed() {
    let error = read::<Product, _>(Json, br#"{"name":"Mug"}"#)
        .await
        .unwrap_err();
    assert!(error.contains("lockstock:cache:values:1:"), "{error}");
    for bytes in [
        &b""[..],
        b"{",
        b"1",
        b"\x80\x04]q\x00.",
        br#"{"name":"Mug"} 1"#,
    ] {
        assert!(read::<Product, _>(Json, bytes).await.is_err(), "{bytes:?}");
        assert!(
            read::<(i32, i32), _>(Json, bytes).await.is_err(),
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn one_value_that_does_not_fit_fails_the_call_with_several_keys() {
    let store = Store::memory();
    let raw = store.cache::<String>("values").codec(Raw);
    let entries = [("a", "1".to_owned()), ("b", "x".to_owned())];
    raw.set_many(entries, LONG).await.unwrap();
    let values = store.cache::<i64>("values");
    let error = values.get_many(["a", "b"]).await.unwrap_err();
    assert!(error.is_malformed(), "{error}");
    assert_eq!(values.get_many(["a", "c"]).await.unwrap(), [Some(1), None]);
}

#[tokio::test]
async fn a_value_that_the_format_cannot_represent_is_invalid() {
    let store = Store::memory();
    let values = store.cache::<HashMap<(u8, u8), u8>>("values");
    // A key of a JSON object is a string.
    let error = values.set("a", &HashMap::from([((1, 2), 3)]), LONG).await;
    let error = error.unwrap_err();
    assert!(error.is_invalid(), "{error}");
    assert!(!values.contains("a").await.unwrap());
}

#[tokio::test]
async fn a_list_of_formats_writes_the_first_and_reads_all() {
    assert_eq!(stored((Json, Raw), &"a".to_owned()).await, "\"a\"");
    assert_eq!(stored((Raw, Json), &"a".to_owned()).await, "a");
    assert_eq!(stored((Integer, Json), &7).await, "7");
    let read_text = async |bytes| read::<String, _>((Json, Raw), bytes).await;
    assert_eq!(read_text(&b"\"a\""[..]).await.unwrap(), "a");
    assert_eq!(read_text(b"a").await.unwrap(), "a");
    // The error is that of the first format.
    let error = read::<i64, _>((Json, Integer), b"x").await.unwrap_err();
    let first = read::<i64, _>(Json, b"x").await.unwrap_err();
    assert_eq!(error, first);
    assert_eq!(
        read::<i64, _>((Json, Integer, Json), b"1").await.unwrap(),
        1
    );
    let four = (Json, Json, Json, Raw);
    assert_eq!(read::<String, _>(four, b"a").await.unwrap(), "a");
}

#[tokio::test]
async fn json_reads_structs_with_other_fields() {
    let bytes = stored(Json, &product()).await;
    let earlier: Earlier = read(Json, &bytes).await.unwrap();
    assert_eq!(earlier.stock, Some(7));
    let later: Later = read(Json, &bytes).await.unwrap();
    assert_eq!((later.tags.len(), later.price), (2, None));
}

#[cfg(feature = "messagepack")]
#[tokio::test]
async fn messagepack_is_read_and_written() {
    let value = product();
    let bytes = stored(MessagePack, &value).await;
    assert!(bytes.len() < stored(Json, &value).await.len());
    assert_eq!(&bytes[..6], b"\x83\xa4name");
    // Fields have names: others are ignored, or have defaults.
    let earlier: Earlier = read(MessagePack, &bytes).await.unwrap();
    assert_eq!(earlier.stock, Some(7));
    let later: Later = read(MessagePack, &bytes).await.unwrap();
    assert_eq!((later.tags.len(), later.price), (2, None));
    for bytes in [&b""[..], b"\x83", b"\xc1", &[&bytes[..], b"\x01"].concat()] {
        assert!(
            read::<Product, _>(MessagePack, bytes).await.is_err(),
            "{bytes:?}"
        );
    }
    let maps = HashMap::from([((1, 2), 3)]);
    stored(MessagePack, &maps).await;
}

#[cfg(feature = "messagepack")]
#[tokio::test]
async fn json_is_read_after_the_format_was_changed_to_messagepack() {
    let value = product();
    let json = stored(Json, &value).await;
    let both = (MessagePack, Json);
    assert_eq!(read::<Product, _>(both, &json).await.unwrap(), value);
    let packed = stored(both, &value).await;
    assert_eq!(packed, stored(MessagePack, &value).await);
    assert_eq!(read::<Product, _>(both, &packed).await.unwrap(), value);
}
