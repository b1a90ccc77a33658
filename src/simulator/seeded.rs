//! Pseudo-random values from one seed: the same seed and the same calls give the same simulator, event by event.
//!
//! Event ids are a keyed permutation of the event's index, so that a million ids need no table: an id is computed from
//! its index and the index from its id, and text that no index gives is recognised as unknown.

/// A stream of pseudo-random values (`SplitMix64`).
#[derive(Clone, Debug)]
pub(super) struct Seeded(u64);

impl Seeded {
    /// The stream of this number under this seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream.wrapping_add(1))))
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A value in `0..limit`; 0 if `limit` is 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    /// One of these; an empty text if there is none.
    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let at = self.below(from.len() as u64);
        usize::try_from(at)
            .ok()
            .and_then(|at| from.get(at))
            .copied()
            .unwrap_or_default()
    }

    /// Text in the form of a version 4 UUID.
    pub(super) fn uuid(&mut self) -> String {
        uuid_text((u128::from(self.next()) << 64 | u128::from(self.next())) >> 6)
    }

    /// A token as Doorkeeper makes them: 43 characters that need no escaping.
    pub(super) fn token(&mut self) -> String {
        let words = [self.next(), self.next(), self.next()];
        let mut text: String = words.map(|word| format!("{word:016x}")).concat();
        text.truncate(43);
        text
    }
}

/// The bits that remain when version and variant are fixed, split in two.
const HALF: u64 = (1 << 61) - 1;
const ROUNDS: [u64; 4] = [0x51, 0xA7, 0x1D, 0xE3];

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Lays 122 bits out as a version 4 UUID.
fn uuid_text(bits: u128) -> String {
    let all = (bits >> 74 & 0xFFFF_FFFF_FFFF) << 80
        | 4 << 76
        | (bits >> 62 & 0xFFF) << 64
        | 2 << 62
        | bits & ((1 << 62) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        all >> 96,
        all >> 80 & 0xFFFF,
        all >> 64 & 0xFFFF,
        all >> 48 & 0xFFFF,
        all & 0xFFFF_FFFF_FFFF
    )
}

/// The id of the event with this index.
pub(super) fn event_id(seed: u64, index: u32) -> String {
    let (mut left, mut right) = (u64::from(index), 0);
    for key in ROUNDS {
        (left, right) = (right, left ^ (mix(right ^ mix(seed ^ key)) & HALF));
    }
    uuid_text(u128::from(left) << 61 | u128::from(right))
}

/// The index that [`event_id`] made this id of.
pub(super) fn event_index(seed: u64, id: &str) -> Option<u32> {
    if id.len() != 36 {
        return None;
    }
    let all = u128::from_str_radix(&id.replace('-', ""), 16).ok()?;
    let bits = (all >> 80) << 74 | (all >> 64 & 0xFFF) << 62 | all & ((1 << 62) - 1);
    let mut left = u64::try_from(bits >> 61 & u128::from(HALF)).ok()?;
    let mut right = u64::try_from(bits & u128::from(HALF)).ok()?;
    for key in ROUNDS.into_iter().rev() {
        (left, right) = (right ^ (mix(left ^ mix(seed ^ key)) & HALF), left);
    }
    let index = u32::try_from(left).ok()?;
    (event_id(seed, index) == id).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_gives_its_index_back_and_differs_by_seed() {
        for index in [0, 1, 2, 999_999, u32::MAX] {
            let id = event_id(7, index);
            assert_eq!(event_index(7, &id), Some(index));
            assert_eq!(event_index(8, &id), None);
            assert_eq!(id.as_bytes()[14], b'4');
        }
        assert_eq!(event_index(7, "7d0c5f0e-6a0b-4c5e-9f0e-2b8a4d7f1c33"), None);
        assert_eq!(event_index(7, "x"), None);
    }
}
