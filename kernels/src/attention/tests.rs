//! Paged attention against plain formulas.

use proptest::prelude::*;

use super::*;
use crate::detect::{self, with_tier};
use crate::rows::Rows;

/// Deterministic values around zero.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() % 4001) as f32 / 1000.0 - 2.0).collect()
    }
}

#[derive(Clone, Debug)]
struct Case {
    shape: KvShape,
    heads: usize,
    /// (positions already in the cache, new rows).
    spans: Vec<(usize, usize)>,
    causal: bool,
    window: Option<usize>,
    chunk: Option<usize>,
    has_slopes: bool,
    softcap: Option<f32>,
    has_sinks: bool,
    seed: u64,
}

/// A case with its tensors: everything a sequence ever stores, in order of position.
struct Data {
    case: Case,
    /// For each span (positions, heads * head_dim_k), (.., kv_heads * head_dim_k), (.., dim_v).
    sequences: Vec<[Vec<f32>; 3]>,
    sinks: Vec<f32>,
    slopes: Vec<f32>,
    /// Blocks of each span, scattered over the pool.
    blocks: Vec<Vec<u32>>,
    num_blocks: usize,
}

impl Data {
    fn new(case: Case) -> Data {
        let mut random = Random(case.seed);
        let lengths = case.spans.iter().map(|(old, new)| old + new);
        let shape = case.shape;
        let sequences = lengths
            .clone()
            .map(|n| {
                [
                    random.values(n * case.heads * shape.head_dim_k),
                    random.values(n * shape.kv_heads * shape.head_dim_k),
                    random.values(n * shape.kv_heads * shape.head_dim_v),
                ]
            })
            .collect();
        let needed: usize = lengths.clone().map(|n| n.div_ceil(BLOCK)).sum();
        let num_blocks = needed + 3;
        let mut free: Vec<u32> = (0..num_blocks as u32).collect();
        let blocks = lengths
            .map(|n| {
                let mut take = || free.swap_remove(random.below(free.len()));
                (0..n.div_ceil(BLOCK)).map(|_| take()).collect()
            })
            .collect();
        let sinks = random.values(case.heads);
        let slopes = (0..case.heads).map(|head| 0.4 / (head + 1) as f32).collect();
        Data { case, sequences, sinks, slopes, blocks, num_blocks }
    }

    fn params(&self) -> AttnParams<'_> {
        AttnParams {
            heads: self.case.heads,
            scale: 1.0 / (self.case.shape.head_dim_k as f32).sqrt(),
            causal: self.case.causal,
            window: self.case.window,
            chunk: self.case.chunk,
            slopes: self.case.has_slopes.then_some(&self.slopes[..]),
            softcap: self.case.softcap,
            sinks: self.case.has_sinks.then_some(&self.sinks[..]),
        }
    }

    /// Runs spans `(span, kv_len, rows)` as one batch, writing their rows to the cache first.
    /// Returns the rows of all of them.
    fn step(&self, cache: &mut Cache, spans: &[(usize, usize, usize)]) -> Vec<f32> {
        let shape = self.case.shape;
        let (q_cols, k_cols) =
            (self.case.heads * shape.head_dim_k, shape.kv_heads * shape.head_dim_k);
        let v_cols = shape.kv_heads * shape.head_dim_v;
        let (mut q, mut k, mut v, mut slots) = (vec![], vec![], vec![], vec![]);
        let mut refs = vec![];
        for &(span, kv_len, rows) in spans {
            let positions = kv_len - rows..kv_len;
            let part =
                |all: &[f32], cols| all[positions.start * cols..positions.end * cols].to_vec();
            q.extend(part(&self.sequences[span][0], q_cols));
            k.extend(part(&self.sequences[span][1], k_cols));
            v.extend(part(&self.sequences[span][2], v_cols));
            let blocks = &self.blocks[span];
            let first = slots.len();
            slots.extend(positions.map(|p| blocks[p / BLOCK] * 32 + (p % BLOCK) as u32));
            refs.push(SpanRef { rows: first..slots.len(), kv_len, blocks });
        }
        let rows = slots.len();
        let layout = cache.layout;
        let kv = KvMut { layout, cache: &mut cache.cells };
        kv_write(kv, Rows::new(&k, rows, k_cols), Rows::new(&v, rows, v_cols), &slots, &cache.pool);
        let mut out = vec![f32::NAN; rows * self.case.heads * shape.head_dim_v];
        let input = AttnInput {
            q: Rows::new(&q, rows, q_cols),
            kv: Kv { layout, cache: &cache.cells },
            spans: &refs,
            params: self.params(),
        };
        let out_rows = RowsMut::new(&mut out, rows, self.case.heads * shape.head_dim_v);
        attention(&input, out_rows, &mut cache.scratch, &cache.pool).unwrap();
        out
    }

    /// The new rows of all spans, after their old positions were stored by other calls.
    fn run(&self, threads: usize) -> Vec<f32> {
        let mut cache = Cache::new(self, threads);
        let old = |(span, (old, _)): (usize, &(usize, usize))| (span, *old, *old);
        let prompts: Vec<_> = self.case.spans.iter().enumerate().map(old).collect();
        self.step(&mut cache, &prompts);
        self.step(&mut cache, &self.whole())
    }

    fn whole(&self) -> Vec<(usize, usize, usize)> {
        let whole = |(span, (old, new)): (usize, &(usize, usize))| (span, old + new, *new);
        self.case.spans.iter().enumerate().map(whole).collect()
    }

    /// The same in f64, straight from the definition.
    fn oracle(&self) -> Vec<f64> {
        let mut out = vec![];
        for (span, (old, new)) in self.case.spans.iter().enumerate() {
            for position in *old..old + new {
                for head in 0..self.case.heads {
                    out.extend(self.oracle_head(span, position, head));
                }
            }
        }
        out
    }

    fn oracle_head(&self, span: usize, position: usize, head: usize) -> Vec<f64> {
        let KvShape { kv_heads, head_dim_k: dk, head_dim_v: dv } = self.case.shape;
        let params = self.params();
        let [q, k, v] = &self.sequences[span];
        let kv_head = head / (self.case.heads / kv_heads);
        let q = &q[(position * self.case.heads + head) * dk..][..dk];
        let half = |x: &f32| half::f16::from_f32(*x).to_f64();
        let is_visible = |key: usize| {
            let near = self.case.window.is_none_or(|window| position.abs_diff(key) < window);
            let alike = self.case.chunk.is_none_or(|chunk| key >= position / chunk * chunk);
            near && alike && (key <= position || !self.case.causal)
        };
        let length = self.case.spans[span].0 + self.case.spans[span].1;
        let mut weights = vec![];
        for key in (0..length).filter(|key| is_visible(*key)) {
            let row = k[(key * kv_heads + kv_head) * dk..][..dk].iter().map(half);
            let dot: f64 = q.iter().zip(row).map(|(q, k)| f64::from(*q) * k).sum();
            let score = dot * f64::from(params.scale);
            let cap = self.case.softcap.map(f64::from);
            let slope = params.slopes.map_or(0.0, |slopes| f64::from(slopes[head]));
            let bias = slope * position.abs_diff(key) as f64;
            weights.push((key, (cap.map_or(score, |cap| cap * (score / cap).tanh()) - bias).exp()));
        }
        let mut sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        sum += params.sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
        let mut out = vec![0.0; dv];
        for (key, weight) in weights {
            let row = v[(key * kv_heads + kv_head) * dv..][..dv].iter().map(half);
            for (out, v) in out.iter_mut().zip(row) {
                *out += weight / sum * v;
            }
        }
        out
    }
}

struct Cache {
    layout: KvLayout,
    cells: KvPool,
    scratch: AttnScratch,
    pool: Pool,
}

impl Cache {
    fn new(data: &Data, threads: usize) -> Cache {
        // The middle one of three layers.
        let other = KvShape { kv_heads: 1, head_dim_k: 3, head_dim_v: 16 };
        let layout = KvLayout::of_layers([other, data.case.shape, other])[1];
        // Not a number: what another sequence left behind must not matter.
        let mut cells = KvPool::whole(layout.block_len, data.num_blocks).unwrap();
        cells.fill(0x7e00);
        Cache { layout, cells, scratch: AttnScratch::new(), pool: Pool::new(threads) }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn check_against_oracle(data: &Data) {
    let expected = data.oracle();
    let got = data.run(2);
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error < 4e-6, "value {i}: {got}, not {expected}, {:?}", data.case);
    }
}

fn case(heads: usize, kv_heads: usize, head_dim_k: usize, head_dim_v: usize) -> Case {
    Case {
        shape: KvShape { kv_heads, head_dim_k, head_dim_v },
        heads,
        spans: vec![(0, 37), (300, 1), (41, 20), (0, 1), (511, 2)],
        causal: true,
        window: None,
        chunk: None,
        has_slopes: false,
        softcap: None,
        has_sinks: false,
        seed: 7,
    }
}

#[test]
fn shapes_of_models_match_the_oracle() {
    // (heads, kv_heads, head_dim_k, head_dim_v)
    let shapes = [
        (9, 3, 64, 64),
        (14, 2, 64, 64),
        (4, 4, 40, 40),
        (4, 1, 80, 80),
        (8, 2, 96, 96),
        (4, 2, 128, 128),
        (2, 1, 256, 256),
        (16, 1, 576, 512),
        (5, 5, 192, 128),
        (3, 1, 7, 5),
        (10, 1, 33, 17),
    ];
    for (heads, kv_heads, k, v) in shapes {
        check_against_oracle(&Data::new(case(heads, kv_heads, k, v)));
    }
}

#[test]
fn options_match_the_oracle() {
    let base = case(6, 2, 64, 48);
    let cases = [
        Case { window: Some(1), ..base.clone() },
        Case { window: Some(33), ..base.clone() },
        Case { window: Some(400), ..base.clone() },
        Case { softcap: Some(5.0), ..base.clone() },
        Case { has_sinks: true, ..base.clone() },
        Case { causal: false, ..base.clone() },
        Case { causal: false, window: Some(20), softcap: Some(30.0), ..base.clone() },
        Case { window: Some(70), softcap: Some(2.0), has_sinks: true, ..base.clone() },
        Case { has_slopes: true, ..base.clone() },
        Case { has_slopes: true, causal: false, ..base.clone() },
        Case { has_slopes: true, window: Some(90), has_sinks: true, ..base.clone() },
        Case { chunk: Some(1), ..base.clone() },
        Case { chunk: Some(50), ..base.clone() },
        Case { chunk: Some(256), softcap: Some(5.0), has_slopes: true, ..base.clone() },
    ];
    for case in cases {
        check_against_oracle(&Data::new(case));
    }
}

#[test]
fn a_row_that_sees_no_key_is_zero() {
    let data = Data::new(Case { window: Some(0), ..case(2, 1, 16, 16) });
    assert!(data.run(1).iter().all(|x| x.to_bits() == 0));
}

#[test]
fn chunks_single_tokens_batch_mates_and_threads_do_not_change_bits() {
    let base = Case { spans: vec![(0, 700), (0, 3), (0, 290)], ..case(6, 2, 48, 40) };
    let cases = [
        base.clone(),
        Case { window: Some(45), has_sinks: true, ..base.clone() },
        Case { window: Some(300), softcap: Some(4.0), ..base.clone() },
        Case { has_slopes: true, ..base.clone() },
        Case { chunk: Some(130), ..base.clone() },
    ];
    for case in cases {
        let data = Data::new(case);
        let cols = data.case.heads * data.case.shape.head_dim_v;
        let whole = data.step(&mut Cache::new(&data, 1), &data.whole());
        for threads in [2, 3] {
            let got = data.step(&mut Cache::new(&data, threads), &data.whole());
            assert_eq!(bits(&got), bits(&whole), "{threads} threads");
        }
        let first = &whole[..700 * cols];
        // Alone, in chunks of several sizes; and token by token.
        for chunk in [1, 29, 256, 333] {
            let mut cache = Cache::new(&data, 2);
            let mut got = vec![];
            for start in (0..700).step_by(chunk) {
                let end = (start + chunk).min(700);
                got.extend(data.step(&mut cache, &[(0, end, end - start)]));
            }
            assert_eq!(bits(&got), bits(first), "chunks of {chunk}");
        }
    }
}

#[test]
fn spreading_segments_over_threads_does_not_change_bits() {
    for window in [None, Some(1500)] {
        let case = Case { spans: vec![(5000, 1), (2, 1)], window, ..case(6, 2, 64, 64) };
        let data = Data::new(case);
        let mut cache = Cache::new(&data, 2);
        data.step(&mut cache, &[(0, 5000, 5000)]);
        let spread = data.step(&mut cache, &[(0, 5001, 1)]);
        assert!(!cache.scratch.plan.folds.is_empty(), "the case must spread segments");
        cache.pool = Pool::new(1);
        let serial = data.step(&mut cache, &[(0, 5001, 1)]);
        assert!(cache.scratch.plan.folds.is_empty());
        assert_eq!(bits(&spread), bits(&serial));
        cache.pool = Pool::new(3);
        let both = data.step(&mut cache, &[(0, 5001, 1), (1, 3, 3)]);
        assert_eq!(bits(&both[..serial.len()]), bits(&serial));
    }
}

#[test]
fn tiers_agree_bit_for_bit() {
    for (heads, kv_heads, k, v) in [(9, 3, 64, 64), (7, 1, 40, 72), (2, 2, 17, 5)] {
        let base = case(heads, kv_heads, k, v);
        let data =
            Data::new(Case { softcap: Some(8.0), has_sinks: true, has_slopes: true, ..base });
        let expected = bits(&data.run(1));
        for tier in detect::available() {
            assert_eq!(bits(&with_tier(tier, || data.run(2))), expected, "{tier:?}");
        }
    }
}

#[test]
fn shared_blocks_read_the_same() {
    let data = Data::new(Case { spans: vec![(0, 64), (64, 1)], ..case(4, 2, 32, 32) });
    let mut cache = Cache::new(&data, 2);
    data.step(&mut cache, &[(0, 64, 64)]);
    // The second sequence begins with the blocks of the first.
    let mut forked = Data::new(data.case.clone());
    forked.blocks[1][0] = data.blocks[0][0];
    forked.blocks[1][1] = data.blocks[0][1];
    for i in 0..3 {
        let len = forked.sequences[0][i].len();
        let prefix = forked.sequences[0][i].clone();
        forked.sequences[1][i][..len].copy_from_slice(&prefix);
    }
    let got = forked.step(&mut cache, &[(1, 65, 1)]);
    let expected = forked.oracle_head(1, 64, 3);
    for (got, expected) in got[3 * 32..].iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 2e-6);
    }
}

#[test]
fn the_last_row_of_a_repeated_slot_stays() {
    let shape = KvShape { kv_heads: 2, head_dim_k: 3, head_dim_v: 3 };
    let pool = Pool::new(3);
    let write = |values: &[f32], slots: &[u32]| {
        let layout = KvLayout::of_layers([shape])[0];
        let mut cache = KvPool::whole(layout.block_len, 1).unwrap();
        let rows = Rows::new(values, slots.len(), 6);
        kv_write(KvMut { layout, cache: &mut cache }, rows, rows, slots, &pool);
        cache.block(0).to_vec()
    };
    let values: Vec<f32> = (0..12_000).map(|i| i as f32).collect();
    assert_eq!(write(&values, &[5; 2000]), write(&values[11_994..], &[5]));
}

fn any_case() -> impl Strategy<Value = Case> {
    let shape = (1..4usize, 1..5usize, 1..70usize, 1..70usize);
    let spans = prop::collection::vec((0..600usize, 1..40usize), 1..4);
    let window = prop::option::of(1..400usize);
    let chunk = prop::option::of(1..400usize);
    let softcap = prop::option::of(1.0..50f32);
    let flags = any::<[bool; 3]>();
    let rest = (window, softcap, flags, chunk, any::<u64>());
    (shape, spans, rest).prop_map(|((kv_heads, group, k, v), spans, rest)| Case {
        shape: KvShape { kv_heads, head_dim_k: k, head_dim_v: v },
        heads: kv_heads * group,
        spans,
        window: rest.0,
        softcap: rest.1,
        has_sinks: rest.2[0],
        causal: rest.2[1],
        has_slopes: rest.2[2],
        chunk: rest.3,
        seed: rest.4,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_batch_matches_the_oracle(case in any_case()) {
        check_against_oracle(&Data::new(case));
    }

    #[test]
    fn any_row_is_the_same_alone(case in any_case(), threads in 1..4usize) {
        let data = Data::new(case);
        let mut cache = Cache::new(&data, threads);
        let all: Vec<_> = data.whole().iter().map(|&(span, len, _)| (span, len, len)).collect();
        let whole = data.step(&mut cache, &all);
        let cols = data.case.heads * data.case.shape.head_dim_v;
        let mut row = 0;
        for (span, len, _) in all {
            // The cache is full now; a causal row sees no more for it.
            let at = if data.case.causal { len / 2 + 1 } else { len };
            let got = data.step(&mut cache, &[(span, at, 1)]);
            let expected = &whole[(row + at - 1) * cols..][..cols];
            prop_assert_eq!(bits(&got), bits(expected));
            row += len;
        }
    }
}
