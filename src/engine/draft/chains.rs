//! Finds where the newest tokens of a sequence stood before: an index that grows with the text, as
//! compressors keep one.

/// Tokens that must match for a place to be found at all.
const PAIR: usize = 2;

/// Tokens back that a match is measured; longer ones are as good.
pub(super) const LONGEST_MATCH: usize = 15;

/// Places that one search looks at, so that text of one word repeated costs no more than others.
const MAX_LOOKED_AT: usize = 32;

/// Chains that are kept, as a power of two within these.
const MIN_HEADS: usize = 1 << 8;
const MAX_HEADS: usize = 1 << 15;

/// No place: the first two tokens have no pair before them.
const NONE: u32 = 0;

/// Places in a text, chained by a hash of the two tokens before each.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// The last place of each chain.
    heads: Vec<u32>,
    /// By place, the one before it in its chain.
    before: Vec<u32>,
}

/// A place in a text before which the same tokens stand as at the end of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: usize,
    /// Tokens before it that match, up to [`LONGEST_MATCH`].
    pub(super) matched: usize,
}

impl Chains {
    /// Takes in what was added to the text since the last call. The place at its very end, which
    /// nothing follows, is not taken in yet.
    pub(super) fn extend(&mut self, text: &[u32]) {
        if self.heads.is_empty() {
            let heads = text.len().next_power_of_two().clamp(MIN_HEADS, MAX_HEADS);
            self.heads = vec![NONE; heads];
            self.before.reserve(text.len());
        }
        self.before.resize(self.before.len().max(PAIR.min(text.len())), NONE);
        for place in self.before.len()..text.len() {
            let chain = self.chain(text[place - 2], text[place - 1]);
            self.before.push(self.heads[chain]);
            self.heads[chain] = place as u32;
        }
    }

    /// The place in `text` before which most of the newest tokens of `context` stand; of equals,
    /// that nearest to `near`.
    pub(super) fn find(&self, text: &[u32], context: &[u32], near: usize) -> Option<Place> {
        let [.., second, last] = *context else { return None };
        let mut place = *self.heads.get(self.chain(second, last))? as usize;
        let mut best: Option<Place> = None;
        for _ in 0..MAX_LOOKED_AT {
            if place == NONE as usize {
                break;
            }
            let matched = common_suffix(&text[..place], context);
            let rank = |place: Place| (place.matched, usize::MAX - place.at.abs_diff(near));
            let found = Place { at: place, matched };
            if matched >= PAIR && best.is_none_or(|best| rank(found) > rank(best)) {
                best = Some(found);
            }
            place = self.before[place] as usize;
        }
        best
    }

    fn chain(&self, second: u32, last: u32) -> usize {
        let pair = u64::from(second) << 32 | u64::from(last);
        // Fibonacci hashing: the high bits of the product are well mixed.
        let hash = pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        hash as usize & (self.heads.len().max(1) - 1)
    }
}

/// Tokens at the ends of both texts that are the same, up to [`LONGEST_MATCH`].
fn common_suffix(a: &[u32], b: &[u32]) -> usize {
    let pairs = a.iter().rev().zip(b.iter().rev()).take(LONGEST_MATCH);
    pairs.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_wins_and_then_the_nearest() {
        let cases: [(&[u32], usize, Option<(usize, usize)>); 6] = [
            (&[1, 2, 3, 9, 1, 2], 6, Some((2, 2))),
            (&[1, 2, 7, 0, 1, 2, 8, 0, 1, 2], 10, Some((6, 3))),
            (&[1, 2, 7, 5, 1, 2, 8, 4, 1, 2], 10, Some((6, 2))),
            (&[1, 2, 7, 5, 1, 2, 8, 4, 1, 2], 1, Some((2, 2))),
            (&[1, 2, 3], 3, None),
            (&[4, 4, 4, 4], 4, Some((3, 3))),
        ];
        for (text, near, expected) in cases {
            let mut chains = Chains::default();
            chains.extend(text);
            let found = chains.find(text, text, near).map(|place| (place.at, place.matched));
            assert_eq!(found, expected, "{text:?} near {near}");
        }
    }

    #[test]
    fn growing_step_by_step_finds_the_same() {
        let text: Vec<u32> = (0..600_u32).map(|i| i * i % 7).collect();
        let mut grown = Chains::default();
        for len in 0..text.len() {
            grown.extend(&text[..len]);
        }
        let mut whole = Chains::default();
        whole.extend(&text[..text.len() - 1]);
        let short = &text[..text.len() - 1];
        assert_eq!(grown.find(short, short, 0), whole.find(short, short, 0));
        assert!(whole.find(short, short, 0).is_some_and(|place| place.matched == LONGEST_MATCH));
    }
}
