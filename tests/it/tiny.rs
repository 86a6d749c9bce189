//! Tiny random models of any architecture, made in the test: real files in memory.

use std::sync::Arc;

use kolosal_kernels::quant::{self, GgmlType};
use kolosal_server::chat::TextModel;
use kolosal_server::model::arch;
use kolosal_server::model::gguf::{Array, Gguf, Metadata, Value, Writer};
use kolosal_server::model::spec::{
    AttnSpec, FfnSpec, GateWidth, MixerSpec, ModelSpec, NormKind, QkNorm,
};

/// What a tiny model is made of.
#[derive(Clone)]
pub struct Tiny {
    pub arch: &'static str,
    /// Type of the matrices; norms and biases are f32.
    pub ty: GgmlType,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub width: usize,
    pub context: usize,
    pub tied: bool,
    /// Biases on the linear layers.
    pub bias: bool,
    pub extra: Vec<(&'static str, Value)>,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            arch: "llama",
            ty: GgmlType::F32,
            hidden: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            width: 96,
            context: 512,
            tied: false,
            bias: false,
            extra: Vec::new(),
        }
    }
}

/// Printable bytes of GPT-2's byte-level alphabet, in id order.
fn byte_alphabet() -> Vec<char> {
    let direct =
        |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || byte >= 174;
    let mut next = 256;
    (0..256u32)
        .map(|byte| {
            if direct(byte) {
                return char::from_u32(byte).unwrap();
            }
            next += 1;
            char::from_u32(next - 1).unwrap()
        })
        .collect()
}

/// A tokenizer with a token for each byte and for each of `controls`, without merges.
pub(crate) fn byte_vocabulary(controls: &[&str]) -> Metadata {
    let bytes = byte_alphabet().into_iter().map(|c| c.to_string());
    let texts = bytes.chain(controls.iter().map(|&text| text.to_owned()));
    let tokens: Vec<Box<[u8]>> = texts.map(|text| text.into_bytes().into()).collect();
    let mut kinds = vec![1; 256];
    kinds.resize(tokens.len(), 3);
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    metadata.set("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.set("tokenizer.ggml.token_type", Array::I32(kinds));
    metadata.set("tokenizer.ggml.merges", Array::String(Vec::new()));
    metadata
}

/// The text side of a model with the tokens of [`byte_vocabulary`]; `end` ends an answer.
pub(crate) fn byte_text_model(controls: &[&str], end: u32, template: &str) -> Arc<TextModel> {
    let mut metadata = byte_vocabulary(controls);
    metadata.set("general.architecture", "llama");
    metadata.set("tokenizer.ggml.eos_token_id", end);
    metadata.set("tokenizer.ggml.add_bos_token", false);
    metadata.set("tokenizer.chat_template", template);
    Arc::new(TextModel::from_gguf(&metadata).expect("a text model"))
}

/// A file of weights in `tests/data` with a context of 1024 positions and a tokenizer: a token for each of
/// the first bytes, as many as its embedding has rows for beside three controls.
pub(crate) fn with_text(path: &str, template: &str) -> Gguf {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path);
    let file = Gguf::open(&path).expect("a fixture");
    let mut metadata = file.metadata().clone();
    let context = format!("{}.context_length", metadata.architecture().expect("a name"));
    metadata.set(context, 1024u32);
    let rows = file.tensor("token_embd.weight").expect("an embedding").shape[0];
    let bytes = byte_alphabet().into_iter().map(|c| c.to_string()).take(rows - 3);
    let controls = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"].map(str::to_owned);
    let tokens = bytes.chain(controls).map(|text| text.into_bytes().into_boxed_slice());
    let mut kinds = vec![1; rows - 3];
    kinds.resize(rows, 3);
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    metadata.set("tokenizer.ggml.tokens", Array::String(tokens.collect()));
    metadata.set("tokenizer.ggml.token_type", Array::I32(kinds));
    metadata.set("tokenizer.ggml.merges", Array::String(Vec::new()));
    metadata.set("tokenizer.ggml.eos_token_id", rows as u32 - 2);
    metadata.set("tokenizer.ggml.add_bos_token", false);
    metadata.set("tokenizer.chat_template", template);
    let mut writer = Writer::with_metadata(metadata);
    for tensor in file.tensors() {
        let data = file.data(tensor).expect("its data");
        writer.tensor(&tensor.name, &tensor.shape, tensor.ty, data).expect("a tensor");
    }
    Gguf::from_bytes(writer.to_bytes()).expect("a file")
}

impl Tiny {
    /// A model most of whose layers carry a state: `qwen35` or `lfm2`.
    pub fn hybrid(arch: &'static str) -> Self {
        let extra = match arch {
            "lfm2" => vec![
                ("shortconv.l_cache", Value::U32(3)),
                ("attention.head_count_kv", Value::Array(Array::I32(vec![0, 2, 0, 0]))),
            ],
            _ => vec![
                ("ssm.conv_kernel", Value::U32(4)),
                ("ssm.state_size", Value::U32(16)),
                ("ssm.group_count", Value::U32(2)),
                ("ssm.time_step_rank", Value::U32(4)),
                ("ssm.inner_size", Value::U32(64)),
                ("attention.key_length", Value::U32(16)),
                ("attention.value_length", Value::U32(16)),
            ],
        };
        Self { arch, layers: 4, tied: true, extra, ..Self::default() }
    }

    /// The file in memory.
    pub fn gguf(&self) -> Gguf {
        Gguf::from_bytes(self.bytes()).unwrap()
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let metadata = self.metadata();
        let spec = arch::describe(&Gguf::from_bytes(metadata.to_bytes()).unwrap()).unwrap();
        let mut maker =
            Maker { writer: metadata, ty: self.ty, bias: self.bias, state: 0x9e37_79b9 };
        maker.model(&spec, self.tied);
        maker.writer.to_bytes()
    }

    /// The file without tensors.
    pub fn head(&self) -> Gguf {
        Gguf::from_bytes(self.metadata().to_bytes()).unwrap()
    }

    fn metadata(&self) -> Writer<'static> {
        let mut writer = Writer::new();
        let key = |key: &str| format!("{}.{key}", self.arch);
        writer.set("general.architecture", self.arch).set("general.name", "tiny");
        for (name, value) in [
            ("block_count", self.layers),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.width),
            ("context_length", self.context),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
        ] {
            writer.set(key(name), value as u32);
        }
        writer.set(key("attention.layer_norm_rms_epsilon"), 1e-5f32);
        writer.set(key("attention.layer_norm_epsilon"), 1e-5f32);
        let specials = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];
        for (key, value) in byte_vocabulary(&specials).iter() {
            writer.set(key, value.clone());
        }
        writer.set("tokenizer.ggml.bos_token_id", 258u32);
        writer.set("tokenizer.ggml.eos_token_id", 257u32);
        for (name, value) in &self.extra {
            let name = if ["tokenizer.", "general."].iter().any(|begin| name.starts_with(begin)) {
                (*name).to_owned()
            } else {
                key(name)
            };
            writer.set(name, value.clone());
        }
        writer
    }
}

struct Maker {
    writer: Writer<'static>,
    ty: GgmlType,
    bias: bool,
    state: u64,
}

impl Maker {
    fn model(&mut self, spec: &ModelSpec, tied: bool) {
        let hidden = spec.hidden;
        self.matrix("token_embd", &[spec.vocab_size, hidden]);
        if spec.learned_positions {
            self.matrix("position_embd", &[spec.context_len, hidden]);
        }
        if !tied {
            self.matrix("output", &[spec.vocab_size, hidden]);
        }
        let with_bias = spec.norm.kind == NormKind::Layer;
        self.norm(spec.last_norm, hidden, with_bias);
        for (index, layer) in spec.layers.iter().enumerate() {
            let name = |part: &str| format!("blk.{index}.{part}");
            for part in [layer.norms.attn, layer.norms.ffn].into_iter().flatten() {
                self.norm(&name(part), hidden, with_bias);
            }
            if layer.norms.attn_post {
                self.norm(&name("post_attention_norm"), hidden, with_bias);
            }
            if layer.norms.ffn_post {
                self.norm(&name("post_ffw_norm"), hidden, with_bias);
            }
            self.mixer(index, hidden, &layer.mixer);
            self.ffn(index, hidden, &layer.ffn);
        }
    }

    fn mixer(&mut self, index: usize, hidden: usize, mixer: &MixerSpec) {
        let name = |part: &str| format!("blk.{index}.{part}");
        match mixer {
            MixerSpec::Attention(attn) => self.attention(index, hidden, attn),
            MixerSpec::ShortConv(conv) => {
                self.matrix(&name("shortconv.in_proj"), &[3 * conv.width, hidden]);
                self.matrix(&name("shortconv.out_proj"), &[hidden, conv.width]);
                self.floats(&name("shortconv.conv.weight"), conv.width * conv.taps, 0.0);
            }
            MixerSpec::Delta(delta) => {
                let heads = delta.shape.heads;
                self.matrix(&name("attn_qkv"), &[delta.channels(), hidden]);
                self.matrix(&name("attn_gate"), &[delta.values(), hidden]);
                self.matrix(&name("ssm_beta"), &[heads, hidden]);
                self.matrix(&name("ssm_alpha"), &[heads, hidden]);
                self.floats(&name("ssm_conv1d.weight"), delta.channels() * delta.taps, 0.0);
                self.floats(&name("ssm_dt.bias"), heads, 0.0);
                self.floats(&name("ssm_a"), heads, -1.0);
                self.norm(&name("ssm_norm"), delta.shape.value_dim, false);
                self.matrix(&name("ssm_out"), &[hidden, delta.values()]);
            }
            other => panic!("{other:?} has no tiny tensors"),
        }
    }

    fn attention(&mut self, index: usize, hidden: usize, attn: &AttnSpec) {
        let name = |part: &str| format!("blk.{index}.attn_{part}");
        let (q, k) = (attn.heads * attn.head_dim, attn.kv_heads * attn.head_dim);
        let is_beside = attn.gate.is_some_and(|gate| gate.width == GateWidth::BesideQueries);
        self.linear(&name("q"), if is_beside { 2 * q } else { q }, hidden);
        self.linear(&name("k"), k, hidden);
        self.linear(&name("v"), attn.kv_heads * attn.value_dim, hidden);
        self.linear(&name("output"), hidden, attn.heads * attn.value_dim);
        match attn.qk_norm {
            QkNorm::None | QkNorm::Plain => {}
            QkNorm::PerHead => {
                self.norm(&name("q_norm"), attn.head_dim, false);
                self.norm(&name("k_norm"), attn.head_dim, false);
            }
            QkNorm::EachHead | QkNorm::Full => {
                self.norm(&name("q_norm"), q, false);
                self.norm(&name("k_norm"), k, false);
            }
        }
        if attn.sinks {
            self.floats(&name("sinks.weight"), attn.heads, 0.0);
        }
    }

    fn ffn(&mut self, index: usize, hidden: usize, ffn: &FfnSpec) {
        let name = |part: &str| format!("blk.{index}.ffn_{part}");
        match ffn {
            FfnSpec::Gated { width, .. } => {
                self.linear(&name("gate"), *width, hidden);
                self.linear(&name("up"), *width, hidden);
                self.linear(&name("down"), hidden, *width);
            }
            FfnSpec::Plain { width, .. } => {
                self.linear(&name("up"), *width, hidden);
                self.linear(&name("down"), hidden, *width);
            }
            FfnSpec::None => {}
            FfnSpec::Moe(moe) => {
                self.matrix(&name("gate_inp"), &[moe.experts, hidden]);
                self.matrix(&name("gate_exps"), &[moe.experts, moe.width, hidden]);
                self.matrix(&name("up_exps"), &[moe.experts, moe.width, hidden]);
                self.matrix(&name("down_exps"), &[moe.experts, hidden, moe.width]);
                if let Some(width) = moe.shared_width {
                    self.matrix(&name("gate_shexp"), &[width, hidden]);
                    self.matrix(&name("up_shexp"), &[width, hidden]);
                    self.matrix(&name("down_shexp"), &[hidden, width]);
                }
                if moe.shared_gate {
                    self.floats(&name("gate_inp_shexp.weight"), hidden, 0.0);
                }
            }
            FfnSpec::Both { .. } => unreachable!("no tiny model has both"),
        }
    }

    fn linear(&mut self, name: &str, n: usize, k: usize) {
        self.matrix(name, &[n, k]);
        if self.bias {
            self.floats(&format!("{name}.bias"), n, 0.0);
        }
    }

    fn matrix(&mut self, name: &str, shape: &[usize]) {
        let len = shape.iter().product();
        let scale = 1.5 / (shape[shape.len() - 1] as f32).sqrt();
        let values: Vec<f32> = (0..len).map(|_| self.uniform() * 2.0 * scale).collect();
        let mut bytes = Vec::new();
        quant::quantize(self.ty, &values, &mut bytes).unwrap();
        self.writer.tensor(&format!("{name}.weight"), shape, self.ty, bytes).unwrap();
    }

    fn norm(&mut self, name: &str, len: usize, with_bias: bool) {
        self.floats(&format!("{name}.weight"), len, 1.0);
        if with_bias {
            self.floats(&format!("{name}.bias"), len, 0.0);
        }
    }

    fn floats(&mut self, name: &str, len: usize, around: f32) {
        let values: Vec<u8> =
            (0..len).flat_map(|_| (around + self.uniform() * 0.4).to_le_bytes()).collect();
        self.writer.tensor(name, &[len], GgmlType::F32, values).unwrap();
    }

    /// In -0.5 .. 0.5.
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.state >> 40) as f32 / (1u32 << 24) as f32) - 0.5
    }
}
