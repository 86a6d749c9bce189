"""Families of 2026 for make_parity_fixtures.py. Their files are written by llama.cpp's converter, so that names, layouts and
metadata are those of published files. Needs a source tree of llama.cpp (2026-10 or later): PYTHONPATH=TREE:TREE/gguf-py."""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3MLP

from make_parity_fixtures import (CONTEXT, FF, HD, HEADS, HIDDEN, KV, OUT, PRE_POST, RMS, VOCAB, Fixture, permute,
                                  write_reference)
from parity_families import Fused

BASE = dict(vocab_size=VOCAB, hidden_size=HIDDEN, num_attention_heads=HEADS, num_key_value_heads=KV, intermediate_size=FF,
            max_position_embeddings=CONTEXT, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            rms_norm_eps=1e-5, attn_implementation="eager")
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def fill(model, seed):
    """Random weights, exact in half precision, large enough that logits differ; what begins as ones or zeros stays near them."""
    gen = torch.Generator().manual_seed(seed)
    floats = [(n, b) for n, b in model.named_buffers() if b.is_floating_point() and "inv_freq" not in n and "embed_scale" not in n]
    persistent = set(model.state_dict())
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *((n, b) for n, b in floats if n in persistent)]:
            noise = torch.randn(p.shape, generator=gen)
            first = p.flatten()[0].item() if p.numel() else 0.0
            if p.dim() < 2 and first in (0.0, 1.0) and bool((p == first).all()):
                p.copy_(first + noise * (0.15 if first else 0.2))
            elif p.dim() < 2:
                p.copy_(noise * 0.2)
            else:
                p.copy_(noise * (1.2 / p.shape[-1] ** 0.5))
            p.copy_(p.half().float())


class Converted:
    """A tiny random model as the converter writes it, and what transformers computes with it."""

    def __init__(self, name, model, config, arch=None, tweak=None, seed=7, fused=False, hub=None, nested=None, extra=None):
        self.name, self.arch, self.fused, self.nested = name, arch or model.__name__, fused, nested
        # What configurations on the hub call otherwise, and keys beside those of the converter.
        self.hub, self.extra = hub or {}, extra or {}
        torch.manual_seed(1)
        self.model = model(config).float().eval()
        fill(self.model, seed)
        if tweak:
            with torch.no_grad():
                for key, p in self.model.state_dict().items():
                    tweak(key, p)

    def published(self):
        """The configuration as the hub has it; what is None there is absent."""
        return {key: value for key, value in {**self.model.config.to_dict(), **self.hub}.items()
                if value is not None or key not in self.hub}

    def write(self):
        import conversion  # of llama.cpp
        import gguf

        base = conversion.get_model_class(self.arch)
        base = getattr(base, self.nested) if self.nested else base

        class Plain(base):
            model_arch = base.model_arch

            def set_vocab(own):
                for key, value in self.extra.items():
                    add = own.gguf_writer.add_float32 if isinstance(value, float) else own.gguf_writer.add_uint32
                    add(f"{own.gguf_writer.arch}.{key}", value)
                if f"{own.gguf_writer.arch}.vocab_size" not in own.gguf_writer.kv_data[0]:
                    own.gguf_writer.add_vocab_size(VOCAB)

        self.model.config.architectures = [self.arch]
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            # Some converters count the words of the vocabulary.
            words = {"model": {"vocab": {f"t{i}": i for i in range(VOCAB)}}, "added_tokens": []}
            (Path(folder) / "tokenizer.json").write_text(json.dumps(words))
            Plain.no_mtp = True
            Plain(Path(folder), gguf.LlamaFileType.MOSTLY_F16, OUT / f"{self.name}.gguf", eager=True, model_name=self.name,
                  fuse_gate_up_exps=self.fused,
                  hparams=self.published()).write()
        write_reference(self.name, self.model)


def small_scores(key, p):
    """Where nothing divides scores, half floats in the KV cache would show."""
    if "q_norm" in key:
        p.copy_((p * 0.3).half().float())


def quiet(key, p):
    """Parts that add little, so that rounding in the KV cache does not add up."""
    if key.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
        p.copy_((p * 0.5).half().float())
    elif key.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
        p.sub_(0.5)


class Maincoder(Fixture):
    """Norms behind the rotary embedding are in its order too."""

    def layer(self, blk, part, suffix, t):
        for name, value in super().layer(blk, part, suffix, t):
            yield name, permute(value, 1) if "_norm" in name and "attn_q" in name or "attn_k_norm" in name else value


class Uneven(tf.Qwen3ForCausalLM):
    """Layers with heads and widths of their own."""

    def __init__(self, config):
        super().__init__(config)
        for index, (heads, kv, width) in enumerate(((2, 1, 64), (4, 2, 96), (6, 3, 128))):
            own = copy.deepcopy(config)
            own.num_attention_heads, own.num_key_value_heads, own.intermediate_size = heads, kv, width
            self.model.layers[index].self_attn = Qwen3Attention(own, index)
            self.model.layers[index].mlp = Qwen3MLP(own)


class OpenElm(Fused):
    def write_head_counts(self, w, key, kv):
        self.arrays = {key("attention.head_count"): [2, 4, 6], key("attention.head_count_kv"): [1, 2, 3],
                       key("feed_forward_length"): [64, 96, 128]}


class Picked(torch.nn.Module):
    """Two of four gated experts, whose weights sum to one."""

    def __init__(self, activate, score):
        super().__init__()
        self.activate, self.score = activate, score
        self.router = torch.nn.Linear(HIDDEN, 4, bias=False)
        self.gate, self.up, self.down = (torch.nn.Parameter(torch.ones(4, *shape)) for shape in ((32, HIDDEN), (32, HIDDEN), (HIDDEN, 32)))

    def forward(self, x, routed=None):
        weights, picked = self.score(self.router(x if routed is None else routed)).topk(2)
        weights = weights / weights.sum(-1, keepdim=True)
        each = lambda w: torch.einsum("efh,bth->btef", w, x)
        every = torch.einsum("ehf,btef->bteh", self.down, self.activate(each(self.gate), each(self.up)))
        return (every.gather(2, picked[..., None].expand(-1, -1, -1, HIDDEN)) * weights[..., None]).sum(2)


def local_and_global(base, is_local, experts, early):
    """A model of `base` with experts, a window of 24 and positions in some layers and neither in the others."""

    class Mixed(base):
        def __init__(self, config):
            super().__init__(config)
            for index, layer in enumerate(self.model.layers):
                layer.mlp = experts()
                layer.forward = lambda x, layer=layer, local=is_local[index], **more: self.layer(layer, local, x, more)

        @staticmethod
        def layer(layer, local, x, more):
            at = torch.arange(x.shape[1])
            back = at[:, None] - at[None, :]
            hidden = (back < 0) | (back >= (24 if local else x.shape[1]))
            more["attention_mask"] = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)[None, None]
            if not local:
                cos, sin = more["position_embeddings"]
                more["position_embeddings"] = (torch.ones_like(cos), torch.zeros_like(sin))
            y = x + layer.self_attn(hidden_states=layer.input_layernorm(x), **more)[0]
            return y + layer.mlp(layer.post_attention_layernorm(y), x if early else None)

    return Mixed


class Mixture(Fixture):
    def layer(self, blk, part, suffix, t):
        name = {"mlp.router": "ffn_gate_inp", **{f"mlp.{p}": f"ffn_{p}_exps" for p in ("gate", "up", "down")}}.get(part)
        if name:
            yield f"{blk}.{name}.weight", t
        else:
            yield from super().layer(blk, part, suffix, t)


class Sparse(tf.LlamaForCausalLM):
    """The second of four layers has no attention, the third nothing at all."""

    def __init__(self, config):
        super().__init__(config)
        second, third = self.model.layers[1:3]
        del second.self_attn, second.input_layernorm
        second.forward = lambda x, **_: x + second.mlp(second.post_attention_layernorm(x))
        del third.self_attn, third.input_layernorm, third.mlp, third.post_attention_layernorm
        third.forward = lambda x, **_: x


class Deci(Fixture):
    def write_head_counts(self, w, key, kv):
        self.arrays = {key("attention.head_count"): [4, 0, 0, 4], key("attention.head_count_kv"): [2, 0, 0, 2],
                       key("feed_forward_length"): [96, 96, 0, 96]}


class Plamo3(Fused):
    """Gemma 3 without its factor on embeddings, gates above the up projections."""

    def tensors(self):
        held = {}
        for name, t in super().tensors():
            if name == "token_embd.weight":
                t = t * np.float32(HIDDEN**0.5)
            if ".ffn_gate." in name or ".ffn_up." in name:
                held.setdefault(name.replace("ffn_gate", "ffn_up"), {})["gate" in name] = t
            else:
                yield name, t
        for name, parts in held.items():
            yield name, np.concatenate([parts[True], parts[False]])


def gemma4(name, model=tf.Gemma4ForCausalLM, tweak=small_scores, **more):
    ropes = {GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
             LOCAL: {"rope_type": "default", "rope_theta": 1e4}}
    return lambda: Converted(name, model, tf.Gemma4TextConfig(**{**BASE, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "head_dim": 16,
        "global_head_dim": 32, "sliding_window": 24, "final_logit_softcapping": 30.0, "rope_parameters": ropes,
        "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 0, **more}), tweak=tweak)


def fixtures():
    period = [LOCAL] * 2 + [GLOBAL]
    yield "gemma4", gemma4("gemma4", layer_types=period * 2, num_hidden_layers=6, attention_k_eq_v=True, num_global_key_value_heads=1)
    # The last three layers read keys and values of the second (local) and the third (global).
    yield "gemma4-e", gemma4("gemma4-e", layer_types=period * 2, num_hidden_layers=6, hidden_size_per_layer_input=16,
                             num_kv_shared_layers=3, use_double_wide_mlp=True, intermediate_size=48, num_key_value_heads=1)
    yield "gemma4-moe", gemma4("gemma4-moe", layer_types=period, num_hidden_layers=3, attention_k_eq_v=True, num_global_key_value_heads=1,
                               enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=32)

    b = lambda **more: {**BASE, **more}
    moe = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    rope = lambda base=1e4, **more: {"rope_type": "default", "rope_theta": base, **more}
    four = [LOCAL] * 3 + [GLOBAL]
    # A large epsilon: that of the post-norms is another.
    muse = dict(BASE, num_hidden_layers=4, head_dim=16, sliding_window=24, layer_types=four, rms_norm_eps=0.05, final_logit_softcapping=20.0,
                qk_scale_factor=0.7, output_multiplier=0.6, layer_rope_theta=[1e4, 1e4, 1e4, 0], rope_parameters=rope())
    eye = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, pos_emb_height=2, pos_emb_width=2)
    yield "muse-glimmer", lambda: Converted("muse-glimmer", tf.MuseGlimmerForConditionalGeneration,
        tf.MuseGlimmerConfig(text_config=muse, vision_config=eye, out_hidden_size=64, projector_hidden_size=16), tweak=quiet)
    yield "afmoe", lambda: Converted("afmoe", tf.AfmoeForCausalLM,
        tf.AfmoeConfig(**b(**moe, num_hidden_layers=4, num_dense_layers=1, head_dim=16, num_shared_experts=1, route_scale=1.7,
                           sliding_window=24, layer_types=four, mup_enabled=True, rope_parameters=rope())),
        hub={"route_norm": True, "score_func": "sigmoid"})
    laguna = dict(moe, num_hidden_layers=4, head_dim=16, shared_expert_intermediate_size=48, moe_routed_scaling_factor=1.7)
    yarn = dict(rope_type="yarn", rope_theta=5e5, factor=4.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0,
                attention_factor=1.2, partial_rotary_factor=0.5)
    yield "laguna", lambda: Converted("laguna", tf.LagunaForCausalLM,
        tf.LagunaConfig(**b(**laguna, sliding_window=24, layer_types=[GLOBAL] + [LOCAL] * 3, num_attention_heads_per_layer=[4, 6, 6, 6],
                            gating="per-head", rope_parameters={GLOBAL: yarn, LOCAL: rope(partial_rotary_factor=1.0)})))
    yield "laguna-m", lambda: Converted("laguna-m", tf.LagunaForCausalLM,
        tf.LagunaConfig(**b(**{**laguna, "num_hidden_layers": 2}, gating="per-element", rope_parameters={GLOBAL: rope(5e5)})),
        hub={"sliding_window": None, "rope_parameters": {GLOBAL: rope(5e5)}})
    yield "cohere2moe", lambda: Converted("cohere2moe", tf.Cohere2MoeForCausalLM,
        tf.Cohere2MoeConfig(**{**BASE, "rms_norm_eps": None, "layer_norm_eps": 1e-5, "intermediate_size": 24, "tie_word_embeddings": True},
            num_experts=4, num_experts_per_tok=2, num_hidden_layers=5, head_dim=16, logit_scale=0.5, sliding_window=24, num_shared_experts=2,
            shared_expert_combination_strategy="average", expert_selection_fn="sigmoid", prefix_dense_intermediate_size=FF,
            layer_types=[GLOBAL] + four, mlp_layer_types=["dense"] + ["sparse"] * 4))
    step = dict(b(num_hidden_layers=4, head_dim=16, num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                  share_expert_dim=48, sliding_window=24, layer_types=[GLOBAL] + [LOCAL] * 3, num_sliding_attention_heads=6,
                  mlp_layer_types=["dense"] + ["sparse"] * 3, moe_router_scaling_factor=1.7, swiglu_limits=[0.0, 0.0, 0.0, 0.4],
                  swiglu_limits_shared=[0.0, 0.0, 0.3, 0.5],
                  rope_parameters={GLOBAL: rope(1e6, partial_rotary_factor=0.5), LOCAL: rope(1e4, partial_rotary_factor=1.0)}))
    yield "step35", lambda: Converted("step35", tf.Step3p7ForConditionalGeneration, tf.Step3p7Config(text_config=step, vision_config={
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28, "patch_size": 14}),
        hub={"num_attention_groups": KV, "moe_num_experts": 4, "moe_top_k": 2, "moe_layers_enum": "1,2,3", "norm_expert_weight": True,
             "partial_rotary_factors": [0.5, 1.0, 1.0, 1.0], "rope_theta": [1e6, 1e4, 1e4, 1e4],
             "attention_other_setting": {"num_attention_heads": 6, "num_attention_groups": KV}}, seed=8)
    yield "mellum", lambda: Converted("mellum", tf.MellumForCausalLM,
        tf.MellumConfig(**b(**moe, num_hidden_layers=4, head_dim=16, sliding_window=24, layer_types=four,
            rope_parameters={GLOBAL: {k: v for k, v in yarn.items() if k != "partial_rotary_factor"}, LOCAL: rope()})))
    yield "hy_v3", lambda: Converted("hy_v3", tf.HYV3ForCausalLM,
        tf.HYV3Config(**b(**moe, num_hidden_layers=3, head_dim=16, num_shared_experts=1, router_scaling_factor=1.7, rope_parameters=rope())),
        hub={"route_norm": True})
    pattern = [GLOBAL, LOCAL, LOCAL, LOCAL, LOCAL, GLOBAL]
    yield "mimo2", lambda: Converted("mimo2", tf.MiMoV2FlashForCausalLM,
        tf.MiMoV2FlashConfig(**b(num_hidden_layers=6, head_dim=24, v_head_dim=16, n_routed_experts=4, num_experts_per_tok=2,
            moe_intermediate_size=24, intermediate_size=48, sliding_window=24, layer_types=pattern, num_key_value_heads=1,
            rope_parameters={GLOBAL: rope(5e6, partial_rotary_factor=0.334), LOCAL: rope(1e4, partial_rotary_factor=0.334)})),
        hub={"hybrid_layer_pattern": [int(kind == LOCAL) for kind in pattern], "swa_head_dim": 24, "swa_num_attention_heads": HEADS,
             "swa_v_head_dim": 16, "swa_num_key_value_heads": 2, "topk_method": "noaux_tc", "layernorm_epsilon": 1e-5,
             "rope_parameters": None, "rope_theta": 5e6, "swa_rope_theta": 1e4, "partial_rotary_factor": 0.334}, tweak=quiet)
    granite = dict(num_hidden_layers=4, sliding_window=24, embedding_multiplier=6.0, logits_scaling=2.0, residual_multiplier=0.5,
                   attention_multiplier=0.25, rope_parameters=rope(), layer_types=[GLOBAL] + [LOCAL] * 3,
                   layer_rope_theta=[0, 1e4, 1e4, 1e4])
    yield "granite_swa", lambda: Converted("granite_swa", tf.GraniteSWAForCausalLM, tf.GraniteSWAConfig(**b(**granite)),
        hub={"no_rope_layers": [0, 1, 1, 1]})
    yield "granite_swa-moe", lambda: Converted("granite_swa-moe", tf.GraniteMoeSWAForCausalLM,
        tf.GraniteMoeSWAConfig(**b(**granite, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=32)),
        hub={"no_rope_layers": [0, 1, 1, 1]})
    latent = dict(num_key_value_heads=HEADS, q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
                  n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32, num_hidden_layers=3,
                  routed_scaling_factor=1.7)
    # The index picks as many tokens as the test has, and more than the context.
    index = dict(index_topk=128, index_head_dim=16, index_n_heads=2, first_k_dense_replace=1, mlp_layer_types=["dense", "sparse", "sparse"])
    yield "deepseek32", lambda: Converted("deepseek32", tf.DeepseekV32ForCausalLM,
        tf.DeepseekV32Config(**b(**latent, **index, n_group=2, topk_group=1, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
            "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.7, "mscale_all_dim": 0.7})),
        hub={"scoring_func": "sigmoid"}, tweak=quiet)
    yield "glm-dsa", lambda: Converted("glm-dsa", tf.GlmMoeDsaForCausalLM,
        tf.GlmMoeDsaConfig(**b(**latent, **index, indexer_types=["full", "full", "shared"], rope_parameters=rope())),
        hub={"scoring_func": "sigmoid"}, tweak=quiet)
    yield "mistral4", lambda: Converted("mistral4", tf.Mistral4ForCausalLM,
        tf.Mistral4Config(**b(**latent, first_k_dense_replace=0, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
            "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1})), arch="Mistral3ForConditionalGeneration", nested="Mistral4Model", fused=True,
        # As files from Mistral's own format have them.
        extra={"attention.temperature_scale": 0.1, "attention.temperature_length": 64}, tweak=quiet, seed=8)
    yield "jais2", lambda: Converted("jais2", tf.Jais2ForCausalLM,
        tf.Jais2Config(**{**BASE, "rms_norm_eps": None}, num_hidden_layers=2, layer_norm_eps=1e-5, rope_parameters=rope()))
    late = {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"}
    yield "maincoder", lambda: Maincoder("maincoder", "maincoder", tf.HunYuanDenseV1ForCausalLM,
        tf.HunYuanDenseV1Config(**b(num_hidden_layers=2, head_dim=16, rope_parameters=rope())), {**RMS, "rope.dimension_count": 16}, parts=late,
        rope_norm=True)
    yield "pangu-embedded", lambda: Fixture("pangu-embedded", "pangu-embedded", tf.LlamaForCausalLM,
        tf.LlamaConfig(**b(num_hidden_layers=2, attention_bias=True)), {**RMS, "rope.dimension_count": 16})
    yield "openelm", lambda: OpenElm("openelm", "openelm", Uneven,
        tf.Qwen3Config(**b(num_hidden_layers=3, head_dim=16, tie_word_embeddings=True)),
        {**RMS, "attention.key_length": 16, "attention.value_length": 16})
    yield "plamo3", lambda: Plamo3("plamo3", "plamo3", tf.Gemma3ForCausalLM,
        tf.Gemma3TextConfig(**b(num_hidden_layers=3, head_dim=32, sliding_window=24, query_pre_attn_scalar=32, hidden_activation="silu",
            layer_types=[LOCAL, LOCAL, GLOBAL], rope_parameters={GLOBAL: rope(1e6), LOCAL: rope(1e4)})),
        {**RMS, **HD, "attention.sliding_window": 24, "attention.sliding_window_pattern": 3, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4},
        parts=PRE_POST, unit_norm=True)
    yield "deci", lambda: Deci("deci", "deci", Sparse, tf.LlamaConfig(**b(num_hidden_layers=4)),
        {**RMS, "attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 16}, rope_norm=True)
    experts = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32, "ff": 32, "attention.sliding_window": 24}
    thinking = local_and_global(tf.LlamaForCausalLM, [False, True, True, True],
                                lambda: Picked(lambda g, u: torch.relu(g) * u, torch.sigmoid), early=True)
    yield "smallthinker", lambda: Mixture("smallthinker", "smallthinker", thinking, tf.LlamaConfig(**b(num_hidden_layers=4)),
        {**RMS, **experts, "expert_gating_func": 2})
    clamped = lambda g, u: torch.nn.functional.silu(g.clamp(max=0.5)) * u.clamp(-0.5, 0.5)
    maple = local_and_global(tf.Qwen3ForCausalLM, [True, True, True, False],
                             lambda: Picked(clamped, lambda logits: torch.softmax(logits, -1)), early=False)
    yield "maple", lambda: Mixture("maple", "maple", maple, tf.Qwen3Config(**b(num_hidden_layers=4, head_dim=16)),
        {**RMS, **experts, "attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window_pattern": 4,
         "swiglu_clamp_exp": [0.5] * 4})
