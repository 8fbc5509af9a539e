//! SHA-256 over several parts, so that no two lists of parts are hashed alike.

use std::fmt::Write;

use sha2::{Digest, Sha256};

pub(crate) fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        // With its length, else "ab" + "c" were "a" + "bc".
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The same, in 64 hexadecimal digits.
pub(crate) fn hex_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hex = String::with_capacity(64);
    for byte in hash(parts) {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let all = [
            hex_hash([&b"ab"[..], b"c"]),
            hex_hash([&b"a"[..], b"bc"]),
            hex_hash([&b"abc"[..]]),
            hex_hash([&b"abc"[..], b""]),
            hex_hash([]),
        ];
        for (n, one) in all.iter().enumerate() {
            assert_eq!(one.len(), 64);
            assert!(!all[..n].contains(one));
        }
    }
}
