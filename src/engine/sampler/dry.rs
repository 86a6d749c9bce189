//! DRY: tokens that would go on with a repetition are less likely, the longer it is.
//!
//! The text read backwards is compared with itself: where it repeats its end, the token that followed
//! there is the one that would repeat again. Meanings follow llama.cpp's sampler of this name.

use std::collections::BTreeMap;

use super::candidates::Candidates;
use crate::engine::sampling::Dry;

/// Exponents above which `base ^ exponent` is no number in single precision: ln(f32::MAX).
const MAX_LOG: f32 = 88.722_84;

/// A penalty is not a ban: where nothing else may follow, the token can still be chosen.
const MAX_PENALTY: f32 = 1e30;

/// The rule and the tokens that it looks at.
#[derive(Debug)]
pub(super) struct Repetitions {
    rule: Dry,
    /// Prompt and output.
    tokens: Vec<u32>,
}

impl Repetitions {
    /// `None` when the rule is off.
    pub(super) fn new(rule: &Dry, prompt: &[u32]) -> Option<Self> {
        let is_on = rule.multiplier > 0.0 && rule.last_n != Some(0);
        is_on.then(|| Self { rule: rule.clone(), tokens: prompt.to_vec() })
    }

    /// Takes note of a token of the output.
    pub(super) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    pub(super) fn edit_row(&self, row: &mut [f32]) {
        for (token, penalty) in self.penalties() {
            if let Some(logit) = row.get_mut(token as usize) {
                *logit -= penalty;
            }
        }
    }

    pub(super) fn edit_candidates(&self, candidates: &mut Candidates) {
        let penalties = self.penalties();
        for candidate in candidates.iter_mut() {
            if let Some(penalty) = penalties.get(&candidate.token) {
                candidate.value -= penalty;
            }
        }
    }

    fn penalties(&self) -> BTreeMap<u32, f32> {
        let Dry { multiplier, base, allowed_length, last_n, .. } = self.rule;
        let last_n = last_n.map_or(usize::MAX, |last_n| last_n as usize);
        let start = self.tokens.len().saturating_sub(last_n);
        // The newest token is the first.
        let tokens: Vec<u32> = self.tokens[start..].iter().rev().copied().collect();
        let limit = self.since_breaker(&tokens);
        let mut longest: BTreeMap<u32, usize> = BTreeMap::new();
        if limit < allowed_length as usize {
            return BTreeMap::new();
        }
        for (at, len) in common_prefixes(&tokens).into_iter().enumerate().skip(1) {
            let len = len.min(limit);
            if len >= allowed_length.max(1) as usize {
                let longest = longest.entry(tokens[at - 1]).or_default();
                *longest = len.max(*longest);
            }
        }
        let max_exponent = if base > 1.000_001 { MAX_LOG / base.ln() } else { f32::MAX };
        let penalty = |len: usize| {
            let exponent = (len as f32 - allowed_length as f32).min(max_exponent);
            (multiplier * base.powf(exponent)).min(MAX_PENALTY)
        };
        let is_breaker = |token: &u32| {
            self.rule.breakers.get(token).is_some_and(|t| t.iter().any(Vec::is_empty))
        };
        longest.retain(|token, _| !is_breaker(token));
        longest.into_iter().map(|(token, len)| (token, penalty(len))).collect()
    }

    /// Newest tokens behind the latest breaker.
    fn since_breaker(&self, tokens: &[u32]) -> usize {
        if self.rule.breakers.is_empty() {
            return tokens.len();
        }
        for (at, token) in tokens.iter().enumerate() {
            let Some(tails) = self.rule.breakers.get(token) else { continue };
            let follows = |tail: &&Vec<u32>| {
                tail.len() <= at && tail.iter().eq(tokens[at - tail.len()..at].iter().rev())
            };
            if let Some(len) = tails.iter().filter(follows).map(Vec::len).max() {
                return at - len;
            }
        }
        tokens.len()
    }
}

/// For each place, how many tokens from there on equal those from the beginning (the Z function).
fn common_prefixes(tokens: &[u32]) -> Vec<usize> {
    let mut lens = vec![0; tokens.len()];
    // The match that reaches furthest: tokens[left..right] equal the beginning.
    let (mut left, mut right) = (0, 0);
    for at in 1..tokens.len() {
        let mut len = if at < right { lens[at - left].min(right - at) } else { 0 };
        while at + len < tokens.len() && tokens[len] == tokens[at + len] {
            len += 1;
        }
        if at + len > right {
            (left, right) = (at, at + len);
        }
        lens[at] = len;
    }
    lens
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn penalties(rule: Dry, tokens: &[u32]) -> Vec<(u32, f32)> {
        let repetitions = Repetitions::new(&rule, tokens).expect("it is on");
        repetitions.penalties().into_iter().collect()
    }

    #[test]
    fn the_longest_repetition_counts() {
        let rule = || Dry { multiplier: 1.0, base: 2.0, ..Dry::default() };
        let breakers = |breakers: &[(u32, &[u32])]| {
            let mut map: HashMap<u32, Vec<Vec<u32>>> = HashMap::new();
            for (head, tail) in breakers {
                map.entry(*head).or_default().push(tail.to_vec());
            }
            Arc::new(map)
        };
        let cases: [(Dry, &[u32], &[(u32, f32)]); 8] = [
            // "1 2 3" stood before "4", "2 3" before "9".
            (rule(), &[1, 2, 3, 4, 2, 3, 9, 1, 2, 3], &[(4, 2.0), (9, 1.0)]),
            (rule(), &[1, 2, 3], &[]),
            (Dry { allowed_length: 3, ..rule() }, &[2, 3, 9, 1, 2, 3], &[]),
            (Dry { last_n: Some(5), ..rule() }, &[1, 2, 3, 4, 9, 1, 2, 3], &[]),
            (Dry { breakers: breakers(&[(2, &[])]), ..rule() }, &[1, 2, 3, 4, 1, 2, 3], &[]),
            (Dry { breakers: breakers(&[(4, &[])]), ..rule() }, &[1, 2, 3, 4, 1, 2, 3], &[]),
            (Dry { breakers: breakers(&[(1, &[2])]), ..rule() }, &[1, 2, 3, 4, 1, 2, 3], &[]),
            (
                Dry { breakers: breakers(&[(1, &[3])]), ..rule() },
                &[1, 2, 3, 4, 1, 2, 3],
                &[(4, 2.0)],
            ),
        ];
        for (rule, tokens, expected) in cases {
            assert_eq!(penalties(rule.clone(), tokens), expected, "{rule:?} {tokens:?}");
        }
        let huge = Dry { multiplier: 1.0, base: 1e3, ..Dry::default() };
        assert!(penalties(huge, &[7; 200])[0].1.is_finite());
    }

    proptest! {
        #[test]
        fn prefixes_equal_the_definition(tokens in prop::collection::vec(0_u32..3, 0..40)) {
            let lens = common_prefixes(&tokens);
            for at in 1..tokens.len() {
                let pairs = tokens.iter().zip(&tokens[at..]);
                prop_assert_eq!(lens[at], pairs.take_while(|(a, b)| a == b).count());
            }
        }
    }
}
