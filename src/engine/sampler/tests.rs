//! The sampler against a plain one that sorts the vocabulary.

use proptest::prelude::*;

use super::*;

const NO: f32 = f32::NEG_INFINITY;

fn sampler(sampling: Sampling) -> Sampler {
    Sampler::new(&mut Request {
        prompt: vec![0, 1],
        max_tokens: 100,
        min_tokens: 0,
        stop_tokens: Vec::new(),
        sampling,
        logprobs: None,
        prompt_logprobs: None,
        cache_salt: 0,
        constraint: None,
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
    sampler.penalise(&mut row);
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
        prompt_logprobs: None,
        cache_salt: 0,
        constraint: None,
    };
    let mut sampler = Sampler::new(&mut request);
    let sampled = sampler.sample(&mut [0.0, 2.0, 1.0], &mut Scratch::default()).unwrap();
    let sum = (1.0_f32.exp() * 2.0 + 2.0_f32.exp()).ln();
    assert_eq!(sampled.token, 0);
    let logprobs = sampled.logprobs.unwrap();
    assert!((logprobs.logprob - (1.0 - sum)).abs() < 1e-5);
    assert_eq!(logprobs.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 0, 2]);
}
