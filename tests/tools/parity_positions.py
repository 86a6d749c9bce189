"""More families for make_parity_fixtures.py: linear biases in place of rotary positions, clamped projections, chunks."""

import numpy as np
import torch
import transformers as tf

from make_parity_fixtures import BASE, CONTEXT, FF, HD, HEADS, HIDDEN, LAYERS, LN, MOE_META, PRE_POST, RMS, VOCAB, Fixture, split_neox, theta
from parity_families import Llama4


def slopes(heads, max_bias=8.0):
    """As Press et al. give them (arXiv 2108.12409)."""
    even = 2 ** int(np.floor(np.log2(heads)))
    first = [2 ** (-max_bias * (i + 1) / even) for i in range(even)]
    return torch.tensor((first + [2 ** (-max_bias * (2 * i + 1) / (2 * even)) for i in range(heads - even)])[:heads])


def biased(base, scale=None):
    """A model of `base` whose attention has linear biases and no rotary positions."""

    class Biased(base):
        def __init__(self, config):
            super().__init__(config)
            rotary = self.model.rotary_emb.forward
            self.model.rotary_emb.forward = lambda *a, **k: [f(t) for f, t in zip((torch.ones_like, torch.zeros_like), rotary(*a, **k))]
            for layer in self.model.layers if scale else []:
                layer.self_attn.scaling = scale

        def forward(self, tokens):
            position = torch.arange(tokens.shape[1])
            mask = -slopes(self.config.num_attention_heads)[:, None, None] * (position[:, None] - position[None, :])
            mask = mask.masked_fill(position[None, :] > position[:, None], torch.finfo(torch.float32).min)
            return super().forward(tokens, attention_mask=mask[None])

    return Biased


class Parallel(tf.LlamaForCausalLM):
    """Attention and feed-forward side by side behind one norm."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            del layer.post_attention_layernorm
            layer.forward = lambda x, layer=layer, **more: self.both(layer, layer.input_layernorm(x), more) + x

    @staticmethod
    def both(layer, x, more):
        return layer.self_attn(hidden_states=x, **more)[0] + layer.mlp(x)


class Deep(Fixture):
    """Forty layers that each add little, so that half floats in the KV cache do not add up."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if "o_proj" in name or "down_proj" in name:
                    p.copy_((p * 0.1).half().float())


class Gemma3n(Fixture):
    """Projections of the streams lie one above the other. Scores are kept small, as nothing divides them and half floats in the KV
    cache would show."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if "q_norm" in name:
                    p.copy_((p * 0.3).half().float())

    def tensors(self):
        held = {}
        for name, t in self.model.named_parameters():
            if "altup_projections" in name or "altup_unembed_projections" in name:
                held.setdefault("altup_proj" if "altup_projections" in name else "altup_unembd_proj", []).append(t.detach().numpy())
        for name, parts in held.items():
            yield f"{name}.weight", np.stack(parts)
        whole = self.model.named_parameters
        self.model.named_parameters = lambda: [(k, v) for k, v in whole() if "altup_projections" not in k and "altup_unembed" not in k]
        yield from super().tensors()


class Dbrx(Fixture):
    """Experts lie one above the other, the last matrix transposed."""

    def layer(self, blk, part, suffix, t):
        name = {"ffn.experts.mlp.w1": "ffn_gate_exps", "ffn.experts.mlp.v1": "ffn_up_exps", "ffn.experts.mlp.w2": "ffn_down_exps"}.get(part)
        if name is None:
            yield from super().layer(blk, part, suffix, t)
            return
        t = t.reshape(4, -1, HIDDEN)
        yield f"{blk}.{name}.weight", t.transpose(0, 2, 1) if name == "ffn_down_exps" else t


def fixtures():
    b = lambda **kw: {**BASE, "rms_norm_eps": 1e-5, **kw}
    # Six heads: two slopes lie between those of four.
    yield "bloom", lambda: Fixture("bloom", "bloom", tf.BloomForCausalLM,
        tf.BloomConfig(vocab_size=VOCAB, hidden_size=48, n_head=6, n_layer=LAYERS, attn_implementation="eager"),
        {**LN, "ff": 192}, split=split_neox)
    mpt = dict(d_model=HIDDEN, n_heads=HEADS, n_layers=LAYERS, max_seq_len=CONTEXT, vocab_size=VOCAB, no_bias=True,
               attn_implementation="eager")
    parts = {"norm_1": "attn_norm", "norm_2": "ffn_norm", "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output",
             "ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down"}
    yield "mpt", lambda: Fixture("mpt", "mpt", tf.MptForCausalLM,
        tf.MptConfig(**mpt, attn_config={"alibi": True, "alibi_bias_max": 8, "clip_qkv": 1.0}),
        {**LN, "ff": 4 * HIDDEN, "attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 1.0}, parts=parts)
    yield "refact", lambda: Fixture("refact", "refact", biased(tf.LlamaForCausalLM), tf.LlamaConfig(**b(num_key_value_heads=1)), dict(RMS))
    yield "plamo", lambda: Fixture("plamo", "plamo", Parallel, tf.LlamaConfig(**b()), dict(RMS))
    yield "jais", lambda: Fixture("jais", "jais", biased(tf.StableLmForCausalLM, scale=HEADS / HIDDEN),
        tf.StableLmConfig(**{**BASE, "num_key_value_heads": HEADS, "layer_norm_eps": 1e-5, **theta(1e4)}),
        {**LN, "attention.max_alibi_bias": 8.0})
    yield "baichuan-13b", lambda: Deep("baichuan-13b", "baichuan", biased(tf.LlamaForCausalLM),
        tf.LlamaConfig(**b(num_hidden_layers=40, hidden_size=32, intermediate_size=32, num_key_value_heads=HEADS)), {**RMS, "ff": 32})
    yield "olmo-clamp", lambda: Fixture("olmo-clamp", "olmo", tf.OlmoForCausalLM, tf.OlmoConfig(**{**BASE, "clip_qkv": 1.0}),
        {**LN, "attention.clamp_kqv": 1.0}, rope_norm=True)
    yield "dbrx", lambda: Dbrx("dbrx", "dbrx", tf.DbrxForCausalLM,
        tf.DbrxConfig(d_model=HIDDEN, n_heads=HEADS, n_layers=LAYERS, max_seq_len=CONTEXT, vocab_size=VOCAB, attn_implementation="eager",
                      attn_config={"clip_qkv": 1.0, "kv_n_heads": 2, "rope_theta": 1e4},
                      ffn_config={"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "ffn_act_fn": {"name": "silu"}}),
        {**LN, **MOE_META, "ff": 32, "kv": 2, "attention.clamp_kqv": 1.0},
        parts={"norm_attn_norm.norm_1": "attn_norm", "norm_attn_norm.norm_2": "attn_output_norm", "norm_attn_norm.attn.Wqkv": "attn_qkv",
               "norm_attn_norm.attn.out_proj": "attn_output", "ffn.router.layer": "ffn_gate_inp"})
    # Of six layers the last two read keys and values of the fourth (local) and the third (global).
    kinds = ["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 2 + ["full_attention"]
    sparsity = [0.95, 0.95, 0.0, 0.0, 0.0, 0.0]
    scales = [float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(s))) for s in sparsity]
    yield "gemma3n", lambda: Gemma3n("gemma3n", "gemma3n", tf.Gemma3nForCausalLM,
        tf.Gemma3nTextConfig(**b(head_dim=32, tie_word_embeddings=True, sliding_window=24, num_hidden_layers=6, layer_types=kinds,
            intermediate_size=[FF] * 6, vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=16, num_kv_shared_layers=2,
            laurel_rank=8, activation_sparsity_pattern=sparsity,
            rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})),
        {**RMS, **HD, "attention.sliding_window": 24, "attention.sliding_window_pattern": [k == "sliding_attention" for k in kinds],
         "attention.shared_kv_layers": 2, "rope.freq_base": 1e6, "altup.active_idx": 0, "altup.num_inputs": 4,
         "embedding_length_per_layer_input": 16, "activation_sparsity_scale": scales, "final_logit_softcapping": 30.0},
        parts={**PRE_POST, "altup.correct_output_scale": "altup_correct_scale", "altup.correction_coefs": "altup_correct_coef",
               "altup.prediction_coefs": "altup_predict_coef", "altup.modality_router": "altup_router",
               "altup.router_norm": "altup_router_norm", "laurel.linear_left": "laurel_l", "laurel.linear_right": "laurel_r",
               "laurel.post_laurel_norm": "laurel_post_norm", "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj",
               "post_per_layer_input_norm": "post_norm"})
    yield "phimoe", lambda: Fixture("phimoe", "phimoe", tf.PhimoeForCausalLM,
        tf.PhimoeConfig(**b(attention_bias=True, lm_head_bias=True, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2,
            sliding_window=None, **theta(1e4))), {**RMS, "ff": 32, "expert_count": 4, "expert_used_count": 2})
    ff4 = {f"feed_forward.shared_expert.{p}_proj": f"ffn_{p}_shexp" for p in ("gate", "up", "down")}
    ff4 |= {f"feed_forward.{p}_proj": f"ffn_{p}" for p in ("gate", "up", "down")}
    yield "llama4-chunks", lambda: Llama4("llama4-chunks", "llama4", tf.Llama4ForCausalLM,
        tf.Llama4TextConfig(**b(head_dim=16, num_hidden_layers=4, intermediate_size=32, intermediate_size_mlp=FF, num_local_experts=4,
            num_experts_per_tok=2, interleave_moe_layer_step=4, no_rope_layers=[1, 1, 1, 0], attention_chunk_size=40,
            attn_temperature_tuning=True, **theta(1e4))),
        {**RMS, **MOE_META, "interleave_moe_layer_step": 4, "attention.sliding_window": 40}, parts={**ff4, "feed_forward.router": "ffn_gate_inp"})
