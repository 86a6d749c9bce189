//! Back ends against each other, and results against batch, chunk and thread count.

use kolosal_kernels::quant::GgmlType;
use kolosal_server::model::gguf::{Array, Gguf, Value, Writer};
use kolosal_server::model::{
    BLOCK, Batch, DeviceChoice, Runner, RunnerOptions, Span, SpanState, arch, load_runner,
};

use crate::tiny::Tiny;

/// A sequence for [`step`]: its tokens so far and the blocks that hold it.
struct Sequence {
    tokens: Vec<u32>,
    done: usize,
    blocks: Vec<u32>,
}

impl Sequence {
    fn new(tokens: &[u32], first_block: u32, capacity: usize) -> Self {
        let blocks = (0..capacity.div_ceil(BLOCK) as u32).map(|i| first_block + i).collect();
        Self { tokens: tokens.to_vec(), done: 0, blocks }
    }

    /// The page that has the number of the first block, which no other sequence has.
    fn state(&self, rows: usize) -> SpanState {
        let page = self.blocks[0];
        let from = (self.done > rows).then_some(page);
        SpanState { from, to: page, saves: Vec::new() }
    }
}

/// Runs the next `rows` tokens of each sequence in one batch; logits of every row.
fn step(runner: &mut dyn Runner, sequences: &mut [(&mut Sequence, usize)]) -> Vec<Vec<Vec<f32>>> {
    let mut batch = Batch::default();
    for (sequence, rows) in sequences.iter_mut() {
        let start = batch.len() as u32;
        for position in sequence.done..sequence.done + *rows {
            batch.tokens.push(sequence.tokens[position]);
            batch.positions.push(position as u32);
            let block = sequence.blocks[position / BLOCK] as usize;
            batch.slots.push((block * BLOCK + position % BLOCK) as u32);
        }
        sequence.done += *rows;
        batch.spans.push(Span {
            rows: start..batch.len() as u32,
            kv_len: sequence.done as u32,
            blocks: sequence.blocks[..sequence.done.div_ceil(BLOCK)].to_vec(),
            state: Some(sequence.state(*rows)),
        });
    }
    batch.logit_rows = (0..batch.len() as u32).collect();
    let logits = runner.forward(&batch).unwrap();
    let mut row = 0;
    sequences
        .iter()
        .map(|(_, rows)| {
            row += rows;
            (row - rows..row).map(|index| logits.row(index).to_vec()).collect()
        })
        .collect()
}

fn runner(gguf: &Gguf, device: DeviceChoice, threads: usize) -> Box<dyn Runner> {
    let options = RunnerOptions { threads, device, n_parallel: 4, ..RunnerOptions::default() };
    load_runner(gguf, &options).unwrap()
}

/// Logits of every position, all in one chunk.
pub(crate) fn whole(runner: &mut dyn Runner, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut sequence = Sequence::new(tokens, 1, tokens.len());
    step(runner, &mut [(&mut sequence, tokens.len())]).remove(0)
}

fn prompt(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 7919 + seed * 104_729 + i * i * 31) % 256).collect()
}

/// Largest difference, relative to the largest logit.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = || a.iter().flatten().zip(b.iter().flatten());
    let largest = a.iter().flatten().fold(0f32, |max, value| max.max(value.abs()));
    assert!(largest > 0.0 && pairs().all(|(x, y)| x.is_finite() && y.is_finite()));
    pairs().fold(0f32, |max, (x, y)| max.max((x - y).abs())) / largest
}

/// Root-mean-square difference, relative to the root-mean-square logit.
pub(crate) fn rms_distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = |differ: &dyn Fn(f32, f32) -> f32| -> f64 {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs.map(|(x, y)| f64::from(differ(*x, *y)).powi(2)).sum()
    };
    (squares(&|x, y| x - y) / squares(&|_, y| y)).sqrt()
}

/// Architectures whose tensors [`Tiny`] makes.
const GRAPHS: [&str; 23] = [
    "llama",
    "smollm3",
    "internlm2",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "gemma",
    "gemma2",
    "gemma3",
    "phi2",
    "phi3",
    "olmo2",
    "granite",
    "granitemoe",
    "glm4",
    "command-r",
    "gpt2",
    "gptneox",
    "starcoder2",
    "stablelm",
    "falcon",
    "gpt-oss",
];

/// Each kind of graph, with what its metadata needs; fixtures cover all architectures.
fn variants() -> Vec<Tiny> {
    let base = Tiny::default();
    let extra = |extra: &[(&'static str, Value)]| extra.to_vec();
    let experts = [
        ("expert_count", Value::U32(4)),
        ("expert_used_count", Value::U32(2)),
        ("expert_feed_forward_length", Value::U32(32)),
    ];
    GRAPHS
        .into_iter()
        .map(|arch| {
            let tiny = Tiny { arch, ..base.clone() };
            match arch {
                "llama" => Tiny { extra: extra(&[("rope.freq_base", Value::F32(5e5))]), ..tiny },
                "qwen2" => Tiny { bias: true, tied: true, ..tiny },
                "qwen2moe" | "qwen3moe" => Tiny {
                    extra: [
                        &experts[..],
                        &[("expert_shared_feed_forward_length", Value::U32(64))][..],
                    ]
                    .concat(),
                    ..tiny
                },
                "granitemoe" => Tiny {
                    extra: [&experts[..], &[("logit_scale", Value::F32(4.0))][..]].concat(),
                    ..tiny
                },
                "granite" => Tiny {
                    extra: extra(&[
                        ("logit_scale", Value::F32(4.0)),
                        ("residual_scale", Value::F32(0.3)),
                        ("embedding_scale", Value::F32(6.0)),
                        ("attention.scale", Value::F32(0.2)),
                    ]),
                    ..tiny
                },
                "gemma" => Tiny {
                    tied: true,
                    extra: extra(&[
                        ("attention.key_length", Value::U32(32)),
                        ("attention.value_length", Value::U32(32)),
                    ]),
                    ..tiny
                },
                "gemma2" | "gemma3" => Tiny {
                    tied: true,
                    layers: 7,
                    extra: extra(&[
                        ("attention.sliding_window", Value::U32(40)),
                        ("attention.key_length", Value::U32(32)),
                        ("attention.value_length", Value::U32(32)),
                        ("rope.freq_base", Value::F32(1e6)),
                    ]),
                    ..tiny
                },
                "gpt-oss" => Tiny {
                    extra: [
                        &experts[..],
                        &[
                            ("attention.sliding_window", Value::U32(40)),
                            ("rope.scaling.type", Value::from("yarn")),
                            ("rope.scaling.factor", Value::F32(4.0)),
                            ("rope.scaling.original_context_length", Value::U32(128)),
                        ][..],
                    ]
                    .concat(),
                    ..tiny
                },
                "smollm3" => Tiny { layers: 5, ..tiny },
                "olmo2" => Tiny {
                    layers: 5,
                    extra: extra(&[("attention.sliding_window", Value::U32(40))]),
                    ..tiny
                },
                "phi2" | "gptneox" | "stablelm" | "glm4" => Tiny {
                    bias: arch != "stablelm",
                    extra: extra(&[("rope.dimension_count", Value::U32(8))]),
                    ..tiny
                },
                "gpt2" | "starcoder2" | "falcon" => Tiny { bias: true, ..tiny },
                _ => tiny,
            }
        })
        .collect()
}

#[test]
fn cpu_kernels_agree_with_candle_on_every_graph() {
    let tokens = prompt(90, 1);
    for tiny in variants() {
        let gguf = tiny.gguf();
        let ours = whole(&mut *runner(&gguf, DeviceChoice::Cpu, 2), &tokens);
        let candle = whole(&mut *runner(&gguf, DeviceChoice::CandleCpu, 2), &tokens);
        let distance = distance(&ours, &candle);
        assert!(distance < 2e-3, "{}: {distance}", tiny.arch);
    }
}

#[test]
fn cpu_kernels_agree_with_candle_on_every_type() {
    let tokens = prompt(40, 2);
    for (ty, hidden, width) in [
        (GgmlType::F16, 64, 96),
        (GgmlType::BF16, 64, 96),
        (GgmlType::Q4_0, 128, 192),
        (GgmlType::Q4_1, 128, 192),
        (GgmlType::Q5_0, 128, 192),
        (GgmlType::Q5_1, 128, 192),
        (GgmlType::Q8_0, 128, 192),
        (GgmlType::Q2K, 256, 512),
        (GgmlType::Q3K, 256, 512),
        (GgmlType::Q4K, 256, 512),
        (GgmlType::Q5K, 256, 512),
        (GgmlType::Q6K, 256, 512),
        (GgmlType::IQ4NL, 128, 192),
    ] {
        for tied in [false, true] {
            let gguf = Tiny { ty, hidden, width, tied, ..Tiny::default() }.gguf();
            let ours = whole(&mut *runner(&gguf, DeviceChoice::Cpu, 2), &tokens);
            let candle = whole(&mut *runner(&gguf, DeviceChoice::CandleCpu, 2), &tokens);
            let distance = distance(&ours, &candle);
            // Both quantise activations to 8 bits, with different granularity.
            assert!(distance < 6e-2, "{} tied {tied}: {distance}", ty.name());
        }
    }
}

#[test]
fn logits_do_not_depend_on_chunks_company_or_threads() {
    let tokens = prompt(100, 3);
    let others = [prompt(70, 4), prompt(33, 5)];
    for (ty, hidden, width) in
        [(GgmlType::F32, 64, 96), (GgmlType::Q4_1, 96, 160), (GgmlType::Q6K, 256, 512)]
    {
        let gguf = Tiny { ty, hidden, width, ..Tiny::default() }.gguf();
        let others = [others[0].as_slice(), others[1].as_slice()];
        assert_invariant(&gguf, &tokens, others, &[1, 7, 32, 33, 64]);
    }
}

/// Every chunk size, beside 70 and 33 tokens of other sequences, and every number of threads give the
/// logits of `tokens` in one piece on one thread, bit for bit.
pub(crate) fn assert_invariant(gguf: &Gguf, tokens: &[u32], others: [&[u32]; 2], chunks: &[usize]) {
    assert_eq!(others.map(<[u32]>::len), [70, 33]);
    let expected = whole(&mut *runner(gguf, DeviceChoice::Cpu, 1), tokens);
    for threads in [1, 2, 3] {
        let mut runner = runner(gguf, DeviceChoice::Cpu, threads);
        for &chunk in chunks {
            let mut sequence = Sequence::new(tokens, 1, tokens.len());
            let mut company = Sequence::new(others[0], 6, 70);
            let mut late = Sequence::new(others[1], 10, 33);
            let mut got = Vec::new();
            while sequence.done < tokens.len() {
                let rows = chunk.min(tokens.len() - sequence.done);
                let mut batch = vec![(&mut company, 0), (&mut sequence, rows), (&mut late, 0)];
                batch[0].1 = (chunk % 5 + 1).min(70 - batch[0].0.done);
                batch[2].1 = usize::from(batch[2].0.done < 33);
                batch.retain(|(_, rows)| *rows > 0);
                let at = batch.iter().position(|(s, _)| s.tokens == tokens).unwrap();
                got.extend(step(&mut *runner, &mut batch).swap_remove(at));
            }
            let same = got == expected;
            assert!(same, "{} threads {threads} chunk {chunk}", gguf.tensors()[1].ty.name());
        }
    }
}

#[test]
fn locked_weights_compute_the_same() {
    let gguf = Tiny::default().gguf();
    let tokens = prompt(20, 8);
    let expected = whole(&mut *runner(&gguf, DeviceChoice::Cpu, 2), &tokens);
    let options = RunnerOptions { device: DeviceChoice::Cpu, threads: 2, ..Default::default() };
    let mut locked = load_runner(&gguf, &RunnerOptions { lock_weights: true, ..options }).unwrap();
    assert!(whole(&mut *locked, &tokens) == expected);
    // Systems differ in how much they let a program lock.
    let warning = locked.spec().warning.clone();
    assert!(warning.is_none_or(|text| text.contains("use_mlock") && text.contains("ulimit")));
}

/// Fixtures made by tests/tools/make_parity_fixtures.py with transformers in f32.
fn fixtures() -> Vec<(String, Gguf, Vec<u32>, Vec<Vec<f32>>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".ref.gguf").map(str::to_owned))
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let (model, tokens, logits) = fixture(&name);
            (name, model, tokens, logits)
        })
        .collect()
}

/// A model, tokens, and the logits that transformers computes for each.
pub(crate) fn fixture(name: &str) -> (Gguf, Vec<u32>, Vec<Vec<f32>>) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    let model = Gguf::open(&folder.join(format!("{name}.gguf"))).unwrap();
    let reference = Gguf::open(&folder.join(format!("{name}.ref.gguf"))).unwrap();
    let words = |tensor: &str| -> Vec<[u8; 4]> {
        let bytes = reference.data(reference.tensor(tensor).unwrap()).unwrap();
        bytes.chunks_exact(4).map(|word| word.try_into().unwrap()).collect()
    };
    let tokens = words("tokens").into_iter().map(u32::from_le_bytes).collect::<Vec<_>>();
    let logits: Vec<f32> = words("logits").into_iter().map(f32::from_le_bytes).collect();
    let rows = logits.chunks_exact(logits.len() / tokens.len()).map(<[f32]>::to_vec);
    (model, tokens, rows.collect())
}

#[test]
fn logits_equal_those_of_transformers() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 65, "{} fixtures", fixtures.len());
    let mut failures = Vec::new();
    for (name, gguf, tokens, expected) in &fixtures {
        for device in [DeviceChoice::Cpu, DeviceChoice::CandleCpu] {
            let mut runner = runner(gguf, device.clone(), 2);
            let distance = rms_distance(&whole(&mut *runner, tokens), expected);
            if distance >= 1e-3 {
                failures.push(format!("{name} on {device:?}: {distance}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn fixtures_do_not_depend_on_chunks_or_company() {
    for (_, gguf, tokens, _) in fixtures() {
        assert_invariant(&gguf, &tokens, [&tokens[..70], &tokens[..33]], &[7]);
    }
}

#[test]
fn every_architecture_has_a_fixture() {
    let fixtures = fixtures();
    for known in arch::decoders() {
        let is_known = |gguf: &Gguf| gguf.metadata().architecture().unwrap() == known.name;
        assert!(fixtures.iter().any(|(_, gguf, ..)| is_known(gguf)), "{}", known.name);
    }
}

/// The fixtures' index picks 128 of at most 256 tokens.
#[test]
fn contexts_end_where_an_index_would_leave_tokens_out() {
    for name in ["deepseek32", "glm-dsa"] {
        let (gguf, ..) = fixture(name);
        let runner = runner(&gguf, DeviceChoice::Cpu, 1);
        assert_eq!(runner.spec().context_len, 128, "{name}");
        let warning = runner.spec().warning.clone().unwrap_or_default();
        assert!(warning.contains("the context ends at 128 tokens"), "{name}: {warning}");
    }
}

/// The rows of each head from pairs (0, 1), (2, 3) to pairs (i, i + turned / 2), as converters lay them out
/// for rotary embeddings with sections.
fn to_halves(bytes: &[u8], heads: usize, turned: usize) -> Vec<u8> {
    let head_bytes = bytes.len() / heads;
    let row = head_bytes / 16;
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head_bytes) {
        let rows: Vec<&[u8]> = head.chunks_exact(row).collect();
        let order = (0..turned).step_by(2).chain((1..turned).step_by(2)).chain(turned..16);
        order.for_each(|index| out.extend_from_slice(rows[index]));
    }
    out
}

/// GLM-4.1V's text part as public converters write it: sections, and rows in the other order.
#[test]
fn sections_of_positions_change_the_pairs_of_glm4() {
    let (plain, tokens, expected) = fixture("glm4");
    let mut writer = Writer::new();
    for (key, value) in plain.metadata().iter() {
        writer.set(key, value.clone());
    }
    writer.set("glm4.rope.dimension_sections", Value::Array(Array::I32(vec![2, 1, 1, 0])));
    for tensor in plain.tensors() {
        let bytes = plain.data(tensor).unwrap();
        let bytes = match tensor.name.as_str() {
            name if name.contains(".attn_q.") => to_halves(&bytes, 4, 8),
            name if name.contains(".attn_k.") => to_halves(&bytes, 2, 8),
            _ => bytes,
        };
        writer.tensor(&tensor.name, &tensor.shape, tensor.ty, bytes).unwrap();
    }
    let gguf = Gguf::from_bytes(writer.to_bytes()).unwrap();
    for device in [DeviceChoice::Cpu, DeviceChoice::CandleCpu] {
        let logits = whole(&mut *runner(&gguf, device, 2), &tokens);
        let distance = rms_distance(&logits, &expected);
        assert!(distance < 1e-3, "{distance}");
    }
}

/// What a file with one more key comes to.
fn described(arch: &'static str, key: &'static str, value: Value) -> Result<(), String> {
    let base = variants().into_iter().find(|tiny| tiny.arch == arch).unwrap();
    let extra = [base.extra.clone(), vec![(key, value)]].concat();
    let gguf = Tiny { extra, ..base }.head();
    arch::describe(&gguf).map(drop).map_err(|error| error.to_string())
}

#[test]
fn keys_that_nothing_reads_are_refused_if_they_could_have_an_effect() {
    let sections = |fourth| Value::Array(Array::I32(vec![2, 1, 1, fourth]));
    for (arch, key, value) in [
        ("llama", "some.new_key", Value::U32(3)),
        ("llama", "some.new_key", Value::Bool(true)),
        ("llama", "rope.dimension_sections", sections(0)),
        ("qwen2", "rope.dimension_sections", sections(1)),
        ("qwen2", "attention.sliding_window", Value::U32(64)),
        ("qwen3moe", "expert_weights_norm", Value::Bool(false)),
        ("qwen3moe", "expert_weights_scale", Value::F32(2.0)),
        ("qwen3moe", "expert_gating_func", Value::U32(2)),
        ("llama", "logit_scale", Value::F32(0.5)),
        ("gemma3", "attention.key_length_swa", Value::U32(8)),
        ("llama", "rope.scaling.alpha", Value::F32(1000.0)),
        ("llama", "hidden_activation", Value::from("gelu")),
    ] {
        let error = described(arch, key, value.clone()).unwrap_err();
        assert!(error.contains(&format!("{arch}.{key}")), "{arch} {key} {value:?}: {error}");
    }
    for (arch, key, value) in [
        ("llama", "some.new_key", Value::U32(0)),
        ("llama", "rope.scaling.finetuned", Value::Bool(true)),
        ("llama", "rope.scaling.original_context_length", Value::U32(64)),
        ("llama", "vocab_size", Value::U32(259)),
        ("llama", "logit_scale", Value::F32(1.0)),
        ("qwen2", "rope.dimension_sections", sections(0)),
        ("qwen2", "attention.sliding_window", Value::U32(512)),
        ("qwen3moe", "expert_weights_norm", Value::Bool(true)),
        ("qwen3moe", "expert_gating_func", Value::U32(1)),
        ("gpt2", "rope.dimension_count", Value::U32(8)),
        ("gemma3", "vision.block_count", Value::U32(27)),
        ("stablelm", "use_parallel_residual", Value::Bool(true)),
    ] {
        assert_eq!(described(arch, key, value.clone()), Ok(()), "{arch} {key} {value:?}");
    }
}

/// Keys that have an effect in any family have it.
#[test]
fn scales_bases_and_switches_are_heeded_in_every_family() {
    let tokens = prompt(90, 9);
    for (arch, key, value) in [
        ("qwen2", "attention.scale", Value::F32(0.7)),
        ("gemma2", "rope.freq_base_swa", Value::F32(50.0)),
        ("granite", "rope.scaling.finetuned", Value::Bool(false)),
    ] {
        let base = variants().into_iter().find(|tiny| tiny.arch == arch).unwrap();
        let extra = [base.extra.clone(), vec![(key, value)]].concat();
        let changed = Tiny { extra, ..base.clone() }.gguf();
        let logits = |gguf: &Gguf| whole(&mut *runner(gguf, DeviceChoice::Cpu, 2), &tokens);
        let distance = distance(&logits(&base.gguf()), &logits(&changed));
        assert!(distance > 1e-2, "{arch} {key}: {distance}");
    }
}
