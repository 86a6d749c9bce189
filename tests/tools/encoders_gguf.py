"""Encoders for make_hf_fixtures.py as GGUF files, as converters write them."""

import json

import gguf
import numpy as np
import torch
import transformers as tf

from make_hf_fixtures import FF, HEADS, HIDDEN, LAYERS, LENGTH, OUT, encoded, fill

VOCAB, CONTEXT = 100, 160


def write(arch, meta, tensors, mean):
    """A model, tokens, and what `mean` makes of them: (hidden)."""
    folder = OUT / arch
    folder.mkdir(exist_ok=True)
    w = gguf.GGUFWriter(None, arch)
    meta = {"block_count": LAYERS, "embedding_length": HIDDEN, "feed_forward_length": FF, "context_length": CONTEXT,
            "attention.head_count": HEADS, "vocab_size": VOCAB, "pooling_type": 1, "attention.causal": False, **meta}
    for key, value in meta.items():
        add = {bool: w.add_bool, int: w.add_uint32, float: w.add_float32}[type(value)]
        add(f"{arch}.{key}", value)
    for name, value in tensors.items():
        w.add_tensor(name, np.ascontiguousarray(value.astype(np.float16) if value.ndim > 1 else value))
    w.write_header_to_file(folder / "model.gguf")
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    tokens = torch.randint(3, VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        hidden = mean(tokens).numpy()
    (folder / "expected.json").write_text(json.dumps({"tokens": tokens[0].tolist(), "mean": encoded(hidden)}))
    print(arch)


def named(model, top, parts, layer):
    """Weights of a model under GGUF's names."""
    out = {}
    for name, value in model.named_parameters():
        base, _, kind = name.rpartition(".")
        value = value.detach().numpy()
        if base in top:
            out[f"{top[base]}.{kind}"] = value
        elif base.startswith(layer):
            index, _, part = base.removeprefix(layer).partition(".")
            out[f"blk.{index}.{parts[part]}.{kind}"] = value
        elif not base.startswith("pooler"):
            raise KeyError(name)
    return out


def nomic():
    """Query, key and value in one tensor."""
    torch.manual_seed(1)
    c = tf.NomicBertConfig(hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=FF, num_hidden_layers=LAYERS,
                           vocab_size=VOCAB, max_position_embeddings=CONTEXT, attn_implementation="eager")
    model = tf.NomicBertModel(c).eval()
    fill(model, False)
    top = {"embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm"}
    parts = {"self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "post_attention_layernorm": "attn_output_norm", "post_mlp_layernorm": "layer_output_norm"}
    tensors = named(model, top, parts, "layers.")
    for i in range(LAYERS):
        tensors[f"blk.{i}.attn_qkv.weight"] = np.concatenate([tensors.pop(f"blk.{i}.{x}.weight") for x in "qkv"])
    write("nomic-bert", {"attention.layer_norm_epsilon": 1e-12, "rope.freq_base": 1000.0}, tensors,
          lambda tokens: model(tokens).last_hidden_state[0].mean(0))


def modern():
    """Windows of 16 in all layers but the first of three; gates above the up projections."""
    torch.manual_seed(1)
    c = tf.ModernBertConfig(hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=FF, num_hidden_layers=4, vocab_size=VOCAB,
                            max_position_embeddings=CONTEXT, local_attention=16, global_attn_every_n_layers=3, attn_implementation="eager",
                            pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    model = tf.ModernBertModel(c).eval()
    fill(model, False)
    top = {"embeddings.tok_embeddings": "token_embd", "embeddings.norm": "token_embd_norm", "final_norm": "output_norm"}
    parts = {"attn_norm": "attn_norm", "attn.Wqkv": "attn_qkv", "attn.Wo": "attn_output", "mlp_norm": "ffn_norm", "mlp.Wi": "ffn_up",
             "mlp.Wo": "ffn_down"}
    write("modern-bert", {"block_count": 4, "attention.layer_norm_epsilon": 1e-5, "attention.sliding_window": 16,
                          "rope.freq_base": 160000.0, "rope.freq_base_swa": 10000.0},
          named(model, top, parts, "layers."), lambda tokens: model(tokens).last_hidden_state[0].mean(0))


def jina():
    """BERT with gates in its feed-forward parts and, in place of positions, biases that fall on both sides. transformers has no class
    of it, so this is one of ours from BERT's parts."""
    torch.manual_seed(1)
    c = tf.BertConfig(hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=FF, num_hidden_layers=LAYERS, vocab_size=VOCAB,
                      max_position_embeddings=CONTEXT, attn_implementation="eager")
    model = tf.BertModel(c, add_pooling_layer=False).eval()
    for layer in model.encoder.layer:
        layer.intermediate.gate = torch.nn.Linear(HIDDEN, FF, bias=False)
        layer.intermediate.dense = torch.nn.Linear(HIDDEN, FF, bias=False)
        layer.intermediate.forward = lambda x, of=layer.intermediate: torch.nn.functional.gelu(of.gate(x)) * of.dense(x)
    fill(model, False)
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.zero_()
    top = {"embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types",
           "embeddings.LayerNorm": "token_embd_norm", "embeddings.position_embeddings": "position_embd"}
    parts = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
             "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm", "intermediate.gate": "ffn_gate",
             "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}
    tensors = named(model, top, parts, "encoder.layer.")
    del tensors["position_embd.weight"]
    # For four heads: 2^-2, 2^-4, 2^-6, 2^-8.
    slopes = torch.tensor([2.0 ** -(2 * (head + 1)) for head in range(HEADS)])

    def mean(tokens):
        at = torch.arange(tokens.shape[1])
        bias = -slopes[:, None, None] * (at[:, None] - at[None, :]).abs()
        return model(tokens, attention_mask=bias[None]).last_hidden_state[0].mean(0)

    write("jina-bert-v2", {"attention.layer_norm_epsilon": 1e-12}, tensors, mean)
