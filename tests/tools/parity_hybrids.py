"""Families whose layers carry a state, for make_parity_fixtures.py; their files are written as those of parity_2026.py."""

import torch
import transformers as tf

from parity_2026 import BASE, Converted

LINEAR, FULL = "linear_attention", "full_attention"
DELTA = dict(linear_conv_kernel_dim=4, linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2,
             linear_num_value_heads=4, head_dim=32, num_hidden_layers=5, layer_types=[LINEAR] * 3 + [FULL, LINEAR])
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=48,
               norm_topk_prob=True, decoder_sparse_step=1)


def decays(key, p):
    """Decays that neither keep nor forget all, and steps of different sizes."""
    gen = torch.Generator().manual_seed(len(key))
    if key.endswith("A_log"):
        p.copy_((torch.rand(p.shape, generator=gen) * 2 - 1).half().float())
    elif key.endswith("dt_bias"):
        p.copy_((torch.rand(p.shape, generator=gen) * 2 - 1.5).half().float())
    elif key.endswith("conv1d.weight") or key.endswith("conv.conv.weight"):
        p.copy_((torch.randn(p.shape, generator=gen) * 0.5).half().float())


def rope(**more):
    return {"rope_type": "default", "rope_theta": 1e6, **more}


def hybrid(name, model, config, **more):
    return lambda: Converted(name, model, config, tweak=decays, **more)


def fixtures():
    partial = dict(rope_parameters=rope(partial_rotary_factor=0.25))
    yield "qwen3next", hybrid("qwen3next", tf.Qwen3NextForCausalLM, tf.Qwen3NextConfig(**{**BASE, **DELTA, **EXPERTS, **partial}))
    mrope = dict(rope_parameters=rope(partial_rotary_factor=0.25, mrope_section=[2, 1, 1], mrope_interleaved=True))
    yield "qwen35", hybrid("qwen35", tf.Qwen3_5ForCausalLM,
                           tf.Qwen3_5TextConfig(**{**BASE, **DELTA, **mrope, "tie_word_embeddings": True}))
    yield "qwen35moe", hybrid("qwen35moe", tf.Qwen3_5MoeForCausalLM, tf.Qwen3_5MoeTextConfig(**{**BASE, **DELTA, **EXPERTS, **mrope}))
    lfm = {**BASE, "norm_eps": 1e-5, "conv_L_cache": 3, "rope_parameters": rope()}
    yield "lfm2moe", hybrid("lfm2moe", tf.Lfm2MoeForCausalLM,
                            tf.Lfm2MoeConfig(**{**lfm, "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "conv"],
                                                "num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2,
                                                "moe_intermediate_size": 32, "use_expert_bias": True, "norm_topk_prob": True,
                                                "routed_scaling_factor": 1.0, "tie_word_embeddings": True}))
    mamba = dict(mamba_n_heads=4, mamba_d_head=32, mamba_d_state=16, mamba_n_groups=2, mamba_d_conv=4, mamba_expand=2,
                 mamba_chunk_size=16, layer_types=["mamba", "mamba", "attention", "mamba"], num_hidden_layers=4)
    scales = dict(embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.3, attention_multiplier=0.2)
    yield "granitehybrid", hybrid("granitehybrid", tf.GraniteMoeHybridForCausalLM,
                                  tf.GraniteMoeHybridConfig(**{**BASE, **mamba, **scales, "num_local_experts": 0, "shared_intermediate_size": 96,
                                                               "position_embedding_type": "nope"}), hub=dict(layer_types=mamba["layer_types"]))
    yield "granitehybrid-moe", hybrid("granitehybrid-moe", tf.GraniteMoeHybridForCausalLM,
                                      tf.GraniteMoeHybridConfig(**{**BASE, **mamba, **scales, "num_local_experts": 4, "num_experts_per_tok": 2,
                                                                   "intermediate_size": 32, "shared_intermediate_size": 48,
                                                                   "position_embedding_type": "nope"}), hub=dict(layer_types=mamba["layer_types"]))
    yield "mamba2", hybrid("mamba2", tf.Mamba2ForCausalLM,
                           tf.Mamba2Config(vocab_size=BASE["vocab_size"], hidden_size=64, num_heads=4, head_dim=32, state_size=16, n_groups=2,
                                           conv_kernel=4, expand=2, chunk_size=16, num_hidden_layers=3, layer_norm_epsilon=1e-5,
                                           tie_word_embeddings=False, use_conv_bias=True, rms_norm=True))
    nemotron = {**BASE, "head_dim": 16, "mamba_num_heads": 4, "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 2, "conv_kernel": 4,
                "expand": 2, "chunk_size": 16, "use_conv_bias": True, "num_hidden_layers": 4, "layer_norm_epsilon": 1e-5}
    yield "nemotron_h", hybrid("nemotron_h", tf.NemotronHForCausalLM,
                               tf.NemotronHConfig(**{**nemotron, "layers_block_type": ["mamba", "mlp", "attention", "mamba"]}),
                               hub=dict(hybrid_override_pattern="M-*M", num_experts_per_tok=None))
    for name, latent in (("nemotron_h_moe", None), ("nemotron_h_moe-latent", 32)):
        yield name, hybrid(name, tf.NemotronHForCausalLM, tf.NemotronHConfig(**{
            **nemotron, "layers_block_type": ["mamba", "moe", "attention", "moe"], "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 48, "norm_topk_prob": True,
            "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1, "moe_latent_size": latent}),
            hub=dict(hybrid_override_pattern="ME*E"))
    yield "falcon-h1", hybrid("falcon-h1", tf.FalconH1ForCausalLM, tf.FalconH1Config(**{
        **BASE, "num_hidden_layers": 2, "head_dim": 16, "mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 2,
        "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 16, "mamba_conv_bias": True, "mamba_proj_bias": False,
        "mamba_rms_norm": False, "mamba_norm_before_gate": True, "rope_parameters": rope(), "embedding_multiplier": 2.0,
        "lm_head_multiplier": 0.5, "mlp_multipliers": [0.7, 1.3], "ssm_multipliers": [0.5, 0.9, 1.1, 0.8, 1.2], "ssm_in_multiplier": 1.25,
        "ssm_out_multiplier": 0.6, "attention_in_multiplier": 0.9, "attention_out_multiplier": 1.1, "key_multiplier": 0.7}))
