//! The sampler against a plain one that sorts the vocabulary.

use proptest::prelude::*;

use super::*;
use crate::engine::sampling::{Mirostat, MirostatVersion, Xtc};

const NO: f32 = f32::NEG_INFINITY;

fn sampler(sampling: Sampling) -> Sampler {
    Sampler::new(&mut Request {
        prompt: vec![0, 1],
        max_tokens: 100,
        sampling,
        ..Request::default()
    })
}

fn sample(sampler: &mut Sampler, logits: &[f32]) -> Result<u32, SampleError> {
    let sampled = sampler.sample(&mut logits.to_vec(), &mut Scratch::default());
    sampled.map(|sampled| sampled.token)
}

/// Probabilities after temperature, top_k, top_p and min_p, by the definitions and sorting.
fn plain_distribution(sampling: &Sampling, row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(NO, f32::max);
    let weight = |x: f32| f64::from((x - max) / sampling.temperature).exp();
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let total: f64 = order.iter().map(|&i| weight(row[i])).sum();
    let mut sum = 0.0;
    order.retain(|&i| {
        let keep = sampling.top_p >= 1.0 || sum < f64::from(sampling.top_p) * total;
        sum += weight(row[i]);
        keep && weight(row[i]) >= f64::from(sampling.min_p)
    });
    let total: f64 = order.iter().map(|&i| weight(row[i])).sum();
    let mut probabilities = vec![0.0; row.len()];
    for i in order {
        probabilities[i] = weight(row[i]) / total;
    }
    probabilities
}

proptest! {
    /// Only tokens that the definitions allow are drawn, whichever selection is used.
    #[test]
    fn draws_what_the_definitions_allow(
        row in prop::collection::vec(prop_oneof![9 => -8.0_f32..8.0, 1 => Just(NO)], 2..3000),
        temperature in 0.05_f32..3.0,
        top_k in prop_oneof![Just(0_u32), 1_u32..2000],
        top_p in prop_oneof![Just(1.0_f32), 0.01_f32..1.0],
        min_p in prop_oneof![Just(0.0_f32), 0.0_f32..1.0],
        seed in any::<u64>(),
    ) {
        prop_assume!(row.iter().any(|&x| x > NO));
        let sampling = Sampling { temperature, top_p, top_k, min_p, seed, ..Sampling::default() };
        let probabilities = plain_distribution(&sampling, &row);
        // A token at the very edge of top_p or min_p may fall on either side by rounding.
        let loose = plain_distribution(
            &Sampling { top_p: top_p + 1e-3, min_p: min_p * 0.999, ..sampling.clone() },
            &row,
        );
        let mut sampler = sampler(sampling);
        for _ in 0..20 {
            let token = sample(&mut sampler, &row).unwrap() as usize;
            prop_assert!(probabilities[token] > 0.0 || loose[token] > 0.0, "token {}", token);
        }
    }
}

#[test]
fn draws_as_often_as_probable() {
    let row: Vec<f32> = (0..40).map(|i| (i * 7 % 13) as f32 / 3.0).collect();
    let cases = [
        Sampling::default(),
        Sampling { temperature: 0.5, ..Sampling::default() },
        Sampling { top_k: 5, ..Sampling::default() },
        Sampling { top_p: 0.6, ..Sampling::default() },
        Sampling { min_p: 0.2, ..Sampling::default() },
        Sampling { top_k: 20, top_p: 0.9, min_p: 0.05, temperature: 1.5, ..Sampling::default() },
    ];
    for sampling in cases {
        let probabilities = plain_distribution(&sampling, &row);
        let mut sampler = sampler(sampling.clone());
        let mut counts = vec![0_u32; row.len()];
        let draws = 20_000;
        for _ in 0..draws {
            counts[sample(&mut sampler, &row).unwrap() as usize] += 1;
        }
        for (count, probability) in counts.iter().zip(&probabilities) {
            let expected = probability * f64::from(draws);
            // Five standard deviations.
            let tolerance = 5.0 * (expected * (1.0 - probability)).sqrt() + 1e-9;
            assert!((f64::from(*count) - expected).abs() <= tolerance, "{sampling:?}");
        }
    }
}

#[test]
fn temperature_zero_takes_the_first_of_the_largest() {
    for temperature in [0.0, 1e-45] {
        let mut sampler = sampler(Sampling { temperature, ..Sampling::default() });
        assert_eq!(sample(&mut sampler, &[0.0, 3.0, 3.0, NO]), Ok(1));
    }
    let mut cold = sampler(Sampling { temperature: 1e-30, ..Sampling::default() });
    assert_eq!(sample(&mut cold, &[0.0, 3.0, 2.9999, NO]), Ok(1));
}

#[test]
fn penalties_count_as_documented() {
    let sampling = Sampling {
        temperature: 0.0,
        repetition_penalty: 2.0,
        frequency_penalty: 0.5,
        presence_penalty: 0.25,
        ..Sampling::default()
    };
    let mut sampler = sampler(sampling);
    sampler.accept(2).unwrap();
    sampler.accept(2).unwrap();
    sampler.accept(3).unwrap();
    let mut row = [4.0, -4.0, 4.0, -4.0, 4.0];
    sampler.edit(&mut row);
    // 0 and 1 are in the prompt; 2 twice and 3 once in the output; 4 nowhere.
    assert_eq!(row, [2.0, -8.0, 2.0 - 1.25, -8.0 - 0.75, 4.0]);
}

#[test]
fn fails_instead_of_guessing() {
    let inf = f32::INFINITY;
    for temperature in [0.0, 1.0] {
        let sampling = || Sampling { temperature, ..Sampling::default() };
        let cases: [(&[f32], SampleError); 4] = [
            (&[0.0, f32::NAN], SampleError::NotFinite),
            (&[0.0, inf], SampleError::NotFinite),
            (&[NO, NO], SampleError::AllBanned),
            (&[], SampleError::AllBanned),
        ];
        for (row, error) in cases {
            assert_eq!(sample(&mut sampler(sampling()), row), Err(error), "{row:?}");
        }
    }
}

#[test]
fn a_banned_token_is_never_drawn() {
    let logit_bias = vec![(1, -100.0), (2, f32::NEG_INFINITY)];
    let mut sampler = sampler(Sampling { logit_bias, temperature: 1e6, ..Sampling::default() });
    for _ in 0..200 {
        assert!(matches!(sample(&mut sampler, &[0.0, 50.0, 50.0, 0.0]), Ok(0 | 3)));
    }
}

#[test]
fn logprobs_are_taken_before_bans() {
    let mut request = Request {
        prompt: vec![0],
        max_tokens: 2,
        min_tokens: 1,
        stop_tokens: vec![1],
        sampling: Sampling { temperature: 0.0, logit_bias: vec![(0, 1.0)], ..Sampling::default() },
        logprobs: Some(5),
        ..Request::default()
    };
    let mut sampler = Sampler::new(&mut request);
    let sampled = sampler.sample(&mut [0.0, 2.0, 1.0], &mut Scratch::default()).unwrap();
    let sum = (1.0_f32.exp() * 2.0 + 2.0_f32.exp()).ln();
    assert_eq!(sampled.token, 0);
    let logprobs = sampled.logprobs.unwrap();
    assert!((logprobs.logprob - (1.0 - sum)).abs() < 1e-5);
    assert_eq!(logprobs.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 0, 2]);
}

fn temperature_last(stages: &[Stage]) -> Vec<Stage> {
    stages.iter().copied().chain([Stage::Temperature]).collect()
}

/// What is left of a row, by 400 draws.
fn drawn(sampling: Sampling, row: &[f32]) -> Vec<u32> {
    let mut sampler = sampler(sampling);
    let mut tokens: Vec<u32> = (0..400).map(|_| sample(&mut sampler, row).unwrap()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[test]
fn each_stage_keeps_what_its_definition_says() {
    use Stage::{MinP, TopK, TopNSigma, TopP, TypicalP, Xtc as ExcludeTop};
    let base = Sampling::default;
    // Probabilities 0.4, 0.3, 0.2, 0.1.
    let row = [0.4_f32, 0.3, 0.2, 0.1].map(f32::ln);
    let xtc = Xtc { probability: 1.0, threshold: 0.15 };
    let cases: Vec<(Sampling, &[Stage], &[u32])> = vec![
        (Sampling { top_k: 2, ..base() }, &[TopK], &[0, 1]),
        (Sampling { top_k: 1, min_keep: 3, ..base() }, &[TopK], &[0, 1, 2]),
        (Sampling { top_p: 0.65, ..base() }, &[TopP], &[0, 1]),
        (Sampling { top_p: 0.1, min_keep: 2, ..base() }, &[TopP], &[0, 1]),
        (Sampling { min_p: 0.6, ..base() }, &[MinP], &[0, 1]),
        (Sampling { min_p: 0.6, min_keep: 3, ..base() }, &[MinP], &[0, 1, 2]),
        // The entropy is 1.28: nearest to it is 0.3 (1.20), then 0.2 (1.61), then 0.4 (0.92).
        (Sampling { typical_p: 0.25, ..base() }, &[TypicalP], &[1]),
        (Sampling { typical_p: 0.4, ..base() }, &[TypicalP], &[1, 2]),
        // The standard deviation is 0.52: 0.3 is 0.29 below the best, 0.2 0.69.
        (Sampling { top_n_sigma: 1.0, ..base() }, &[TopNSigma], &[0, 1]),
        (Sampling { xtc, ..base() }, &[ExcludeTop], &[2, 3]),
        (Sampling { xtc, min_keep: 3, ..base() }, &[ExcludeTop], &[0, 1, 2, 3]),
        (Sampling { xtc: Xtc { probability: 0.0, ..xtc }, ..base() }, &[ExcludeTop], &[0, 1, 2, 3]),
        // A stage that is not in the order does nothing.
        (Sampling { top_k: 1, ..base() }, &[TopP], &[0, 1, 2, 3]),
        // First 0.4 and 0.3 are left, of which XTC takes the likelier.
        (Sampling { xtc, top_k: 2, ..base() }, &[TopK, ExcludeTop], &[1]),
        (Sampling { xtc, top_k: 1, ..base() }, &[ExcludeTop, TopK], &[2]),
    ];
    for (sampling, stages, expected) in cases {
        let sampling = Sampling { order: Some(temperature_last(stages)), ..sampling };
        assert_eq!(drawn(sampling.clone(), &row), expected, "{sampling:?}");
    }
}

#[test]
fn the_temperature_can_follow_the_entropy() {
    let sampling = Sampling { temperature_range: 1.0, ..Sampling::default() };
    // All alike: the highest temperature, at which the draw stays even.
    assert_eq!(drawn(sampling.clone(), &[1.0; 4]), [0, 1, 2, 3]);
    // One is nearly certain: the temperature is nearly 0.
    assert_eq!(drawn(sampling.clone(), &[8.0, 0.0, 0.0, 0.0]), [0]);
    let plain = Sampling { temperature_range: 0.0, ..sampling };
    assert_eq!(drawn(plain, &[4.0, 0.0, 0.0, 0.0]).len(), 4);
}

proptest! {
    /// The chain draws from the distribution that the faster way draws from.
    #[test]
    fn the_chain_equals_the_plain_way(
        row in prop::collection::vec(-8.0_f32..8.0, 2..600),
        temperature in 0.1_f32..3.0,
        top_k in prop_oneof![Just(0_u32), 1_u32..300],
        min_p in prop_oneof![Just(0.0_f32), 0.01_f32..0.5],
        seed in any::<u64>(),
    ) {
        let sampling = Sampling { temperature, top_k, min_p, seed, ..Sampling::default() };
        let explicit = Sampling { order: Some(default_order(false)), ..sampling.clone() };
        let probabilities = plain_distribution(&sampling, &row);
        let loose =
            plain_distribution(&Sampling { min_p: min_p * 0.999, ..sampling }, &row);
        let mut sampler = sampler(explicit);
        for _ in 0..20 {
            let token = sample(&mut sampler, &row).unwrap() as usize;
            prop_assert!(probabilities[token] > 0.0 || loose[token] > 0.0, "token {}", token);
        }
    }
}

#[test]
fn penalties_look_at_the_window() {
    let sampling = |last_n| Sampling {
        temperature: 0.0,
        repetition_penalty: 2.0,
        frequency_penalty: 1.0,
        penalty_last_n: last_n,
        ..Sampling::default()
    };
    // The prompt is 0 1, the output 2 2 3.
    let cases = [
        (None, [2.0, 2.0, 0.0, 1.0, 4.0]),
        (Some(0), [4.0; 5]),
        (Some(2), [4.0, 4.0, 1.0, 1.0, 4.0]),
        (Some(4), [4.0, 2.0, 0.0, 1.0, 4.0]),
    ];
    for (last_n, expected) in cases {
        let mut sampler = sampler(sampling(last_n));
        [2, 2, 3].into_iter().for_each(|token| sampler.accept(token).unwrap());
        let mut row = [4.0; 5];
        sampler.edit(&mut row);
        assert_eq!(row, expected, "{last_n:?}");
    }
}

#[test]
fn banned_sequences_never_complete() {
    let banned = vec![vec![4], vec![2, 3], vec![0, 2]];
    let mut sampler = sampler(Sampling { banned, temperature: 0.0, ..Sampling::default() });
    // The likeliest is banned; 2 is allowed, as the prompt is no output; then 3 is not, then it is.
    let row = [0.0, 0.0, 2.0, 1.0, 9.0];
    assert_eq!(sample(&mut sampler, &row), Ok(2));
    assert_eq!(sample(&mut sampler, &[0.5, 0.0, 0.0, 1.0, 9.0]), Ok(0));
    assert_eq!(sample(&mut sampler, &[0.0, 0.0, 2.0, 1.0, 9.0]), Ok(3));
}

#[test]
fn probabilities_of_the_draw_are_those_after_the_samplers() {
    let mut request = Request {
        prompt: vec![0],
        max_tokens: 9,
        sampling: Sampling { top_k: 2, ..Sampling::default() },
        logprobs: Some(5),
        logprobs_of: LogprobsOf::Draw,
        ..Request::default()
    };
    let row = [0.6_f32, 0.2, 0.2].map(f32::ln);
    let mut sampler = Sampler::new(&mut request);
    let logprobs = sampler.sample(&mut row.clone(), &mut Scratch::default()).unwrap().logprobs;
    let top = logprobs.unwrap().top;
    assert_eq!(top.iter().map(|top| top.0).collect::<Vec<_>>(), [0, 1]);
    assert!((top[0].1 - 0.75_f32.ln()).abs() < 1e-5 && (top[1].1 - 0.25_f32.ln()).abs() < 1e-5);
}

#[test]
fn each_token_takes_the_documented_draws() {
    let xtc = Xtc { probability: 0.5, threshold: 0.1 };
    let mirostat = Mirostat { version: MirostatVersion::V2, tau: 5.0, eta: 0.1 };
    let cases = [
        (Sampling::default(), 1),
        (Sampling { temperature: 0.0, ..Sampling::default() }, 0),
        (Sampling { typical_p: 0.5, ..Sampling::default() }, 1),
        (Sampling { mirostat: Some(mirostat), ..Sampling::default() }, 1),
        (Sampling { xtc, ..Sampling::default() }, 2),
    ];
    for (sampling, draws) in cases {
        let mut sampler = sampler(Sampling { seed: 7, ..sampling.clone() });
        sample(&mut sampler, &[1.0, 2.0, 3.0]).unwrap();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        for _ in 0..draws {
            rng.next_u64();
        }
        assert_eq!(sampler.rng.next_u64(), rng.next_u64(), "{sampling:?}");
    }
}

/// A seed means the same numbers in every version: xoshiro256++ after SplitMix64, as published.
#[test]
fn seeds_mean_the_same_for_ever() {
    let mut sampler = sampler(Sampling { seed: 7, ..Sampling::default() });
    let drawn = [(); 3].map(|()| sampler.rng.next_u64());
    assert_eq!(drawn, [0x0e2c_1a00_2aae_913d, 0x2c0f_c8dd_fa4e_9e14, 0xb7b3_11b3_b0d4_5872]);
}
