//! Which slot a key is in, and a short tag for each slot.

/// How many there are.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: of its hash tag if it has one.
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
    crc(tag) % SLOTS
}

/// A short text in `slot`. The same in every process, now and later: the channels of waiters
/// are named after it.
pub(super) fn tag(slot: u16) -> String {
    // The shortest is found after as many tries as there are slots, on average.
    (0_u32..)
        .map(|number| format!("{number:x}"))
        .find(|text| crc(text.as_bytes()) % SLOTS == slot)
        .unwrap_or_default()
}

/// CRC-16/XMODEM, as the Cluster specification asks for.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (crc << 8) ^ OF_BYTES[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const OF_BYTES: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc(b"123456789"), 0x31c3);
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
            without[usize::from(crc(format!("{number:x}").as_bytes()) % SLOTS)] = false;
        }
        assert!(!without.contains(&true));
    }

    #[test]
    fn a_tag_is_in_its_slot_and_stays_what_it_is() {
        // A process of another version listens there.
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
