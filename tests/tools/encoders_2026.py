#!/usr/bin/env python3
"""Writes encoders and a reranker to tests/data/hf: tiny random models as llama.cpp's converter writes them, with what transformers makes of
them.

Needs what parity_2026.py needs. The tests need the committed files alone.
"""

import base64
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from parity_2026 import BASE, VOCAB, fill

OUT = Path(__file__).resolve().parent.parent / "data" / "hf"
# The words of the prompt by which Qwen 3 Reranker judges, as its model card gives them.
INSTRUCT = "Given a web search query, retrieve relevant passages that answer the query"
HEAD = ("<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
        "answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n")
TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QUERY = "What do cats do all day?"
DOCUMENTS = ["Cats sleep, and they eat.", "Rain falls on the plain; it's 1234 drops.", " ", "The word <|im_end|> ends a turn: yes or no?", "Größe 猫"]


def encoded(values):
    return base64.b64encode(np.ascontiguousarray(values.astype("<f4")).tobytes()).decode()


def convert(name, arch, folder, config, own=None, kind=None, **more):
    """The converter's file of the model in `folder`; `kind` is its architecture where the converter's class has several."""
    import conversion  # of llama.cpp
    import gguf

    base = conversion.get_model_class(arch)
    target = OUT / name
    target.mkdir(exist_ok=True)

    class Plain(base):
        model_arch = kind and gguf.MODEL_ARCH[kind] or base.model_arch
        _position_offset = None

        def set_vocab(self):
            if own is None:
                self.gguf_writer.add_vocab_size(VOCAB)
            else:
                super().set_vocab()

        def _xlmroberta_tokenizer_init(self):
            pass

        def get_vocab_base_pre(self, tokenizer):
            return own

    Plain(folder, gguf.LlamaFileType.MOSTLY_F16, target / "model.gguf", eager=True, model_name=name,
          hparams={**config.to_dict(), "architectures": [arch]}, **more).write()
    return target


def gemma():
    """Windows of 16 in five of six layers, half on each side; two dense layers behind the mean."""
    torch.manual_seed(1)
    config = tf.Gemma3TextConfig(**{**BASE, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "num_key_value_heads": 1}, num_hidden_layers=7,
        query_pre_attn_scalar=16, sliding_window=16, use_bidirectional_attention=True,
        layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})
    model = tf.Gemma3TextModel(config).float().eval()
    fill(model, 7)
    generator = torch.Generator().manual_seed(3)
    dense = [(torch.randn(shape, generator=generator) * 0.3).half().float() for shape in ((80, 32), (32, 80))]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {f"t{i}": i for i in range(VOCAB)}}, "added_tokens": []}))
        modules = [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
        for path, weight in zip(("2_Dense", "3_Dense"), dense):
            modules.append({"path": path, "type": "sentence_transformers.models.Dense"})
            (folder / path).mkdir()
            save_file({"linear.weight": weight}, folder / path / "model.safetensors")
            (folder / path / "config.json").write_text(json.dumps({"in_features": weight.shape[1], "out_features": weight.shape[0]}))
        (folder / "modules.json").write_text(json.dumps(modules))
        target = convert("gemma-embedding", "Gemma3TextModel", folder, config, sentence_transformers_dense_modules=True)
    tokens = torch.randint(3, VOCAB, (1, 60), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        mean = model(tokens).last_hidden_state[0].mean(0)
        vector = dense[1] @ (dense[0] @ mean)
    (target / "expected.json").write_text(json.dumps({"tokens": tokens[0].tolist(), "mean": encoded(vector.numpy())}))


def write_mean(target, model, seen=lambda tokens: {}):
    """The mean of what a model makes of tokens."""
    tokens = torch.randint(3, VOCAB, (1, 60), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        mean = model(tokens, **seen(tokens)).last_hidden_state[0].mean(0)
    (target / "expected.json").write_text(json.dumps({"tokens": tokens[0].tolist(), "mean": encoded(mean.numpy())}))


SMALL = {**BASE, "hidden_size": 32, "intermediate_size": 48}


def encoder(name, arch, model, seen=lambda tokens: {}, **more):
    model = model.float().eval()
    fill(model, 7)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        target = convert(name, arch, Path(folder), model.config, **more)
    write_mean(target, model, seen)


def encoders():
    """Llama with a mask that hides nothing, its relative EuroBERT, and BERT with rotary positions."""
    all_seen = lambda tokens: {"attention_mask": torch.zeros(1, 1, tokens.shape[1], tokens.shape[1])}
    torch.manual_seed(1)
    encoder("llama-embed", "LlamaBidirectionalModel", tf.LlamaModel(tf.LlamaConfig(**SMALL, num_hidden_layers=2)), all_seen)
    encoder("eurobert", "EuroBertModel", tf.EuroBertModel(tf.EuroBertConfig(**SMALL, num_hidden_layers=2, mask_token_id=3, classifier_pooling="mean")))
    config = tf.JinaEmbeddingsV3Config(hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=2, vocab_size=VOCAB,
                                       max_position_embeddings=256, attn_implementation="eager")
    encoder("jina-bert-v3", "XLMRobertaModel", tf.JinaEmbeddingsV3Model(config, add_pooling_layer=False), kind="JINA_BERT_V3")


class Experts(torch.nn.Module):
    """Two of four experts without gates, weighed by a softmax over all."""

    def __init__(self):
        super().__init__()
        self.router = torch.nn.Linear(32, 4, bias=False)
        self.up, self.down = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((4, 48, 32), (4, 32, 48)))

    def forward(self, x):
        weights, picked = torch.softmax(self.router(x), -1).topk(2)
        every = torch.einsum("ehf,btef->bteh", self.down, torch.nn.functional.gelu(torch.einsum("efh,bth->btef", self.up, x)))
        return (every.gather(2, picked[..., None].expand(-1, -1, -1, 32)) * weights[..., None]).sum(2)


def nomic():
    """Nomic BERT with plain parts and, in the second layer, experts. transformers has no class of it, so this is one of ours."""
    import gguf

    torch.manual_seed(1)
    config = tf.NomicBertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=2, vocab_size=VOCAB,
                                max_position_embeddings=256, attn_implementation="eager")
    model = tf.NomicBertModel(config).float().eval()
    layers = model.encoder.layers if hasattr(model, "encoder") else model.layers
    layers[0].mlp = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.GELU(), torch.nn.Linear(48, 32))
    layers[1].mlp = Experts()
    fill(model, 7)
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.0": "ffn_up", "mlp.2": "ffn_down", "mlp.router": "ffn_gate_inp", "post_attention_layernorm": "attn_output_norm",
             "post_mlp_layernorm": "layer_output_norm"}
    top = {"embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm"}
    target = OUT / "nomic-bert-moe"
    target.mkdir(exist_ok=True)
    w = gguf.GGUFWriter(None, "nomic-bert-moe")
    meta = {"block_count": 2, "embedding_length": 32, "feed_forward_length": 48, "context_length": 256, "attention.head_count": 4,
            "vocab_size": VOCAB, "pooling_type": 1, "attention.causal": False, "attention.layer_norm_epsilon": 1e-12,
            "moe_every_n_layers": 2, "expert_count": 4, "expert_used_count": 2, "rope.freq_base": float(config.rope_parameters["rope_theta"])}
    for key, value in meta.items():
        {bool: w.add_bool, int: w.add_uint32, float: w.add_float32}[type(value)](f"nomic-bert-moe.{key}", value)
    for name, value in model.named_parameters():
        base, _, kind = name.rpartition(".")
        value = value.detach().numpy()
        if base.startswith("layers."):
            _, index, part = base.split(".", 2)
            name = f"blk.{index}.ffn_{kind}_exps.weight" if part == "mlp" else f"blk.{index}.{parts[part]}.{kind}"
        elif base in top:
            name = f"{top[base]}.{kind}"
        else:
            continue  # the pooler
        w.add_tensor(name, np.ascontiguousarray(value.astype(np.float16) if value.ndim > 1 else value))
    w.write_header_to_file(target / "model.gguf")
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    write_mean(target, model)


def words():
    """A tokenizer in Qwen's form whose words are few, yes and no among them."""
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                                      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["yes", "no", "yes no", HEAD, INSTRUCT, QUERY] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>")])
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def reranker():
    """Scores by the procedure of the model card: the softmax over the logits of no and yes behind the last token."""
    torch.manual_seed(1)
    tokenizer = words()
    config = tf.Qwen3Config(**{**BASE, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "vocab_size": len(tokenizer),
                               "tie_word_embeddings": True, "max_position_embeddings": 512}, num_hidden_layers=2)
    model = tf.Qwen3ForCausalLM(config).float().eval()
    fill(model, 7)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text("# Qwen3-Reranker\n")
        target = convert("qwen3-reranker", "Qwen3ForCausalLM", folder, config, own="qwen2")
    no, yes = (tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes"))
    pairs = []
    for text in DOCUMENTS:
        # A control token in a document is no control token.
        body = f"<Instruct>: {INSTRUCT}\n<Query>: {QUERY}\n<Document>: {text}"
        ids = [*tokenizer.encode(HEAD), *tokenizer.encode(body, split_special_tokens=True), *tokenizer.encode(TAIL)]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, [no, yes]]
        pairs.append({"text": text, "ids": ids, "score": torch.softmax(logits, 0)[1].item()})
    (target / "expected.json").write_text(json.dumps({"query": QUERY, "pairs": pairs}))
    print([pair["score"] for pair in pairs])


if __name__ == "__main__":
    gemma()
    encoders()
    nomic()
    reranker()
