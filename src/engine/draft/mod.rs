//! Guesses the continuation of a sequence: what a constraint forces, what the request predicts, or
//! what followed the newest tokens where they stood before (prompt lookup).
//!
//! A step computes guessed tokens behind the pending one and keeps what the sampler would have chosen
//! anyway, so a wrong guess costs rows and never changes the output. Every sequence is guessed at
//! every step, and the guess compared with what is then chosen, whether it was computed or not: the
//! `odds` of guesses are learned for nothing. What a further row `cost`s is learned from the steps.
//! A guess is computed as far as the step then gives more useful rows for its time.

mod chains;
pub mod cost;
mod odds;

use chains::{Chains, LONGEST_MATCH, Place};
use cost::RowCost;
use odds::{Odds, Origin, OwnOdds};

/// Chance below which a token is not worth a thought.
const MIN_CHANCE: f32 = 0.05;

/// The same beside a prompt: there the processor computes all the time, and a row that is wrong takes
/// the place of one that is not.
const MIN_CHANCE_BESIDE_PROMPT: f32 = 0.9;

/// How much more a step with guesses must promise, as a factor: less is within the error.
const MIN_GAIN: f64 = 1.02;

/// Chance of forced tokens below which they are seldom asked for, and how seldom.
const MIN_FORCED_CHANCE: f32 = 0.2;
const FORCED_EVERY: u32 = 16;

/// How guesses are chosen, for all sequences of an engine.
#[derive(Debug)]
pub struct Speculation {
    max_draft: usize,
    odds: Odds,
    pub cost: RowCost,
}

/// What is guessed for a sequence: the chance of each token to be right together with all before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chances(pub Vec<f32>);

impl Speculation {
    /// At most `max_draft` tokens of a sequence are computed in a step; 0 = none.
    #[must_use]
    pub fn new(max_draft: usize, cost: RowCost) -> Self {
        Self { max_draft, odds: Odds::default(), cost }
    }

    #[must_use]
    pub fn max_draft(&self) -> usize {
        self.max_draft
    }

    /// How many tokens of each guess a step is to compute that has `rows` rows without them.
    #[must_use]
    pub fn choose(&self, guesses: &[Chances], rows: usize, beside_prompt: bool) -> Vec<usize> {
        let mut lengths = vec![0; guesses.len()];
        let min_chance = if beside_prompt { MIN_CHANCE_BESIDE_PROMPT } else { MIN_CHANCE };
        let mut tokens: Vec<(f32, usize)> = Vec::new();
        for (sequence, Chances(chances)) in guesses.iter().enumerate() {
            let likely = chances.iter().take_while(|&&chance| chance >= min_chance);
            tokens.extend(likely.map(|&chance| (chance, sequence)));
        }
        // The likeliest first: a sequence's tokens stay in order, as their chances fall.
        tokens.sort_by(|a, b| b.0.total_cmp(&a.0));
        let num_chosen = if beside_prompt { tokens.len() } else { self.worthwhile(&tokens, rows) };
        for &(_, sequence) in &tokens[..num_chosen] {
            lengths[sequence] += 1;
        }
        lengths
    }

    /// How many of the tokens, likeliest first, give a step the most useful rows for its time.
    fn worthwhile(&self, tokens: &[(f32, usize)], rows: usize) -> usize {
        let without = rows as f64 / self.cost.of(rows);
        let (mut best, mut num_best) = (without * MIN_GAIN, 0);
        let mut useful = rows as f64;
        for (index, (chance, _)) in tokens.iter().enumerate() {
            useful += f64::from(*chance);
            let worth = useful / self.cost.of(rows + index + 1);
            if worth > best {
                (best, num_best) = (worth, index + 1);
            }
        }
        num_best
    }
}

/// Guesses for one sequence, and how well they did.
#[derive(Debug, Default)]
pub struct Drafter {
    prediction: Option<Prediction>,
    text: Source,
    guess: Guess,
    /// The guess that was made as well and found less likely.
    rival: Option<Guess>,
    own: OwnOdds,
    /// Steps until forced tokens are asked for again.
    forced_pause: u32,
}

/// What the output is said to be.
#[derive(Debug)]
struct Prediction {
    tokens: Vec<u32>,
    /// Tokens of the prompt, behind which the output begins.
    prompt_len: usize,
    source: Source,
}

/// A text in which a sequence is followed.
#[derive(Debug, Default)]
struct Source {
    chains: Chains,
    trail: Option<Trail>,
    /// Where the sequence was last.
    near: usize,
}

/// Where a sequence is in a text, and how long it was then.
#[derive(Clone, Copy, Debug)]
struct Trail {
    place: Place,
    len: usize,
}

/// The current guess.
#[derive(Debug)]
struct Guess {
    origin: Origin,
    /// Tokens before it that are known to match.
    matched: usize,
    tokens: Vec<u32>,
    /// Of them, those that are computed.
    num_drafted: usize,
}

impl Default for Guess {
    fn default() -> Self {
        Self { origin: Origin::Text, matched: 0, tokens: Vec::new(), num_drafted: 0 }
    }
}

/// What became of the tokens that a step computed ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafts {
    /// Tokens computed ahead, and those of them that were right.
    pub computed: u32,
    pub right: u32,
    /// Of the request's prediction, tokens computed ahead that were right and that were wrong.
    pub predicted_right: u32,
    pub predicted_wrong: u32,
}

impl std::ops::AddAssign for Drafts {
    fn add_assign(&mut self, more: Self) {
        self.computed += more.computed;
        self.right += more.right;
        self.predicted_right += more.predicted_right;
        self.predicted_wrong += more.predicted_wrong;
    }
}

impl Drafter {
    /// Guesses from a prediction of what follows the prompt, unless it is empty.
    #[must_use]
    pub fn predicting(tokens: Vec<u32>, prompt_len: usize) -> Self {
        let start = Trail { place: Place { at: 0, matched: 0 }, len: 0 };
        let source = Source { trail: Some(start), ..Source::default() };
        let prediction = Prediction { tokens, prompt_len, source };
        Self {
            prediction: Some(prediction).filter(|prediction| !prediction.tokens.is_empty()),
            ..Self::default()
        }
    }

    /// Guesses at most `limit` tokens behind `tokens`: what is `forced`, if that is anything.
    pub fn guess(
        &mut self,
        tokens: &[u32],
        forced: impl FnOnce() -> Vec<u32>,
        limit: usize,
        speculation: &Speculation,
    ) -> Chances {
        let limit = limit.min(speculation.max_draft);
        let odds = &speculation.odds;
        (self.guess, self.rival) = (Guess::default(), None);
        if limit > 0 {
            self.guess = self
                .guess_forced(forced, odds)
                .or_else(|| self.guess_known(tokens, limit, odds))
                .unwrap_or_default();
            self.guess.tokens.truncate(limit);
        }
        let Guess { origin, matched, tokens, .. } = &self.guess;
        let chance = |index| odds.chance(*origin, matched + index, &self.own);
        let mut together = 1.0;
        Chances(
            (0..tokens.len())
                .map(|index| {
                    together *= chance(index);
                    together
                })
                .collect(),
        )
    }

    /// From the prediction or from the text, whichever is likelier to be right.
    fn guess_known(&mut self, tokens: &[u32], limit: usize, odds: &Odds) -> Option<Guess> {
        let text = self.text.guess(tokens, limit);
        let Some(predicted) = self.prediction.as_mut().and_then(|p| p.guess(tokens, limit)) else {
            return text;
        };
        let chance = |guess: &Guess| odds.chance(guess.origin, guess.matched, &self.own);
        let Some(text) = text else { return Some(predicted) };
        let is_text_better = chance(&text) > chance(&predicted);
        let (better, rival) = if is_text_better { (text, predicted) } else { (predicted, text) };
        self.rival = Some(rival);
        Some(better)
    }

    fn guess_forced(&mut self, forced: impl FnOnce() -> Vec<u32>, odds: &Odds) -> Option<Guess> {
        self.forced_pause = self.forced_pause.saturating_sub(1);
        if self.forced_pause > 0 {
            return None;
        }
        if odds.chance(Origin::Forced, 0, &self.own) < MIN_FORCED_CHANCE {
            self.forced_pause = FORCED_EVERY;
        }
        let tokens = Some(forced()).filter(|tokens| !tokens.is_empty())?;
        Some(Guess { origin: Origin::Forced, matched: 0, tokens, num_drafted: 0 })
    }

    /// The leading tokens of the guess, which the next step computes.
    pub fn draft(&mut self, len: usize) -> Vec<u32> {
        let len = len.min(self.guess.tokens.len());
        self.guess.num_drafted = len;
        self.guess.tokens[..len].to_vec()
    }

    /// Learns what was chosen after the guess was made; of its tokens `num_computed` were.
    pub fn observe(
        &mut self,
        chosen: &[u32],
        num_computed: usize,
        speculation: &mut Speculation,
    ) -> Drafts {
        let Guess { origin, matched, ref tokens, num_drafted } = self.guess;
        let num_computed = num_computed.min(num_drafted);
        let mut num_right = 0;
        for (index, (guessed, chosen)) in tokens.iter().zip(chosen).enumerate() {
            let was_right = guessed == chosen;
            speculation.odds.learn(origin, matched + index, &mut self.own, was_right);
            if !was_right {
                break;
            }
            num_right += 1;
        }
        if let (Some(rival), Some(chosen)) = (self.rival.take(), chosen.first()) {
            let was_right = rival.tokens.first() == Some(chosen);
            speculation.odds.learn(rival.origin, rival.matched, &mut self.own, was_right);
        }
        let (computed, right) = (num_computed as u32, num_right.min(num_computed) as u32);
        let (predicted_right, predicted_wrong) = match origin {
            Origin::Prediction => (right, computed - right),
            Origin::Forced | Origin::Text => (0, 0),
        };
        self.guess = Guess::default();
        Drafts { computed, right, predicted_right, predicted_wrong }
    }
}

impl Prediction {
    fn guess(&mut self, tokens: &[u32], limit: usize) -> Option<Guess> {
        let output = tokens.get(self.prompt_len..)?;
        self.source.chains.extend(&self.tokens);
        let near = self.source.near;
        let Place { at, matched } = self.source.follow(&self.tokens, output, near)?;
        self.source.near = at;
        let tokens: Vec<u32> = self.tokens[at..].iter().copied().take(limit).collect();
        let guess = Guess { origin: Origin::Prediction, matched, tokens, num_drafted: 0 };
        Some(guess).filter(|guess| !guess.tokens.is_empty())
    }
}

impl Source {
    /// The sequence's own text as its source. Text that repeats itself is guessed to go on so.
    fn guess(&mut self, tokens: &[u32], limit: usize) -> Option<Guess> {
        self.chains.extend(tokens);
        let Place { at, matched } = self.follow(tokens, tokens, tokens.len())?;
        let period = &tokens[at..];
        let tokens = period.iter().copied().cycle().take(limit).collect();
        Some(Guess { origin: Origin::Text, matched, tokens, num_drafted: 0 })
    }

    /// Where in `text` the sequence is that ends with `context`.
    fn follow(&mut self, text: &[u32], context: &[u32], near: usize) -> Option<Place> {
        let followed = self.trail.and_then(|Trail { place, len }| {
            let new = context.get(len..)?;
            text.get(place.at..place.at + new.len()).filter(|same| *same == new)?;
            let matched = (place.matched + new.len()).min(LONGEST_MATCH);
            Some(Place { at: place.at + new.len(), matched })
        });
        let is_certain = followed.is_some_and(|place| place.matched == LONGEST_MATCH);
        let found = if is_certain { None } else { self.chains.find(text, context, near) };
        let place = match (followed, found) {
            (Some(followed), Some(found)) if found.matched > followed.matched => Some(found),
            (None, found) => found,
            (followed, _) => followed,
        };
        self.trail = place.map(|place| Trail { place, len: context.len() });
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Vec<u32> {
        Vec::new()
    }

    /// The tokens that are guessed, and takes note that they are computed.
    fn guessed(drafter: &mut Drafter, tokens: &[u32], limit: usize) -> Vec<u32> {
        let speculation = Speculation::new(64, RowCost::free());
        let Chances(chances) = drafter.guess(tokens, nothing, limit, &speculation);
        assert!(chances.is_sorted_by(|a, b| a >= b), "{chances:?}");
        drafter.draft(chances.len())
    }

    #[test]
    fn continues_what_stood_before() {
        let cases: [(&[u32], usize, &[u32]); 5] = [
            (&[1, 2, 3, 9, 1, 2], 3, &[3, 9, 1]),
            (&[1, 2, 3, 9, 1, 2], 6, &[3, 9, 1, 2, 3, 9]),
            (&[1, 2, 7, 0, 1, 2, 8, 0, 1, 2], 2, &[8, 0]),
            (&[1, 2, 3], 4, &[]),
            (&[4, 4, 4], 4, &[4, 4, 4, 4]),
        ];
        for (tokens, limit, expected) in cases {
            assert_eq!(guessed(&mut Drafter::default(), tokens, limit), expected, "{tokens:?}");
        }
    }

    #[test]
    fn follows_a_prediction_and_finds_back() {
        let prediction = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let mut drafter = Drafter::predicting(prediction, 1);
        let cases: [(&[u32], &[u32]); 6] = [
            (&[0], &[1, 2]),
            (&[0, 1], &[2, 3]),
            (&[0, 1, 2, 3], &[4, 5]),
            // A token that is not predicted, then the prediction again.
            (&[0, 1, 2, 3, 9], &[]),
            (&[0, 1, 2, 3, 9, 5], &[]),
            (&[0, 1, 2, 3, 9, 5, 6], &[7, 8]),
        ];
        for (tokens, expected) in cases {
            assert_eq!(guessed(&mut drafter, tokens, 2), expected, "{tokens:?}");
        }
        assert_eq!(guessed(&mut drafter, &[0, 5, 6, 7, 8], 2), [0; 0], "it is at its end");
    }

    #[test]
    fn what_is_forced_comes_first() {
        let speculation = Speculation::new(3, RowCost::free());
        let mut drafter = Drafter::predicting(vec![1, 2, 3], 1);
        let Chances(chances) = drafter.guess(&[0], || vec![7; 9], 8, &speculation);
        assert_eq!((chances.len(), drafter.draft(2)), (3, vec![7, 7]));
    }

    #[test]
    fn guesses_are_judged_whether_computed_or_not() {
        let tokens = [1, 2, 3, 1, 2];
        let mut speculation = Speculation::new(4, RowCost::free());
        let mut drafter = Drafter::default();
        let first = |drafter: &mut Drafter, speculation: &Speculation| {
            drafter.guess(&tokens, nothing, 4, speculation).0[0]
        };
        let at_first = first(&mut drafter, &speculation);
        assert_eq!(drafter.draft(0), [0; 0]);
        assert_eq!(drafter.observe(&[3], 0, &mut speculation), Drafts::default());
        let then = first(&mut drafter, &speculation);
        assert!(then > at_first, "{at_first} {then}");
        drafter.draft(3);
        let drafts = drafter.observe(&[3, 1, 9], 3, &mut speculation);
        assert_eq!((drafts.computed, drafts.right), (3, 2));
        // The scheduler had room for one only.
        first(&mut drafter, &speculation);
        drafter.draft(3);
        let drafts = drafter.observe(&[3, 1], 1, &mut speculation);
        assert_eq!((drafts.computed, drafts.right), (1, 1));
    }

    #[test]
    fn only_what_pays_is_computed() {
        let certain = Chances(vec![0.99, 0.98, 0.97, 0.96]);
        let doubtful = Chances(vec![0.3, 0.1, 0.06, 0.02]);
        let unlikely = Chances(vec![0.1, 0.03]);
        let guesses = [certain, doubtful, unlikely];
        // Rows that are nearly free, that cost an eighth of a step each, and that cost a step each.
        let mut dear = RowCost::default();
        for _ in 0..1000 {
            for rows in 1..12 {
                let elapsed = std::time::Duration::from_micros(1000 * rows);
                dear.observe(rows as usize, 1, elapsed);
            }
        }
        let cases = [
            (RowCost::free(), 3, false, [4, 3, 1]),
            (RowCost::default(), 1, false, [4, 0, 0]),
            (RowCost::default(), 8, false, [4, 0, 0]),
            (RowCost::default(), 64, false, [0, 0, 0]),
            (dear, 1, false, [0, 0, 0]),
            (RowCost::free(), 3, true, [4, 0, 0]),
        ];
        for (i, (cost, rows, beside_prompt, expected)) in cases.into_iter().enumerate() {
            let speculation = Speculation::new(8, cost);
            assert_eq!(speculation.choose(&guesses, rows, beside_prompt), expected, "case {i}");
        }
    }
}
