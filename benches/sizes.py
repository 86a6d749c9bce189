#!/usr/bin/env python3
"""Writes a GGUF file with the shape of a published model and random weights: speed needs no more than that.

    sizes.py SHAPE FILE [--list]

Types are those of a Q4_K_M file as llama.cpp's quantiser chooses them, near enough. Needs: pip install gguf numpy.
"""

import sys

import gguf
import numpy as np

Q4, Q6, Q8, F32 = (gguf.GGMLQuantizationType[name] for name in ("Q4_K", "Q6_K", "Q8_0", "F32"))


def halves(values):
    return np.asarray(values, dtype=np.float16).view(np.uint8).reshape(-1, 2)


def blocks(rng, count, kind, size):
    """Random blocks of a type whose values are about `size` in magnitude."""
    draw = lambda width: rng.integers(0, 256, (count, width), dtype=np.uint8)
    if kind is Q4:
        d = np.full(count, size / 160)
        return np.hstack([halves(d), halves(d * 7.5), draw(12), draw(128)])
    if kind is Q6:
        return np.hstack([draw(128), draw(64), draw(16), halves(np.full(count, size / 1200))])
    if kind is Q8:
        return np.hstack([halves(np.full(count, size / 70)), draw(32)])
    raise ValueError(kind)


class Model:
    def __init__(self, path, arch, meta):
        self.out, self.arch, self.rng = gguf.GGUFWriter(path, arch), arch, np.random.default_rng(7)
        self.out.add_string("general.name", path)
        self.out.add_string("tokenizer.ggml.model", "no_vocab")
        for key, value in meta.items():
            add = {int: self.out.add_uint32, float: self.out.add_float32, list: self.out.add_array, bool: self.out.add_bool}
            add[type(value)](f"{arch}.{key}", value)

    def matrix(self, name, rows, cols, kind=Q4):
        if cols % 256 and kind is not F32:
            kind = Q8
        if kind is F32:
            data = self.rng.standard_normal((rows, cols), dtype=np.float32) / cols**0.5
            return self.out.add_tensor(f"{name}.weight", data)
        width = 32 if kind is Q8 else 256
        data = blocks(self.rng, rows * cols // width, kind, cols**-0.5).reshape(rows, -1)
        self.out.add_tensor(f"{name}.weight", data, raw_dtype=kind)

    def vector(self, name, values):
        self.out.add_tensor(name, np.asarray(values, dtype=np.float32))

    def norm(self, name, width):
        self.vector(f"{name}.weight", np.ones(width))

    def ffn(self, blk, hidden, width, more):
        self.matrix(f"{blk}.ffn_gate", width, hidden)
        self.matrix(f"{blk}.ffn_up", width, hidden)
        self.matrix(f"{blk}.ffn_down", hidden, width, Q6 if more else Q4)

    def attention(self, blk, hidden, heads, kv, dim, qk_norm, more, q_width=1):
        self.matrix(f"{blk}.attn_q", heads * dim * q_width, hidden)
        self.matrix(f"{blk}.attn_k", kv * dim, hidden)
        self.matrix(f"{blk}.attn_v", kv * dim, hidden, Q6 if more else Q4)
        self.matrix(f"{blk}.attn_output", hidden, heads * dim)
        if qk_norm:
            self.norm(f"{blk}.attn_q_norm", dim)
            self.norm(f"{blk}.attn_k_norm", dim)

    def close(self):
        self.out.write_header_to_file()
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()


def is_more(index, layers):
    """Of the layers whose values and down projections get more bits: the first and last eighths, and every third between."""
    return index < layers // 8 or index >= 7 * layers // 8 or (index - layers // 8) % 3 == 2


def dense(path, arch, layers, hidden, heads, kv, dim, width, vocab, context, theta, qk_norm):
    m = Model(path, arch, {
        "block_count": layers, "embedding_length": hidden, "feed_forward_length": width, "context_length": context,
        "attention.head_count": heads, "attention.head_count_kv": kv, "attention.key_length": dim, "attention.value_length": dim,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": theta, "rope.dimension_count": dim, "vocab_size": vocab})
    m.matrix("token_embd", vocab, hidden, Q6)
    for i in range(layers):
        m.norm(f"blk.{i}.attn_norm", hidden)
        m.norm(f"blk.{i}.ffn_norm", hidden)
        m.attention(f"blk.{i}", hidden, heads, kv, dim, qk_norm, is_more(i, layers))
        m.ffn(f"blk.{i}", hidden, width, is_more(i, layers))
    m.norm("output_norm", hidden)
    m.close()


def qwen35(path, layers, hidden, heads, kv, width, k_heads, v_heads, vocab, context=262144, dim=256, state=128):
    m = Model(path, "qwen35", {
        "block_count": layers, "embedding_length": hidden, "feed_forward_length": width, "context_length": context,
        "attention.head_count": heads, "attention.head_count_kv": kv, "attention.key_length": dim, "attention.value_length": dim,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e7, "rope.dimension_count": dim // 4,
        "rope.dimension_sections": [11, 11, 10, 0], "vocab_size": vocab, "full_attention_interval": 4, "ssm.conv_kernel": 4,
        "ssm.state_size": state, "ssm.group_count": k_heads, "ssm.time_step_rank": v_heads, "ssm.inner_size": v_heads * state})
    keys, values = k_heads * state, v_heads * state
    m.matrix("token_embd", vocab, hidden, Q6)
    for i in range(layers):
        blk = f"blk.{i}"
        m.norm(f"{blk}.attn_norm", hidden)
        m.norm(f"{blk}.post_attention_norm", hidden)
        if i % 4 == 3:
            m.attention(blk, hidden, heads, kv, dim, True, is_more(i, layers), q_width=2)
        else:
            m.matrix(f"{blk}.attn_qkv", 2 * keys + values, hidden)
            m.matrix(f"{blk}.attn_gate", values, hidden)
            m.matrix(f"{blk}.ssm_beta", v_heads, hidden, F32)
            m.matrix(f"{blk}.ssm_alpha", v_heads, hidden, F32)
            m.matrix(f"{blk}.ssm_conv1d", 2 * keys + values, 4, F32)
            m.vector(f"{blk}.ssm_dt.bias", np.linspace(-3, 1, v_heads))
            m.vector(f"{blk}.ssm_a", -np.linspace(0.1, 4, v_heads))
            m.norm(f"{blk}.ssm_norm", state)
            m.matrix(f"{blk}.ssm_out", hidden, values)
        m.ffn(blk, hidden, width, is_more(i, layers))
    m.norm("output_norm", hidden)
    m.close()


SHAPES = {
    "qwen3.5-0.8b": lambda path: qwen35(path, 24, 1024, 8, 2, 3584, 16, 16, 248320),
    "qwen3.5-4b": lambda path: qwen35(path, 32, 2560, 16, 4, 9216, 16, 32, 248320),
    "llama3.2-1b": lambda path: dense(path, "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, False),
    "qwen3-4b": lambda path: dense(path, "qwen3", 36, 2560, 32, 8, 128, 9728, 151936, 40960, 1e6, True),
}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: sizes.py SHAPE FILE, where SHAPE is one of {', '.join(SHAPES)}")
    SHAPES[sys.argv[1]](sys.argv[2])
