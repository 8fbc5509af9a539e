//! SHA-256 over a list of parts. Different lists have different hashes.

use sha2::{Digest, Sha256};

pub(crate) fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        // Without the length, "ab" + "c" and "a" + "bc" would have the same hash.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Returns the hash in 64 hexadecimal digits.
pub(crate) fn hex_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    hex::encode(hash(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_lists_have_different_hashes() {
        let all = [
            hex_hash([&b"ab"[..], b"c"]),
            hex_hash([&b"a"[..], b"bc"]),
            hex_hash([&b"abc"[..]]),
            hex_hash([&b"abc"[..], b""]),
            hex_hash([]),
        ];
        for (n, hash) in all.iter().enumerate() {
            assert_eq!(hash.len(), 64);
            assert!(!all[..n].contains(hash));
        }
        // The names of locks and records depend on it.
        assert_eq!(
            all[4],
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
