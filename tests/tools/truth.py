#!/usr/bin/env python3
"""Writes the distributions that a model's weights mean, as a measure for programs that run it.

    truth.py MODEL.gguf TOKENS OUT

The weights are dequantised, and everything is computed in 32-bit floats by plain numpy: no quantised
activations, no half floats, no kernels of ours. TOKENS is a file written by `kolosal perplexity
--save-logits` or `llama-perplexity --save-all-logits`, of which only the tokens are read. OUT has the
same format and is read by `kolosal perplexity --kl-divergence OUT` and by
`llama-perplexity --kl-divergence --kl-divergence-base OUT`.

Architectures: llama, gemma3. Needs: pip install gguf numpy.
"""

import struct
import sys

import numpy as np
from gguf import GGUFReader, dequantize

DEPTH = 16.0


class Model:
    def __init__(self, path):
        self.reader = GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.arch = self.key("general.architecture")
        self.layers = self.param("block_count")
        self.hidden = self.param("embedding_length")
        self.heads = self.param("attention.head_count")
        self.kv_heads = self.param("attention.head_count_kv", self.heads)
        self.head_dim = self.param("attention.key_length", self.hidden // self.heads)
        self.eps = self.param("attention.layer_norm_rms_epsilon")
        self.base = self.param("rope.freq_base", 10000.0)
        self.window = self.param("attention.sliding_window", 0)
        self.gemma = self.arch == "gemma3"
        if self.arch not in ("llama", "gemma3"):
            sys.exit(f"{self.arch}: only llama and gemma3")
        if self.key("rope_freqs.weight") or "rope_freqs.weight" in self.tensors:
            sys.exit("scaled rotary frequencies are not known here")
        self.cache = {}

    def key(self, name, default=None):
        field = self.reader.get_field(name)
        return default if field is None else field.contents()

    def param(self, name, default=None):
        return self.key(f"{self.arch}.{name}", default)

    def weight(self, name):
        """Shape (outputs, inputs) or (values)."""
        if name not in self.cache:
            tensor = self.tensors[name]
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            self.cache[name] = values.reshape(tensor.shape[::-1])
        return self.cache[name]

    def norm(self, x, name):
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.eps))
        return x * scale * self.weight(name + ".weight")

    def linear(self, x, name):
        return x @ self.weight(name + ".weight").T

    def rope(self, x, base):
        """Rotates (tokens, heads, head_dim): neighbours in llama, halves in gemma3."""
        half = self.head_dim // 2
        angles = np.arange(len(x))[:, None] * base ** (-np.arange(half) / half)
        cos, sin = (f(angles).astype(np.float32)[:, None, :] for f in (np.cos, np.sin))
        out = np.empty_like(x)
        if self.gemma:
            first, second, put = x[..., :half], x[..., half:], (np.s_[..., :half], np.s_[..., half:])
        else:
            first, second, put = x[..., 0::2], x[..., 1::2], (np.s_[..., 0::2], np.s_[..., 1::2])
        out[put[0]] = first * cos - second * sin
        out[put[1]] = first * sin + second * cos
        return out

    def attention(self, x, layer):
        tokens = len(x)
        block = f"blk.{layer}.attn_"
        q = self.linear(x, block + "q").reshape(tokens, self.heads, self.head_dim)
        k = self.linear(x, block + "k").reshape(tokens, self.kv_heads, self.head_dim)
        v = self.linear(x, block + "v").reshape(tokens, self.kv_heads, self.head_dim)
        windowed = self.gemma and (layer + 1) % 6 != 0
        if self.gemma:
            q, k = self.norm(q, block + "q_norm"), self.norm(k, block + "k_norm")
        base = 10000.0 if windowed else self.base
        q, k = self.rope(q, base), self.rope(k, base)
        age = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
        seen = (age >= 0) & (age < self.window) if windowed else age >= 0
        out = np.empty_like(q)
        for head in range(self.heads):
            kv = head * self.kv_heads // self.heads
            scores = q[:, head] @ k[:, kv].T / np.float32(np.sqrt(self.head_dim))
            scores = np.where(seen, scores, np.float32(-np.inf))
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[:, head] = scores / scores.sum(axis=-1, keepdims=True) @ v[:, kv]
        return self.linear(out.reshape(tokens, -1), block + "output")

    def feed_forward(self, x, layer):
        block = f"blk.{layer}.ffn_"
        gate, up = self.linear(x, block + "gate"), self.linear(x, block + "up")
        if self.gemma:
            cube = np.float32(0.044715) * gate**3
            gate = gate * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (gate + cube))) / 2
        else:
            gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * up, block + "down")

    def hidden_states(self, tokens):
        x = self.weight("token_embd.weight")[tokens]
        if self.gemma:
            x = x * np.float32(np.sqrt(self.hidden))
        for layer in range(self.layers):
            block = f"blk.{layer}."
            y = self.attention(self.norm(x, block + "attn_norm"), layer)
            x = x + (self.norm(y, block + "post_attention_norm") if self.gemma else y)
            y = self.feed_forward(self.norm(x, block + "ffn_norm"), layer)
            x = x + (self.norm(y, block + "post_ffw_norm") if self.gemma else y)
        return self.norm(x, "output_norm")

    def logits(self, states):
        head = "output" if "output.weight" in self.tensors else "token_embd"
        return self.linear(states, head)


def coded(row):
    """A row of logits as llama-perplexity writes it."""
    top = row.max()
    low = max(row.min(), top - np.float32(DEPTH))
    scale = (top - low) / np.float32(65535)
    total = float(top) + np.log(np.sum(np.exp((row - top).astype(np.float64))))
    codes = np.clip(np.rint((row - low) / scale), 0, 65535).astype("<u2")
    padding = b"\0\0" * (len(row) % 2)
    return struct.pack("<ff", scale, float(low) - total) + codes.tobytes() + padding


def main():
    model_path, tokens_path, out_path = sys.argv[1:]
    with open(tokens_path, "rb") as file:
        mark, n_ctx, vocabulary, chunks = struct.unpack("<8s3i", file.read(20))
        if mark != b"_logits_":
            sys.exit(f"{tokens_path} holds no distributions")
        tokens = np.frombuffer(file.read(4 * n_ctx * chunks), "<i4").reshape(chunks, n_ctx)
    model = Model(model_path)
    with open(out_path, "wb") as out:
        out.write(struct.pack("<8s3i", b"_logits_", n_ctx, vocabulary, chunks))
        out.write(tokens.astype("<i4").tobytes())
        for index, chunk in enumerate(tokens):
            states = model.hidden_states(chunk)[n_ctx // 2 : -1]
            for start in range(0, len(states), 64):
                for row in model.logits(states[start : start + 64]):
                    out.write(coded(row[:vocabulary]))
            print(f"{index + 1} of {chunks}", file=sys.stderr)


if __name__ == "__main__":
    main()
