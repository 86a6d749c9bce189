//! Models in other layouts than the plain one: fused experts, scales beside matrices, norms with weights
//! for each head; and the check that goes before a load.

use half::f16;
use kolosal_kernels::quant::GgmlType;
use kolosal_server::model::gguf::{Gguf, Writer};
use kolosal_server::model::{DeviceChoice, RunnerOptions, check, estimate_bytes, load_runner};

use crate::parity::{fixture, rms_distance, whole};

const DEVICES: [DeviceChoice; 2] = [DeviceChoice::Cpu, DeviceChoice::CandleCpu];

/// A tensor in the making.
#[derive(Clone)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    ty: GgmlType,
    bytes: Vec<u8>,
}

impl Tensor {
    fn floats(name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), shape: vec![values.len()], ty: GgmlType::F32, bytes }
    }

    /// Each of `factors.len()` equal parts of half floats times its factor.
    fn times(mut self, factors: &[f32]) -> Self {
        assert_eq!(self.ty, GgmlType::F16);
        let part = self.bytes.len() / factors.len();
        for (bytes, factor) in self.bytes.chunks_exact_mut(part).zip(factors) {
            for half in bytes.chunks_exact_mut(2) {
                let value = f16::from_le_bytes([half[0], half[1]]).to_f32() * factor;
                half.copy_from_slice(&f16::from_f32(value).to_le_bytes());
            }
        }
        self
    }
}

/// The file with its tensors as `edit` gives them back.
fn rewritten(gguf: &Gguf, edit: impl Fn(Tensor) -> Vec<Tensor>) -> Vec<u8> {
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        writer.set(key, value.clone());
    }
    for info in gguf.tensors() {
        let bytes = gguf.data(info).unwrap();
        let (name, shape) = (info.name.clone(), info.shape.clone());
        for tensor in edit(Tensor { name, shape, ty: info.ty, bytes }) {
            writer.tensor(&tensor.name, &tensor.shape, tensor.ty, tensor.bytes).unwrap();
        }
    }
    writer.to_bytes()
}

fn options(device: DeviceChoice) -> RunnerOptions {
    RunnerOptions { threads: 2, device, n_parallel: 2, ..RunnerOptions::default() }
}

fn logits(bytes: &[u8], device: DeviceChoice, tokens: &[u32]) -> Vec<Vec<f32>> {
    let gguf = Gguf::from_bytes(bytes.to_vec()).unwrap();
    check(&gguf, &options(device.clone())).unwrap();
    whole(&mut *load_runner(&gguf, &options(device)).unwrap(), tokens)
}

fn assert_equals_reference(name: &str, edit: impl Fn(Tensor) -> Vec<Tensor>) {
    let (gguf, tokens, expected) = fixture(name);
    let bytes = rewritten(&gguf, edit);
    for device in DEVICES {
        let distance = rms_distance(&logits(&bytes, device.clone(), &tokens), &expected);
        assert!(distance < 1e-3, "{name} on {device:?}: {distance}");
    }
}

/// One tensor holds each expert's gate above its up projection.
#[test]
fn fused_experts_compute_the_same() {
    for name in ["mixtral", "qwen3moe"] {
        let (gguf, ..) = fixture(name);
        assert_equals_reference(name, |gate| {
            if gate.name.contains("ffn_up_exps") {
                return Vec::new();
            }
            if !gate.name.contains("ffn_gate_exps") {
                return vec![gate];
            }
            let up = gguf.tensor(&gate.name.replace("gate", "up")).unwrap();
            let experts = gate.shape[0];
            let stride = gate.bytes.len() / experts;
            let ups = gguf.data(up).unwrap();
            let pairs = gate.bytes.chunks_exact(stride).zip(ups.chunks_exact(stride));
            let bytes = pairs.flat_map(|(gate, up)| [gate, up].concat()).collect();
            let shape = vec![experts, 2 * gate.shape[1], gate.shape[2]];
            vec![Tensor { name: gate.name.replace("gate", "gate_up"), shape, bytes, ..gate }]
        });
    }
}

/// What NVFP4 files have beside their matrices: factors that stand in for those taken off the weights.
#[test]
fn scales_beside_matrices_multiply_what_they_make() {
    const SCALED: [&str; 6] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"];
    // With biases, which are not scaled, and a fused feed-forward part.
    assert_equals_reference("glm4", |tensor| {
        let part = tensor.name.split('.').nth(2).unwrap_or_default();
        let Some(stem) = tensor.name.strip_suffix(".weight") else { return vec![tensor] };
        if !SCALED.contains(&part) {
            return vec![tensor];
        }
        let scale = Tensor::floats(&format!("{stem}.scale"), &[4.0]);
        let input = Tensor::floats(&format!("{stem}.input_scale"), &[9.0]);
        vec![tensor.clone().times(&[0.25]), scale, input]
    });
    let scales = [2.0, 0.5, 4.0, 1.0];
    assert_equals_reference("mixtral", |tensor| {
        let Some(stem) = tensor.name.strip_suffix("_exps.weight") else { return vec![tensor] };
        let name = format!("{stem}_exps.scale");
        vec![tensor.clone().times(&scales.map(f32::recip)), Tensor::floats(&name, &scales)]
    });
}

/// Norms of StableLM 2 12B and Command R+: layer norms over each head, with weights of its own.
#[test]
fn each_head_may_have_a_norm_of_its_own() {
    let weights = |heads: usize| -> Vec<f32> {
        (0..heads * 16).map(|index| 0.5 + (index * 7 % 11) as f32 / 8.0).collect()
    };
    let with_norms = |factor: f32| {
        move |tensor: Tensor| {
            let heads = if tensor.name.contains(".attn_q.") { 4 } else { 2 };
            let is_normed = tensor.name.contains(".attn_q.") || tensor.name.contains(".attn_k.");
            if !is_normed || !tensor.name.ends_with(".weight") {
                return vec![tensor];
            }
            let name = tensor.name.replace(".weight", "_norm.weight");
            let norm = Tensor { shape: vec![heads, 16], ..Tensor::floats(&name, &weights(heads)) };
            vec![tensor.times(&[factor]), norm]
        }
    };
    for name in ["command-r", "stablelm"] {
        let (gguf, tokens, plain) = fixture(name);
        let normed = logits(&rewritten(&gguf, with_norms(1.0)), DeviceChoice::Cpu, &tokens);
        assert!(rms_distance(&normed, &plain) > 1e-2, "{name}: the norms do nothing");
        let candle = logits(&rewritten(&gguf, with_norms(1.0)), DeviceChoice::CandleCpu, &tokens);
        assert!(rms_distance(&normed, &candle) < 1e-3, "{name}");
        // A norm takes off what its input is multiplied by.
        let larger = logits(&rewritten(&gguf, with_norms(4.0)), DeviceChoice::Cpu, &tokens);
        assert!(rms_distance(&larger, &normed) < 1e-3, "{name}");
    }
}

/// The check finds what the load would, in the same words, and so does the estimate of memory.
#[test]
fn the_check_refuses_what_the_load_refuses() {
    let (gguf, ..) = fixture("mixtral");
    let keep = |tensor: Tensor| vec![tensor];
    let without = |part: &'static str| {
        move |tensor: Tensor| if tensor.name.contains(part) { Vec::new() } else { vec![tensor] }
    };
    let renamed = |part: &'static str| {
        move |tensor: Tensor| {
            let name = tensor.name.replace(part, "else");
            vec![Tensor { name, ..tensor }]
        }
    };
    let cases: [(&str, Vec<u8>); 5] = [
        ("", rewritten(&gguf, keep)),
        ("'blk.1.ffn_norm.weight' is missing", rewritten(&gguf, without("blk.1.ffn_norm"))),
        ("'blk.0.ffn_down_exps.weight' is missing", rewritten(&gguf, renamed("ffn_down_exps"))),
        ("does not use: extra.weight", {
            let extra = Tensor::floats("extra.weight", &[1.0]);
            rewritten(&gguf, move |tensor| match tensor.name.as_str() {
                "output_norm.weight" => vec![tensor, extra.clone()],
                _ => vec![tensor],
            })
        }),
        ("'output_norm.weight' has shape [1]", {
            rewritten(&gguf, |tensor| match tensor.name.as_str() {
                "output_norm.weight" => vec![Tensor::floats(&tensor.name, &[1.0])],
                _ => vec![tensor],
            })
        }),
    ];
    for (problem, bytes) in cases {
        let gguf = Gguf::from_bytes(bytes).unwrap();
        let options = options(DeviceChoice::Cpu);
        let said = |result: Result<(), String>| result.err().unwrap_or_default();
        let checked = said(check(&gguf, &options).map_err(|error| error.to_string()));
        let loaded = load_runner(&gguf, &options).map(drop).map_err(|error| error.to_string());
        let estimated = estimate_bytes(&gguf, &options).map(drop);
        assert_eq!(checked, said(loaded));
        assert_eq!(checked, said(estimated.map_err(|error| error.to_string())));
        assert!(checked.contains(problem) && checked.is_empty() == problem.is_empty(), "{checked}");
    }
}

/// What people see of a file that cannot be loaded.
#[test]
fn inspect_and_show_refuse_what_the_load_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let tiny = crate::tiny::Tiny::default();
    for (extra, supported) in [(None, true), (Some("blk.0.attn_q.bias2"), false)] {
        let gguf = tiny.gguf();
        let bytes = rewritten(&gguf, |tensor| match (extra, tensor.name.as_str()) {
            (Some(name), "output_norm.weight") => vec![tensor, Tensor::floats(name, &[1.0])],
            _ => vec![tensor],
        });
        std::fs::write(&path, bytes).unwrap();
        for command in ["inspect", "show"] {
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_kolosal"))
                .args([command, "--json"])
                .arg(&path)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["supported"], supported, "{command}: {text}");
            let obstacle = answer["obstacle"].as_str().unwrap_or_default();
            assert_eq!(obstacle.contains("blk.0.attn_q.bias2"), !supported, "{command}: {text}");
            assert_eq!(answer["compared_with"], "transformers", "{command}");
        }
    }
}
