//! How values become bytes.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a value cannot be encoded, or bytes cannot be decoded.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Encodes the values of a [`Cache`](crate::Cache) as bytes and decodes them.
///
/// A tuple of codecs is a codec: it writes the first format and reads any of them, in order. Use it
/// to change the format of a cache that is in use:
///
/// ```
/// # use std::time::Duration;
/// # use lockstock::{Integer, Json, Raw, Store};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> lockstock::Result<()> {
/// # let store = Store::memory();
/// let before = store.cache::<String>("names").codec(Raw);
/// before.set("42", &"Mug".to_owned(), Duration::from_secs(60)).await?;
///
/// let after = store.cache::<String>("names").codec((Json, Raw));
/// assert_eq!(after.get("42").await?.as_deref(), Some("Mug"));
/// # Ok(())
/// # }
/// ```
///
/// A format that accepts the bytes of another one must come after it: [`Raw`] accepts any bytes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no format for values of type `{T}`",
    note = "`Json` and `MessagePack` store owned values that implement `Serialize` and \
            `DeserializeOwned`: `String` instead of `&str`, `Vec<T>` instead of `&[T]`",
    note = "`Raw` stores `Bytes`, `Vec<u8>` and `String`; `Integer` stores `i64`"
)]
pub trait Codec<T>: Clone + Send + Sync + 'static {
    /// Encodes a value.
    ///
    /// # Errors
    ///
    /// If the format cannot represent the value.
    fn encode(&self, value: &T) -> Result<Bytes, CodecError>;

    /// Decodes a value, which must take up all of `bytes`.
    ///
    /// # Errors
    ///
    /// If `bytes` are not a value of this format and type.
    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError>;
}

/// JSON, through serde. The default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        Ok(serde_json::to_vec(value)?.into())
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// MessagePack, through serde: structs as maps with names, so that fields can be added.
#[cfg(feature = "messagepack")]
#[derive(Debug, Clone, Copy, Default)]
pub struct MessagePack;

#[cfg(feature = "messagepack")]
impl<T: Serialize + DeserializeOwned> Codec<T> for MessagePack {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        Ok(rmp_serde::to_vec_named(value)?.into())
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        let mut deserializer = rmp_serde::Deserializer::new(&bytes[..]);
        let value = T::deserialize(&mut deserializer)?;
        if !deserializer.get_ref().is_empty() {
            return Err("bytes follow the MessagePack value".into());
        }
        Ok(value)
    }
}

/// Bytes as they are, for values that the application encodes: [`Bytes`], `Vec<u8>`, `String`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Codec<Bytes> for Raw {
    fn encode(&self, value: &Bytes) -> Result<Bytes, CodecError> {
        Ok(value.clone())
    }

    fn decode(&self, bytes: &Bytes) -> Result<Bytes, CodecError> {
        Ok(bytes.clone())
    }
}

impl Codec<Vec<u8>> for Raw {
    fn encode(&self, value: &Vec<u8>) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(value))
    }

    fn decode(&self, bytes: &Bytes) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

impl Codec<String> for Raw {
    fn encode(&self, value: &String) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(value.as_bytes()))
    }

    fn decode(&self, bytes: &Bytes) -> Result<String, CodecError> {
        Ok(String::from_utf8(bytes.to_vec())?)
    }
}

/// Decimal digits, which Redis can [increment](crate::Cache::incr).
#[derive(Debug, Clone, Copy, Default)]
pub struct Integer;

impl Codec<i64> for Integer {
    fn encode(&self, value: &i64) -> Result<Bytes, CodecError> {
        Ok(value.to_string().into())
    }

    fn decode(&self, bytes: &Bytes) -> Result<i64, CodecError> {
        Ok(parse_integer(bytes).ok_or("not an integer of 64 bits, as Redis writes it")?)
    }
}

/// Parses what Redis accepts as an integer: no plus sign, no leading zeros, no spaces.
pub(crate) fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let integer = text.parse::<i64>().ok()?;
    let is_canonical = match text.strip_prefix('-').unwrap_or(text).as_bytes() {
        [b'0'] => text == "0",
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    is_canonical.then_some(integer)
}

/// Implements [`Codec`] for a tuple.
macro_rules! codec_list {
    ($first:ident $(, $other:ident)+) => {
        impl<T, $first: Codec<T> $(, $other: Codec<T>)+> Codec<T> for ($first, $($other),+) {
            fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
                self.0.encode(value)
            }

            #[allow(non_snake_case, reason = "a variable for each type parameter")]
            fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
                let ($first, $($other),+) = self;
                let decoded = $first.decode(bytes);
                $(let decoded = decoded.or_else(|first| $other.decode(bytes).map_err(|_| first));)+
                decoded
            }
        }
    };
}

codec_list!(A, B);
codec_list!(A, B, C);
codec_list!(A, B, C, D);
