//! How likely guessed tokens are right, learned from all guesses, computed or not.

use super::chains::LONGEST_MATCH;

/// Where a guess comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A constraint that leaves no choice.
    Forced,
    /// The request's prediction of its output.
    Prediction,
    /// The sequence's own text.
    Text,
}

pub(super) const NUM_ORIGINS: usize = 3;

/// Matches that are told apart: from none to the longest.
const NUM_MATCHES: usize = LONGEST_MATCH + 1;

/// How far one guess moves what is known of all sequences, and of its own.
const RATE: f32 = 0.05;
const OWN_RATE: f32 = 0.5;

/// Log odds beyond which nothing more is learned.
const MAX_LOG_ODDS: f32 = 6.0;

/// What is known of all sequences: a small logistic regression. The odds of a token depend on where
/// the guess comes from and how many tokens before it are known to match, those of the guess itself
/// included.
#[derive(Clone, Debug)]
pub(super) struct Odds {
    log_odds: [[f32; NUM_MATCHES]; NUM_ORIGINS],
}

/// How much better or worse than the others one sequence's guesses are, in log odds.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnOdds([f32; NUM_ORIGINS]);

impl Default for Odds {
    fn default() -> Self {
        let log_odds = |chance: f32| (chance / (1.0 - chance)).ln();
        let by_match = |chance: &dyn Fn(f32) -> f32| {
            std::array::from_fn(|matched| log_odds(chance(matched as f32)))
        };
        Self {
            log_odds: [
                by_match(&|_| 0.95),
                by_match(&|matched| (matched + 3.0) / (matched + 4.0)),
                by_match(&|matched| (matched + 0.1) / (matched + 4.0)),
            ],
        }
    }
}

impl Odds {
    /// Chance that a token is right, if those before it are.
    pub(super) fn chance(&self, origin: Origin, matched: usize, own: &OwnOdds) -> f32 {
        let known = self.log_odds[origin as usize][matched.min(LONGEST_MATCH)];
        1.0 / (1.0 + (-(known + own.0[origin as usize])).exp())
    }

    /// Takes note of whether it was.
    pub(super) fn learn(
        &mut self,
        origin: Origin,
        matched: usize,
        own: &mut OwnOdds,
        was_right: bool,
    ) {
        let surprise = f32::from(u8::from(was_right)) - self.chance(origin, matched, own);
        let known = &mut self.log_odds[origin as usize][matched.min(LONGEST_MATCH)];
        for (odds, rate) in [(known, RATE), (&mut own.0[origin as usize], OWN_RATE)] {
            *odds = (*odds + rate * surprise).clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_follow_what_happens() {
        let mut odds = Odds::default();
        let (mut good, mut bad) = (OwnOdds::default(), OwnOdds::default());
        let at_first = odds.chance(Origin::Text, 3, &good);
        for _ in 0..200 {
            odds.learn(Origin::Text, 3, &mut good, true);
            odds.learn(Origin::Text, 3, &mut bad, false);
        }
        let [good, bad] = [&good, &bad].map(|own| odds.chance(Origin::Text, 3, own));
        assert!(good > 0.9 && bad < 0.1, "{good} {bad}");
        let others = odds.chance(Origin::Text, 3, &OwnOdds::default());
        assert!((others - at_first).abs() < 0.3, "half are right: {others}");
        assert!(odds.chance(Origin::Text, 15, &OwnOdds::default()) > at_first);
    }
}
