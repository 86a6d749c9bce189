#!/usr/bin/env python3
"""Writes tests/data/parity: tiny random models of each architecture with reference logits.

For every architecture: NAME.gguf (weights in f16, exact) and NAME.ref.gguf with two tensors,
`tokens` (T) i32 and `logits` (T, vocabulary) f32, computed by transformers in f32.
Families that came later are in parity_families.py, parity_positions.py and parity_2026.py.
Needs: pip install torch transformers gguf numpy. The tests need the committed files alone.
"""

import re
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as tf

OUT = Path(__file__).resolve().parent.parent / "data" / "parity"
VOCAB, HIDDEN, HEADS, KV, FF, LAYERS, CONTEXT, LENGTH = 160, 64, 4, 2, 96, 2, 256, 112

BASE = dict(
    vocab_size=VOCAB, hidden_size=HIDDEN, num_attention_heads=HEADS, num_key_value_heads=KV,
    intermediate_size=FF, num_hidden_layers=LAYERS, max_position_embeddings=CONTEXT,
    tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    attn_implementation="eager",
)

# transformers' names of a layer's parts -> GGUF's; a model may override some.
PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv", "self_attn.dense": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.router": "ffn_gate_inp", "block_sparse_moe.router.layer": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    # GPT-2, GPT-NeoX, Falcon
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    "self_attention.query_key_value": "attn_qkv", "self_attention.dense": "attn_output",
    # LFM 2
    "operator_norm": "attn_norm", "ffn_norm": "ffn_norm", "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj", "conv.conv": "shortconv.conv",
    "self_attn.out_proj": "attn_output", "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm", "feed_forward.w1": "ffn_gate", "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}
TOP = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.final_layernorm": "output_norm", "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output", "transformer.word_embeddings": "token_embd",
    "model.embedding_norm": "token_embd_norm", "transformer.word_embeddings_layernorm": "token_embd_norm",
    "transformer.norm_f": "output_norm", "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj", "model.per_layer_projection_norm": "per_layer_proj_norm",
}
LAYER = re.compile(r"^(?:model|transformer|gpt_neox)\.(?:layers|h|blocks)\.(\d+)\.(.+?)(?:\.(weight|bias))?$")


def permute(w, heads):
    """Rows of a rotate-half projection in the order of adjacent pairs."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def fill(model, unit_norm, seed):
    """Random weights, exact in f16, large enough that logits differ."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if p.dim() >= 2:
                p.copy_(noise * (1.2 / p.shape[-1] ** 0.5))
            elif "norm" in name or "ln_" in name or "layernorm" in name:
                p.copy_(noise * 0.1 + (0.0 if unit_norm or name.endswith("bias") else 1.0))
            else:
                p.copy_(noise * 0.2)
            p.copy_(p.half().float())
        for name, p in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                p.copy_(torch.randn(p.shape, generator=gen) * 0.2)


class Fixture:
    def __init__(self, name, arch, model, config, meta, parts=None, rope_norm=False, unit_norm=False, split=None, seed=7):
        self.name, self.arch, self.meta, self.split = name, arch, meta, split
        self.parts, self.rope_norm, self.unit_norm = {**PARTS, **(parts or {})}, rope_norm, unit_norm
        torch.manual_seed(1)
        theta = getattr(config, "rope_parameters", None) or {}
        if "rope_theta" in theta:
            self.meta.setdefault("rope.freq_base", float(theta["rope_theta"]))
        self.config, self.model = config, model(config).float().eval()
        fill(self.model, unit_norm, seed)

    def write(self):
        c = self.config
        w = gguf.GGUFWriter(None, self.arch)
        key = lambda k: f"{self.arch}.{k}"
        head = lambda *names: next(getattr(c, n) for n in names if hasattr(c, n))
        heads = head("num_attention_heads", "n_head")
        kv = self.meta.pop("kv", None) or getattr(c, "num_key_value_heads", None) or getattr(c, "num_kv_heads", None) or heads
        w.add_uint32(key("block_count"), head("num_hidden_layers", "n_layer"))
        w.add_uint32(key("embedding_length"), head("hidden_size", "n_embd"))
        w.add_uint32(key("feed_forward_length"), self.meta.pop("ff", None) or FF)
        w.add_uint32(key("context_length"), CONTEXT)
        w.add_uint32(key("attention.head_count"), heads)
        self.write_head_counts(w, key, kv)
        w.add_uint32(key("vocab_size"), VOCAB)
        for k, v in self.meta.items():
            k = key(k)
            {bool: w.add_bool, int: w.add_uint32, float: w.add_float32, str: w.add_string, list: w.add_array}[type(v)](k, v)
        for k, v in getattr(self, "arrays", {}).items():
            w.add_array(k, v)
        self.heads, self.kv = heads, kv
        for name, tensor in self.tensors():
            if tensor.ndim >= 2:
                tensor = tensor.astype(np.float16)
            w.add_tensor(name, np.ascontiguousarray(tensor))
        finish(w, OUT / f"{self.name}.gguf")
        write_reference(self.name, self.model)

    def write_head_counts(self, w, key, kv):
        w.add_uint32(key("attention.head_count_kv"), kv)

    def tensors(self):
        state = {k: v.detach().numpy() for k, v in self.model.named_parameters()}
        for name, t in state.items():
            m = LAYER.match(name)
            if m is None:
                base, _, suffix = name.rpartition(".")
                target = TOP[base]
                yield f"{target}.{suffix}", t + 1 if self.unit_norm and "norm" in target else t
                continue
            i, part, suffix = m[1], m[2], m[3] or "weight"
            yield from self.layer(f"blk.{i}", part, suffix, t)

    def layer(self, blk, part, suffix, t):
        if part in ("mlp.experts.gate_up_proj", "block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.input_linear"):
            gate, up = t[:, : t.shape[1] // 2], t[:, t.shape[1] // 2 :]
            yield f"{blk}.ffn_gate_exps.weight", gate
            yield f"{blk}.ffn_up_exps.weight", up
        elif part in ("mlp.experts.down_proj", "block_sparse_moe.experts.down_proj", "block_sparse_moe.output_linear"):
            yield f"{blk}.ffn_down_exps.weight", t
        elif part == "self_attn.sinks":
            yield f"{blk}.attn_sinks.weight", t
        else:
            target = self.parts[part]
            if self.unit_norm and "norm" in target:
                t = t + 1
            if self.rope_norm and target in ("attn_q", "attn_k"):
                t = permute(t, self.heads if target == "attn_q" else self.kv)
            if self.split:
                t = self.split(self, target, t)
            yield f"{blk}.{target}.{suffix}", t


class GptOss(Fixture):
    """Experts lie (expert, in, out) with gate and up interleaved."""

    def layer(self, blk, part, suffix, t):
        kind = "bias" if part.endswith("_bias") else "weight"
        if "gate_up_proj" in part:
            if kind == "weight":
                t = t.transpose(0, 2, 1)
            yield f"{blk}.ffn_gate_exps.{kind}", t[:, ::2]
            yield f"{blk}.ffn_up_exps.{kind}", t[:, 1::2]
        elif "experts.down_proj" in part:
            yield f"{blk}.ffn_down_exps.{kind}", t.transpose(0, 2, 1) if kind == "weight" else t
        else:
            yield from super().layer(blk, part, suffix, t)


def write_reference(name, model):
    """What transformers computes for random tokens, at every position."""
    tokens = torch.randint(3, VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        logits = model(tokens).logits[0]
    spread = logits.std().item()
    assert 0.1 < spread < 100, spread
    r = gguf.GGUFWriter(None, "reference")
    r.add_tensor("tokens", tokens[0].numpy().astype(np.int32))
    r.add_tensor("logits", logits.numpy().astype(np.float32))
    finish(r, OUT / f"{name}.ref.gguf")
    print(f"{name}: logits spread {spread:.2f}")


def finish(writer, path):
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def split_neox(self, target, t):
    if target != "attn_qkv":
        return t
    return t.reshape(self.heads, 3, -1, *t.shape[1:]).swapaxes(0, 1).reshape(t.shape)


def split_falcon(self, target, t):
    if target != "attn_qkv":
        return t
    hd, group = t.shape[0] // (self.heads + 2 * self.kv), self.heads // self.kv
    t = t.reshape(self.kv, group + 2, hd, t.shape[1])
    return np.concatenate([t[:, :group].reshape(-1, t.shape[-1]), t[:, group].reshape(-1, t.shape[-1]),
                           t[:, group + 1].reshape(-1, t.shape[-1])])


def split_gpt2(self, target, t):
    return t.T if target in ("attn_qkv", "attn_output", "ffn_up", "ffn_down") and t.ndim == 2 else t


def theta(value, **more):
    return dict(rope_parameters={"rope_type": "default", "rope_theta": value, **more})


RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
LN = {"attention.layer_norm_epsilon": 1e-5}
MOE = dict(num_experts_per_tok=2, moe_intermediate_size=32)
MOE_META = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
PRE_POST = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
            "post_feedforward_layernorm": "post_ffw_norm"}
HD = {"attention.key_length": 32, "attention.value_length": 32}


def fixtures():
    b = lambda **kw: {**BASE, "rms_norm_eps": 1e-5, **kw}
    yield "llama", lambda: Fixture("llama", "llama", tf.LlamaForCausalLM,
        tf.LlamaConfig(**b(**theta(500000.0))), {**RMS, "rope.freq_base": 500000.0}, rope_norm=True)
    yield "llama-linear", lambda: Fixture("llama-linear", "llama", tf.LlamaForCausalLM,
        tf.LlamaConfig(**b(tie_word_embeddings=True, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})),
        {**RMS, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, rope_norm=True)
    yield "llama-yarn", lambda: Fixture("llama-yarn", "llama", tf.LlamaForCausalLM,
        tf.LlamaConfig(**b(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
                                            "original_max_position_embeddings": 64})),
        {**RMS, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
        rope_norm=True)
    yield "mistral-nemo", lambda: Fixture("mistral-nemo", "llama", tf.MistralForCausalLM,
        tf.MistralConfig(**b(head_dim=32, sliding_window=None)), {**RMS, **HD, "rope.dimension_count": 32}, rope_norm=True)
    yield "mixtral", lambda: Fixture("mixtral", "llama", tf.MixtralForCausalLM,
        tf.MixtralConfig(**b(num_local_experts=4, num_experts_per_tok=2, sliding_window=None)),
        {**RMS, "expert_count": 4, "expert_used_count": 2}, rope_norm=True)
    yield "smollm3", lambda: Fixture("smollm3", "smollm3", tf.SmolLM3ForCausalLM,
        tf.SmolLM3Config(**b(num_hidden_layers=5, no_rope_layer_interval=4)), dict(RMS), rope_norm=True)
    yield "qwen2", lambda: Fixture("qwen2", "qwen2", tf.Qwen2ForCausalLM,
        tf.Qwen2Config(**b(tie_word_embeddings=True)), dict(RMS))
    yield "qwen2moe", lambda: Fixture("qwen2moe", "qwen2moe", tf.Qwen2MoeForCausalLM,
        tf.Qwen2MoeConfig(**b(num_experts=4, shared_expert_intermediate_size=64, **MOE)),
        {**RMS, **MOE_META, "expert_shared_feed_forward_length": 64})
    yield "qwen3", lambda: Fixture("qwen3", "qwen3", tf.Qwen3ForCausalLM,
        tf.Qwen3Config(**b(head_dim=32)), {**RMS, **HD})
    yield "qwen3moe", lambda: Fixture("qwen3moe", "qwen3moe", tf.Qwen3MoeForCausalLM,
        tf.Qwen3MoeConfig(**b(head_dim=16, num_experts=4, norm_topk_prob=True, **MOE)),
        {**RMS, **MOE_META, "attention.key_length": 16, "attention.value_length": 16})
    yield "gemma", lambda: Fixture("gemma", "gemma", tf.GemmaForCausalLM,
        tf.GemmaConfig(**b(head_dim=32, tie_word_embeddings=True)), {**RMS, **HD}, unit_norm=True)
    yield "gemma2", lambda: Fixture("gemma2", "gemma2", tf.Gemma2ForCausalLM,
        tf.Gemma2Config(**b(head_dim=32, tie_word_embeddings=True, sliding_window=24, query_pre_attn_scalar=32, num_hidden_layers=4)),
        {**RMS, **HD, "attention.sliding_window": 24, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        parts=PRE_POST, unit_norm=True)
    yield "gemma3", lambda: Fixture("gemma3", "gemma3", tf.Gemma3ForCausalLM,
        tf.Gemma3TextConfig(**b(head_dim=32, tie_word_embeddings=True, sliding_window=24, query_pre_attn_scalar=32, num_hidden_layers=7,
            layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
            rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})),
        {**RMS, **HD, "attention.sliding_window": 24, "rope.freq_base": 1e6, "rope.scaling.type": "linear",
         "rope.scaling.factor": 8.0}, parts=PRE_POST, unit_norm=True)
    yield "phi2", lambda: Fixture("phi2", "phi2", tf.PhiForCausalLM,
        tf.PhiConfig(**{**BASE, "num_key_value_heads": HEADS, "layer_norm_eps": 1e-5,
                        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        {**LN, "rope.dimension_count": 8})
    long, short = [1.0 + 0.5 * i for i in range(8)], [1.0 + 0.1 * i for i in range(8)]
    yield "phi3", lambda: Phi3("phi3", "phi3", tf.Phi3ForCausalLM,
        tf.Phi3Config(**b(original_max_position_embeddings=64, sliding_window=None,
            rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "long_factor": long, "short_factor": short,
                             "original_max_position_embeddings": 64})),
        {**RMS, "rope.scaling.original_context_length": 64,
         "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(CONTEXT / 64) / np.log(64)))})
    yield "olmo2", lambda: Fixture("olmo2", "olmo2", tf.Olmo2ForCausalLM, tf.Olmo2Config(**b()), dict(RMS),
        parts={"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"})
    yield "granite", lambda: Fixture("granite", "granite", tf.GraniteForCausalLM,
        tf.GraniteConfig(**b(embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.3, attention_multiplier=0.2)),
        {**RMS, "embedding_scale": 6.0, "logit_scale": 4.0, "residual_scale": 0.3, "attention.scale": 0.2}, rope_norm=True)
    yield "granitemoe", lambda: Fixture("granitemoe", "granitemoe", tf.GraniteMoeForCausalLM,
        tf.GraniteMoeConfig(**b(intermediate_size=32, num_local_experts=4, num_experts_per_tok=2, embedding_multiplier=6.0,
                                logits_scaling=4.0, residual_multiplier=0.3, attention_multiplier=0.2)),
        {**RMS, "ff": 32, "expert_count": 4, "expert_used_count": 2, "embedding_scale": 6.0, "logit_scale": 4.0,
         "residual_scale": 0.3, "attention.scale": 0.2}, rope_norm=True)
    yield "glm4", lambda: Fixture("glm4", "glm4", tf.Glm4ForCausalLM,
        tf.Glm4Config(**b(head_dim=16, attention_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5})),
        {**RMS, "rope.dimension_count": 8},
        parts={"post_self_attn_layernorm": "post_attention_norm", "post_attention_layernorm": "ffn_norm",
               "post_mlp_layernorm": "post_ffw_norm"})
    yield "command-r", lambda: Fixture("command-r", "command-r", tf.CohereForCausalLM,
        tf.CohereConfig(**{**BASE, "tie_word_embeddings": True, "layer_norm_eps": 1e-5, "logit_scale": 0.5, "use_qk_norm": False}),
        {**LN, "logit_scale": 0.5})
    yield "gpt2", lambda: Fixture("gpt2", "gpt2", tf.GPT2LMHeadModel,
        tf.GPT2Config(vocab_size=VOCAB, n_embd=HIDDEN, n_head=HEADS, n_layer=LAYERS, n_positions=CONTEXT, n_inner=FF,
                      attn_implementation="eager"), dict(LN), split=split_gpt2)
    neox = dict(vocab_size=VOCAB, hidden_size=HIDDEN, num_attention_heads=HEADS, num_hidden_layers=LAYERS,
                intermediate_size=FF, max_position_embeddings=CONTEXT, layer_norm_eps=1e-5, attn_implementation="eager",
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5})
    for parallel, name in ((True, "gptneox"), (False, "gptneox-serial")):
        yield name, lambda parallel=parallel, name=name: Fixture(name, "gptneox", tf.GPTNeoXForCausalLM,
            tf.GPTNeoXConfig(**neox, use_parallel_residual=parallel),
            {**LN, "rope.dimension_count": 8, "use_parallel_residual": parallel}, split=split_neox)
    yield "starcoder2", lambda: Fixture("starcoder2", "starcoder2", tf.Starcoder2ForCausalLM,
        tf.Starcoder2Config(**{**BASE, "use_bias": True, "norm_epsilon": 1e-5, "sliding_window": None}), dict(LN))
    yield "stablelm", lambda: Fixture("stablelm", "stablelm", tf.StableLmForCausalLM,
        tf.StableLmConfig(**{**BASE, "layer_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        {**LN, "rope.dimension_count": 8})
    falcon = dict(vocab_size=VOCAB, hidden_size=HIDDEN, num_attention_heads=HEADS, num_hidden_layers=LAYERS, ffn_hidden_size=FF,
                  max_position_embeddings=CONTEXT, bias=False, parallel_attn=True, attn_implementation="eager", alibi=False)
    yield "falcon", lambda: Fixture("falcon", "falcon", tf.FalconForCausalLM,
        tf.FalconConfig(**falcon, multi_query=True, new_decoder_architecture=False, num_kv_heads=1),
        dict(LN), split=split_falcon, parts={"input_layernorm": "attn_norm"})
    yield "falcon-40b", lambda: Fixture("falcon-40b", "falcon", tf.FalconForCausalLM,
        tf.FalconConfig(**falcon, new_decoder_architecture=True, num_kv_heads=2),
        dict(LN), split=split_falcon, parts={"ln_attn": "attn_norm_2", "ln_mlp": "attn_norm"})
    yield "lfm2", lambda: Lfm2("lfm2", "lfm2", tf.Lfm2ForCausalLM,
        tf.Lfm2Config(**{**BASE, "tie_word_embeddings": True, "norm_eps": 1e-5, "conv_L_cache": 3, "block_auto_adjust_ff_dim": False,
            "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "conv"], **theta(1e6)}),
        {**RMS, "shortconv.l_cache": 3})
    yield "gpt-oss", lambda: GptOss("gpt-oss", "gpt-oss", tf.GptOssForCausalLM,
        tf.GptOssConfig(**b(head_dim=16, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=24,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={"rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                             "truncate": False, "original_max_position_embeddings": 64})),
        {**RMS, "ff": 32, **MOE_META, "attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 24,
         "rope.freq_base": 150000.0, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
         "rope.scaling.original_context_length": 64},
        parts={"post_attention_layernorm": "post_attention_norm"})


class Lfm2(Fixture):
    """Layers without attention have no heads for keys, and a convolution of one channel each. The tokenizer
    counts the vocabulary for candle-transformers."""

    def write_head_counts(self, w, key, kv):
        counts = [kv if kind == "full_attention" else 0 for kind in self.config.layer_types]
        w.add_array(key("attention.head_count_kv"), counts)
        w.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(VOCAB)])

    def layer(self, blk, part, suffix, t):
        if part == "conv.conv":
            # (channels, 1, width): GGUF leaves the one out.
            t = t.reshape(t.shape[0], t.shape[2])
        yield from super().layer(blk, part, suffix, t)


class Phi3(Fixture):
    """LongRoPE's factors are configuration there and tensors here."""

    def tensors(self):
        yield from super().tensors()
        rope = self.config.rope_parameters
        for size in ("long", "short"):
            yield f"rope_factors_{size}.weight", np.array(rope[f"{size}_factor"], dtype=np.float32)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = set(sys.argv[1:])
    failed = []
    import parity_2026  # these import this file
    import parity_families
    import parity_hybrids
    import parity_positions

    for name, make in [*fixtures(), *parity_families.fixtures(), *parity_positions.fixtures(), *parity_2026.fixtures(),
                       *parity_hybrids.fixtures()]:
        if wanted and name not in wanted:
            continue
        try:
            make().write()
        except Exception as error:  # one family's trouble must not hide the others'
            failed.append(name)
            print(f"{name}: FAILED: {type(error).__name__}: {error}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
