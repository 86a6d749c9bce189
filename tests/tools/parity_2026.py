"""Families of 2026 for make_parity_fixtures.py. Their files are written by llama.cpp's converter, so that names, layouts and
metadata are those of published files. Needs a source tree of llama.cpp (2026-10 or later): PYTHONPATH=TREE:TREE/gguf-py."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers as tf

from make_parity_fixtures import OUT, finish

VOCAB, HIDDEN, HEADS, KV, FF, CONTEXT, LENGTH = 160, 64, 4, 2, 96, 256, 112
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

    def __init__(self, name, model, config, arch=None, tweak=None, seed=7, fused=False, vocab=True, edit=None):
        self.name, self.arch, self.tweak, self.fused, self.vocab = name, arch or model.__name__, tweak, fused, vocab
        self.edit = edit  # of the saved configuration, towards what published ones say
        torch.manual_seed(1)
        self.model = model(config).float().eval()
        fill(self.model, seed)
        if tweak:
            with torch.no_grad():
                for key, p in self.model.state_dict().items():
                    tweak(key, p)

    def write(self):
        import conversion  # of llama.cpp
        import gguf

        base = conversion.get_model_class(self.arch)

        class Plain(base):
            model_arch = base.model_arch
            no_mtp = True

            def set_vocab(self):
                if f"{self.gguf_writer.arch}.vocab_size" not in self.gguf_writer.kv_data[0]:
                    self.gguf_writer.add_vocab_size(VOCAB)

        self.model.config.architectures = [self.arch]
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            if self.edit:
                config = Path(folder) / "config.json"
                config.write_text(json.dumps(self.edit(json.loads(config.read_text()))))
            # Some converters count the words of the vocabulary.
            words = {"model": {"vocab": {f"t{i}": i for i in range(VOCAB)}}, "added_tokens": []}
            (Path(folder) / "tokenizer.json").write_text(json.dumps(words))
            Plain(Path(folder), gguf.LlamaFileType.MOSTLY_F16, OUT / f"{self.name}.gguf", eager=True, model_name=self.name,
                  fuse_gate_up_exps=self.fused).write()
        tokens = torch.randint(3, VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(11))
        with torch.no_grad():
            logits = self.model(tokens).logits[0]
        spread = logits.std().item()
        assert 0.1 < spread < 100, spread
        r = gguf.GGUFWriter(None, "reference")
        r.add_tensor("tokens", tokens[0].numpy().astype(np.int32))
        r.add_tensor("logits", logits.numpy().astype(np.float32))
        finish(r, OUT / f"{self.name}.ref.gguf")
        print(f"{self.name}: logits spread {spread:.2f}")


def small_scores(key, p):
    """Where nothing divides scores, half floats in the KV cache would show."""
    if "q_norm" in key:
        p.copy_((p * 0.3).half().float())


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
