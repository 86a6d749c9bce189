"""More families for make_parity_fixtures.py: those that came after the first."""

import gguf
import numpy as np
import torch
import transformers as tf
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextModel

from make_parity_fixtures import (BASE, CONTEXT, FF, HD, HEADS, HIDDEN, LAYERS, LN, MOE_META, PRE_POST, RMS, VOCAB,
                                  Fixture, permute, split_falcon, theta)

SHARED = {f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")}
LATENT = {"self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
          "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm"}
POST = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
OWN_NORM = {"post_attention_layernorm": "post_attention_norm"}
SIGMOID = 2
# Weights with which no token finds two experts so close that the half floats of the KV cache decide.
UNTIED = 8


class Biased(Fixture):
    """Experts are chosen with the help of a bias, which some classes keep as a buffer."""

    def tensors(self):
        yield from super().tensors()
        for name, t in self.model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                yield f"blk.{name.split('.')[2]}.exp_probs_b.bias", t.numpy().reshape(-1)

    def layer(self, blk, part, suffix, t):
        if part.endswith("e_score_correction_bias"):
            yield f"{blk}.exp_probs_b.bias", t.reshape(-1)
        else:
            yield from super().layer(blk, part, suffix, t)


class Latent(Biased):
    """Latent attention; `absorbed` splits what makes keys and values, as new files do."""

    def __init__(self, *args, absorbed, **more):
        self.absorbed = absorbed
        super().__init__(*args, **more)

    def layer(self, blk, part, suffix, t):
        if part != "self_attn.kv_b_proj":
            yield from super().layer(blk, part, suffix, t)
        elif not self.absorbed:
            yield f"{blk}.attn_kv_b.weight", t
        else:
            c = self.config
            t = t.reshape(self.heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank)
            yield f"{blk}.attn_k_b.weight", t[:, : c.qk_nope_head_dim].transpose(0, 2, 1)
            yield f"{blk}.attn_v_b.weight", t[:, c.qk_nope_head_dim :]


class Nemotron(Fixture):
    """Norms count from one."""

    def layer(self, blk, part, suffix, t):
        yield from super().layer(blk, part, suffix, t + 1 if "layernorm" in part and suffix == "weight" else t)

    def tensors(self):
        for name, t in super().tensors():
            yield name, t + 1 if name == "output_norm.weight" else t


class Apertus(Fixture):
    """The activation's numbers are metadata."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        acts = [layer.mlp.act_fn for layer in self.model.model.layers]
        self.arrays = {
            "xielu.alpha_p": [a.alpha_p.item() for a in acts], "xielu.alpha_n": [a.alpha_n.item() for a in acts],
            "xielu.beta": [a.beta.item() for a in acts], "xielu.eps": [a.eps.item() for a in acts],
        }

    def layer(self, blk, part, suffix, t):
        if "act_fn" not in part:
            yield from super().layer(blk, part, suffix, t)


class Llama4(Fixture):
    """Experts lie (expert, in, out)."""

    def layer(self, blk, part, suffix, t):
        if part == "feed_forward.experts.gate_up_proj":
            t = t.transpose(0, 2, 1)
            yield f"{blk}.ffn_gate_exps.weight", t[:, : t.shape[1] // 2]
            yield f"{blk}.ffn_up_exps.weight", t[:, t.shape[1] // 2 :]
        elif part == "feed_forward.experts.down_proj":
            yield f"{blk}.ffn_down_exps.weight", t.transpose(0, 2, 1)
        else:
            yield from super().layer(blk, part, suffix, t)


class Fused(Fixture):
    """Queries, keys and values in one tensor."""

    def tensors(self):
        held = {}
        for name, t in super().tensors():
            for part in "qkv":
                if f".attn_{part}." in name:
                    held[name.replace(f"attn_{part}.", "attn_qkv.")] = held.get(name.replace(f"attn_{part}.", "attn_qkv."), []) + [t]
                    break
            else:
                yield name, t
        for name, parts in held.items():
            yield name, np.concatenate(parts)


class BiasedFused(Biased, Fused):
    """Both."""


class TextOnly(torch.nn.Module):
    """The language part of a model that also sees."""

    def __init__(self, text_model, config):
        super().__init__()
        self.model = text_model(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, tokens):
        class Out:
            logits = self.lm_head(self.model(input_ids=tokens).last_hidden_state)
        return Out


def with_mixture(config, **moe):
    """Llama with the mixtures of DeepSeek-V2 in all layers but the first."""

    def make(config):
        model = tf.LlamaForCausalLM(config)
        mixture = tf.DeepseekV2Config(**{**BASE, "hidden_size": HIDDEN, **moe})
        mixture._experts_implementation = "eager"
        for layer in model.model.layers[moe.get("first_k_dense_replace", 0):]:
            layer.mlp = DeepseekV2Moe(mixture)
        return model

    return make


def fixtures():
    b = lambda **kw: {**BASE, "rms_norm_eps": 1e-5, **kw}
    ln = lambda **kw: {**BASE, "layer_norm_eps": 1e-5, **kw}
    half = lambda base=1e4: dict(rope_parameters={"rope_type": "default", "rope_theta": base, "partial_rotary_factor": 0.5})
    moe = dict(num_experts_per_tok=2, moe_intermediate_size=32)
    experts8 = {**MOE_META, "expert_count": 8}
    hd16 = {"attention.key_length": 16, "attention.value_length": 16}
    latent = dict(kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=24, num_key_value_heads=HEADS, head_dim=8)
    latent_meta = {"attention.kv_lora_rank": 32, "rope.dimension_count": 8}
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    yarn_meta = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}

    yield "deepseek", lambda: Fixture("deepseek", "deepseek",
        with_mixture(None, n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2, moe_intermediate_size=32,
                     first_k_dense_replace=1, topk_method="greedy"),
        tf.LlamaConfig(**b()), {**RMS, **MOE_META, "expert_shared_count": 2, "leading_dense_block_count": 1}, rope_norm=True, parts=SHARED)
    yield "bailingmoe", lambda: Fixture("bailingmoe", "bailingmoe",
        with_mixture(None, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=32, topk_method="greedy",
                     routed_scaling_factor=1.5),
        tf.LlamaConfig(**b(head_dim=32)), {**RMS, **HD, **MOE_META, "expert_shared_count": 1, "expert_weights_scale": 1.5,
                                           "rope.dimension_count": 32}, rope_norm=True, parts=SHARED)
    yield "deepseek2", lambda: Latent("deepseek2", "deepseek2", tf.DeepseekV2ForCausalLM,
        tf.DeepseekV2Config(**b(**latent, q_lora_rank=None, n_routed_experts=8, n_shared_experts=2, first_k_dense_replace=1,
            topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=1.5, **moe,
            rope_parameters={**yarn, "mscale": 0.707, "mscale_all_dim": 0.707})),
        {**RMS, **experts8, **latent_meta, **yarn_meta, "rope.scaling.yarn_log_multiplier": 0.0707,
         "attention.key_length": 24, "attention.value_length": 24,
         "expert_shared_count": 2, "leading_dense_block_count": 1, "expert_weights_scale": 1.5, "expert_group_count": 4,
         "expert_group_used_count": 2}, parts={**SHARED, **LATENT}, absorbed=False, seed=UNTIED)
    yield "deepseek3", lambda: Latent("deepseek3", "deepseek2", tf.DeepseekV3ForCausalLM,
        tf.DeepseekV3Config(**b(**{k: v for k, v in latent.items() if k != "head_dim"}, q_lora_rank=24, n_routed_experts=8,
            n_shared_experts=1, first_k_dense_replace=1, n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5, **moe,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4})),
        {**RMS, **experts8, **latent_meta, "attention.q_lora_rank": 24, "kv": 1, "attention.key_length": 40, "attention.value_length": 32,
         "attention.key_length_mla": 24, "attention.value_length_mla": 24,
         "expert_shared_count": 1, "leading_dense_block_count": 1, "expert_weights_scale": 2.5, "expert_weights_norm": True,
         "expert_gating_func": SIGMOID, "expert_group_count": 4, "expert_group_used_count": 2},
        parts={**SHARED, **LATENT}, absorbed=True)
    yield "minicpm3", lambda: Latent("minicpm3", "minicpm3", tf.MiniCPM3ForCausalLM,
        tf.MiniCPM3Config(**b(**{**latent, "v_head_dim": 16}, q_lora_rank=24, scale_emb=12, scale_depth=1.4, dim_model_base=32,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4})),
        {**RMS, **latent_meta, "attention.q_lora_rank": 24, "attention.key_length": 24, "logit_scale": 2.0}, parts=LATENT, absorbed=False)
    yield "dots1", lambda: Biased("dots1", "dots1", tf.Dots1ForCausalLM,
        tf.Dots1Config(**b(head_dim=16, num_key_value_heads=HEADS, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1, norm_topk_prob=True,
                           routed_scaling_factor=2.0, sliding_window=None, **moe)),
        {**RMS, **MOE_META, "expert_shared_count": 1, "leading_dense_block_count": 1, "expert_weights_scale": 2.0,
         "expert_weights_norm": True, "expert_gating_func": SIGMOID}, parts=SHARED)
    yield "minimax-m2", lambda: Biased("minimax-m2", "minimax-m2", tf.MiniMaxM2ForCausalLM,
        tf.MiniMaxM2Config(**b(head_dim=32, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2, **half())),
        {**RMS, **HD, "ff": 32, **MOE_META, "rope.dimension_count": 16, "expert_gating_func": SIGMOID})
    glm_moe = dict(head_dim=16, n_routed_experts=8, n_shared_experts=1, first_k_dense_replace=1, norm_topk_prob=True,
                   use_qk_norm=True, routed_scaling_factor=2.0, **moe, **half())
    glm_meta = {**RMS, **experts8, **hd16, "rope.dimension_count": 8, "expert_shared_count": 1, "leading_dense_block_count": 1,
                "expert_weights_scale": 2.0, "expert_weights_norm": True}
    yield "glm4moe", lambda: Biased("glm4moe", "glm4moe", tf.Glm4MoeForCausalLM, tf.Glm4MoeConfig(**b(**glm_moe, attention_bias=True)),
        {**glm_meta}, parts={**SHARED, **OWN_NORM})
    yield "bailingmoe2", lambda: BiasedFused("bailingmoe2", "bailingmoe2", tf.Glm4MoeForCausalLM,
        tf.Glm4MoeConfig(**b(**glm_moe, n_group=4, topk_group=2)),
        {**glm_meta, "expert_gating_func": SIGMOID, "expert_group_count": 4, "expert_group_used_count": 2}, parts=SHARED, seed=UNTIED)
    yield "ernie4_5", lambda: Fixture("ernie4_5", "ernie4_5", tf.Ernie4_5ForCausalLM,
        tf.Ernie4_5Config(**b(head_dim=16, use_bias=False)), {**RMS, **hd16})
    yield "ernie4_5-moe", lambda: Biased("ernie4_5-moe", "ernie4_5-moe", tf.Ernie4_5_MoeForCausalLM,
        tf.Ernie4_5_MoeConfig(**b(moe_intermediate_size=32, moe_k=2, moe_num_experts=4, moe_num_shared_experts=2, moe_layer_start_index=1,
                                  use_bias=False, num_hidden_layers=3)),
        {**RMS, **MOE_META, "expert_shared_count": 2, "expert_shared_feed_forward_length": 64, "leading_dense_block_count": 1,
         "interleave_moe_layer_step": 1}, parts=SHARED)
    yield "exaone", lambda: Fixture("exaone", "exaone", tf.LlamaForCausalLM, tf.LlamaConfig(**b()), dict(RMS))
    swa = ["sliding_attention"] * 3 + ["full_attention"]
    yield "exaone4", lambda: Fixture("exaone4", "exaone4", tf.Exaone4ForCausalLM,
        tf.Exaone4Config(**b(head_dim=16, sliding_window=24, num_hidden_layers=4, layer_types=swa, sliding_window_pattern="LLLG")),
        {**RMS, "attention.sliding_window": 24}, parts=POST)
    yield "exaone-moe", lambda: Biased("exaone-moe", "exaone-moe", tf.ExaoneMoeForCausalLM,
        tf.ExaoneMoeConfig(**b(head_dim=16, sliding_window=24, num_hidden_layers=4, layer_types=swa, sliding_window_pattern="LLLG",
            first_k_dense_replace=1, mlp_layer_types=["dense"] + ["sparse"] * 3, num_experts=4, num_shared_experts=1,
            routed_scaling_factor=2.5, **moe)),
        {**RMS, **MOE_META, "attention.sliding_window": 24, "expert_shared_count": 1, "leading_dense_block_count": 1,
         "expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": SIGMOID}, parts=SHARED)
    yield "olmo", lambda: Fixture("olmo", "olmo", tf.OlmoForCausalLM, tf.OlmoConfig(**{**BASE, "clip_qkv": None}), dict(LN), rope_norm=True)
    yield "olmoe", lambda: Fixture("olmoe", "olmoe", tf.OlmoeForCausalLM,
        tf.OlmoeConfig(**b(num_key_value_heads=HEADS, intermediate_size=32, num_experts=4, num_experts_per_tok=2, norm_topk_prob=False)),
        {**RMS, "ff": 32, "expert_count": 4, "expert_used_count": 2})
    yield "nemotron", lambda: Nemotron("nemotron", "nemotron", tf.NemotronForCausalLM,
        tf.NemotronConfig(**{**BASE, "norm_eps": 1e-5, "head_dim": 16, **half()}), {**LN, "rope.dimension_count": 8})
    yield "minicpm", lambda: Fixture("minicpm", "minicpm", tf.GraniteForCausalLM,
        tf.GraniteConfig(**b(embedding_multiplier=12.0, logits_scaling=2.0, residual_multiplier=0.5, attention_multiplier=0.25)),
        {**RMS, "embedding_scale": 12.0, "logit_scale": 2.0, "residual_scale": 0.5}, rope_norm=True)
    yield "cohere2", lambda: Fixture("cohere2", "cohere2", tf.Cohere2ForCausalLM,
        tf.Cohere2Config(**ln(tie_word_embeddings=True, logit_scale=0.5, head_dim=16, sliding_window=24, num_hidden_layers=4,
                              layer_types=swa)), {**LN, "logit_scale": 0.5, "attention.sliding_window": 24})
    ff4 = {f"feed_forward.shared_expert.{p}_proj": f"ffn_{p}_shexp" for p in ("gate", "up", "down")}
    ff4 |= {f"feed_forward.{p}_proj": f"ffn_{p}" for p in ("gate", "up", "down")}
    yield "llama4", lambda: Llama4("llama4", "llama4", tf.Llama4ForCausalLM,
        tf.Llama4TextConfig(**b(head_dim=16, num_hidden_layers=4, intermediate_size=32, intermediate_size_mlp=FF, num_local_experts=4,
            num_experts_per_tok=2, interleave_moe_layer_step=2, no_rope_layers=[1, 1, 1, 0], attention_chunk_size=8192,
            attn_temperature_tuning=True, **theta(1e4))),
        {**RMS, **MOE_META, "interleave_moe_layer_step": 2}, parts={**ff4, "feed_forward.router": "ffn_gate_inp"})
    yield "hunyuan-dense", lambda: Fixture("hunyuan-dense", "hunyuan-dense", tf.HunYuanDenseV1ForCausalLM,
        tf.HunYuanDenseV1Config(**b(head_dim=16, **theta(1e4))), dict(RMS),
        parts={"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"})
    yield "hunyuan-moe", lambda: Fixture("hunyuan-moe", "hunyuan-moe", tf.HunYuanMoEV1ForCausalLM,
        tf.HunYuanMoEV1Config(**b(head_dim=16, intermediate_size=32, num_experts=4, moe_topk=2, **theta(1e4))), {**RMS, "ff": 32, **MOE_META},
        parts={"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm", "mlp.gate.wg": "ffn_gate_inp",
               **{f"mlp.shared_mlp.{p}_proj": f"ffn_{p}_shexp" for p in ("gate", "up", "down")}})
    yield "seed_oss", lambda: Fixture("seed_oss", "seed_oss", tf.SeedOssForCausalLM,
        tf.SeedOssConfig(**b(head_dim=32, attention_bias=True, attention_out_bias=False, attention_dropout=0.0, residual_dropout=0.0)),
        {**RMS, **HD}, parts=OWN_NORM)
    yield "apertus", lambda: Apertus("apertus", "apertus", tf.ApertusForCausalLM, tf.ApertusConfig(**b(**theta(1e4))), dict(RMS),
        parts={"attention_layernorm": "attn_norm", "feedforward_layernorm": "ffn_norm"})
    yield "arcee", lambda: Fixture("arcee", "arcee", tf.ArceeForCausalLM, tf.ArceeConfig(**b(**theta(1e4))), dict(RMS), rope_norm=True)
    yield "starcoder", lambda: Fixture("starcoder", "starcoder", tf.GPTBigCodeForCausalLM,
        tf.GPTBigCodeConfig(vocab_size=VOCAB, n_embd=HIDDEN, n_head=HEADS, n_layer=LAYERS, n_positions=CONTEXT, n_inner=FF,
                            multi_query=True, attn_implementation="eager"), {**LN, "kv": 1})
    for name, arch in (("internlm2", "internlm2"), ("xverse", "xverse"), ("baichuan", "baichuan")):
        yield name, lambda name=name, arch=arch: Fixture(name, arch, tf.LlamaForCausalLM, tf.LlamaConfig(**b()), dict(RMS), rope_norm=True)
    yield "qwen", lambda: Fused("qwen", "qwen", tf.Qwen2ForCausalLM, tf.Qwen2Config(**b(num_key_value_heads=HEADS)), {**RMS, "ff": 2 * FF})
    yield "orion", lambda: Fixture("orion", "orion", tf.StableLmForCausalLM,
        tf.StableLmConfig(**ln(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0})), dict(LN))
    yield "codeshell", lambda: Fused("codeshell", "codeshell", tf.Starcoder2ForCausalLM,
        tf.Starcoder2Config(**{**BASE, "use_bias": True, "norm_epsilon": 1e-5, "sliding_window": None}), dict(LN))
    yield "mistral3", lambda: Fixture("mistral3", "mistral3", tf.Ministral3ForCausalLM,
        tf.Ministral3Config(**b(head_dim=32, sliding_window=None,
            rope_parameters={**yarn, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0, "llama_4_scaling_beta": 0.1})),
        {**RMS, **HD, **yarn_meta, "rope.dimension_count": 32, "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.1},
        rope_norm=True)
    yield "chatglm", lambda: Fixture("chatglm", "chatglm", tf.GlmForCausalLM, tf.GlmConfig(**b(head_dim=16, attention_bias=True, **half())),
        {**RMS, "rope.dimension_count": 8})
    sections = dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]})
    for arch, text_model, config, more, meta in (
        ("qwen2vl", Qwen2VLTextModel, tf.Qwen2VLTextConfig, {}, {}),
        ("qwen3vl", Qwen3VLTextModel, tf.Qwen3VLTextConfig, {"head_dim": 16}, hd16),
        ("qwen3vlmoe", Qwen3VLMoeTextModel, tf.Qwen3VLMoeTextConfig,
         {"head_dim": 16, "num_experts": 4, "norm_topk_prob": True, **moe}, {**hd16, **MOE_META}),
    ):
        yield arch, lambda arch=arch, text_model=text_model, config=config, more=more, meta=meta: Fixture(
            arch, arch, lambda c: TextOnly(text_model, c), config(**b(**sections, **more)),
            {**RMS, **meta, "rope.dimension_sections": [4, 2, 2, 0]})
