//! Several keys of any slots, split into batches that are a command each. The same for asynchronous
//! and for blocking callers.

use std::collections::HashMap;

/// Returns the slot of a key in a Cluster.
pub(crate) type SlotOf = fn(&[u8]) -> u16;

/// The maximum number of keys of a command, which Redis handles in well under a millisecond.
const MAX_KEYS: usize = 1000;
/// The maximum total length of the keys of a command, unless it has only one.
const MAX_BYTES: usize = 1024 * 1024;

/// Keys of one command, and where they were among all keys.
#[derive(Debug, PartialEq)]
pub(crate) struct KeyBatch {
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) positions: Vec<usize>,
    bytes: usize,
}

/// Splits keys into batches, each of one slot if there are slots.
pub(crate) fn split(keys: Vec<Vec<u8>>, slot_of: Option<SlotOf>) -> Vec<KeyBatch> {
    let mut batches = Vec::<KeyBatch>::new();
    // The batch of each slot that has room for more.
    let mut open = HashMap::<u16, usize>::new();
    for (position, key) in keys.into_iter().enumerate() {
        let slot = slot_of.map_or(0, |slot_of| slot_of(&key));
        let last = open.get(&slot).map(|&last| &mut batches[last]);
        match last {
            Some(batch) if batch.keys.len() < MAX_KEYS && batch.bytes + key.len() <= MAX_BYTES => {
                batch.bytes += key.len();
                batch.keys.push(key);
                batch.positions.push(position);
            }
            _ => {
                open.insert(slot, batches.len());
                batches.push(KeyBatch {
                    bytes: key.len(),
                    keys: vec![key],
                    positions: vec![position],
                });
            }
        }
    }
    batches
}

/// Puts what was returned for each batch into the order of all keys.
pub(crate) fn merge<T: Clone>(
    positions: &[Vec<usize>],
    replies: impl IntoIterator<Item = Vec<Option<T>>>,
) -> Vec<Option<T>> {
    let mut merged = vec![None; positions.iter().map(Vec::len).sum()];
    for (positions, replies) in positions.iter().zip(replies) {
        for (&position, reply) in positions.iter().zip(replies) {
            merged[position] = reply;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u32) -> Vec<Vec<u8>> {
        (0..count).map(|n| n.to_be_bytes().to_vec()).collect()
    }

    fn last_byte(key: &[u8]) -> u16 {
        key.last().map_or(0, |&byte| byte.into())
    }

    #[test]
    fn batches_are_bounded_in_keys_and_in_bytes() {
        let sizes = |keys| {
            let batches = split(keys, None);
            batches
                .iter()
                .map(|batch| batch.keys.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(keys(0)), [0; 0]);
        assert_eq!(sizes(keys(2500)), [1000, 1000, 500]);
        assert_eq!(sizes(vec![vec![0; MAX_BYTES / 2]; 5]), [2, 2, 1]);
        assert_eq!(sizes(vec![vec![0; MAX_BYTES + 1]; 2]), [1, 1]);
    }

    #[test]
    fn a_batch_has_keys_of_one_slot_and_replies_return_to_their_places() {
        let all = keys(3000);
        let batches = split(all.clone(), Some(last_byte));
        assert_eq!(batches.len(), 256);
        for batch in &batches {
            let slot = last_byte(&batch.keys[0]);
            assert!(batch.keys.iter().all(|key| last_byte(key) == slot));
        }
        let (positions, replies): (Vec<_>, Vec<_>) = batches
            .into_iter()
            .map(|batch| (batch.positions, batch.keys.into_iter().map(Some).collect()))
            .unzip();
        let merged = merge(&positions, replies);
        assert_eq!(merged, all.into_iter().map(Some).collect::<Vec<_>>());
    }
}
