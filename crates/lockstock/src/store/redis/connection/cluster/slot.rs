//! The slot of a key, and a short tag for each slot.

use crc::{CRC_16_XMODEM, Crc};

/// The checksum that the Cluster specification asks for.
static CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The number of slots of a Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Returns the slot of a key, which is that of its hash tag if it has one.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key
        .iter()
        .position(|&byte| byte == b'{')
        .and_then(|open| {
            let rest = &key[open + 1..];
            let length = rest.iter().position(|&byte| byte == b'}')?;
            (length > 0).then(|| &rest[..length])
        })
        .unwrap_or(key);
    CRC.checksum(tag) % SLOTS
}

/// Returns a short text whose slot is `slot`.
///
/// The same in every process and version: it is part of the names of channels.
pub(super) fn tag(slot: u16) -> String {
    // Takes `SLOTS` tries on average.
    (0_u32..)
        .map(|number| format!("{number:x}"))
        .find(|text| CRC.checksum(text.as_bytes()) % SLOTS == slot)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_match_the_specification() {
        assert_eq!(CRC.checksum(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{foo}bar"), 12_182);
        assert_eq!(slot(b"a{foo}b{bar}"), 12_182);
        assert_ne!(slot(b"{}foo"), slot(b"foo"));
        assert_ne!(slot(b"{foo"), slot(b"foo"));
    }

    #[test]
    fn each_slot_has_a_short_tag() {
        let mut without = vec![true; SLOTS.into()];
        for number in 0..0xfffff_u32 {
            without[usize::from(CRC.checksum(format!("{number:x}").as_bytes()) % SLOTS)] = false;
        }
        assert!(!without.contains(&true));
    }

    #[test]
    fn a_tag_is_in_its_slot_and_never_changes() {
        // Processes of other versions subscribe to the same channels.
        for (number, text) in [
            (0, "265b"),
            (1, "12dd9"),
            (12_182, "43681"),
            (16_383, "3d43"),
        ] {
            assert_eq!(tag(number), text);
            let channel = format!("lockstock:wake:{{{text}}}:x");
            assert_eq!(slot(channel.as_bytes()), number);
        }
    }
}
