#!/usr/bin/env python3
"""Writes tests/data/hf: tiny random models as directories of transformers, with what transformers says.

Each directory holds config.json, weights in safetensors (f16, exact; some in bf16, some in two files),
tokenizer.json of a tiny tokenizer made here, and expected.json: for decoders `tokens` and `logits`
(f32, little-endian, base64), for encoders texts with ids and embeddings, or pairs with ids, types and
scores, all computed by transformers in f32.
With the directory of all-MiniLM-L6-v2 as argument, it writes minilm.json alone.
Needs: pip install torch transformers tokenizers safetensors sentencepiece sentence-transformers gguf. The tests need the
committed files alone.
"""

import base64
import json
import shutil
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as tf
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

OUT = Path(__file__).resolve().parent.parent / "data" / "hf"
HIDDEN, HEADS, KV, FF, LAYERS, CONTEXT, LENGTH = 32, 4, 2, 48, 2, 256, 48

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "What do cats do all day? They sleep, they eat, and they look out of the window.",
    "Rain falls on the plain; it's 1234 drops, or 56.78 litres, we're told.",
    "Übermut tut selten gut, sagt man. Größe ist nicht alles: schöne Straßen, naïve Cafés.",
    "Le chat dort sur le tapis. L'été, il fait chaud, n'est-ce pas ?",
    "def main():\n    return [x ** 2 for x in range(10)]\n\n\tprint('done')\n",
    "Привет, мир! Кошка спит. 猫は寝ています。 漢字 かな カナ 한국어",
    "UPPER lower MiXeD CamelCase snake_case kebab-case they'll I'M you'd",
] * 4

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(pattern, specials, normalizer=None, digits=False, ignore_merges=False, first=None):
    """BPE over bytes, cut by `pattern` first."""
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        t.normalizer = normalizer
    if digits:
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif pattern:
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(CORPUS, trainer)
    if first:
        t.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, t.token_to_id(first))])
    return t


def sentencepiece_bpe(specials, prepend):
    """BPE over characters with spaces as U+2581 and bytes for what is unknown."""
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    space = normalizers.Replace(" ", "\u2581")
    normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space]) if prepend else space
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Split(Regex("\u2581[^\u2581]*|[^\u2581]+"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=specials + byte_tokens, show_progress=False)
    t.train_from_iterator(CORPUS, trainer)
    data = json.loads(t.to_str())
    # As converted SentencePiece models are: no cut before merging, and bytes that are no added tokens.
    data["pre_tokenizer"] = None
    data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] not in byte_tokens]
    t = Tokenizer.from_str(json.dumps(data))
    bos = specials[1]
    t.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, t.token_to_id(bos))])
    return t


def word_piece(lower):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    t.normalizer = normalizers.BertNormalizer(lowercase=lower)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(s, t.token_to_id(s)) for s in ("[CLS]", "[SEP]")])
    return t


def unigram():
    """As XLM-RoBERTa's, with a small character map."""
    import sentencepiece as spm
    from sentencepiece import sentencepiece_model_pb2 as pb
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "text.txt").write_text("\n".join(line.replace("\n", " ") for line in CORPUS))
        rules = {"\u00a0": " ", "\t": " ", "\n": " ", "\u2003": " ", "\uff21": "A", "\ufb01": "fi", "\u2026": "..."}
        line = lambda s: " ".join(f"{ord(c):X}" for c in s)
        (folder / "rules.tsv").write_text("".join(f"{line(a)}\t{line(b)}\n" for a, b in rules.items()))
        spm.SentencePieceTrainer.train(
            input=str(folder / "text.txt"), model_prefix=str(folder / "m"), vocab_size=220, model_type="unigram",
            normalization_rule_tsv=str(folder / "rules.tsv"), hard_vocab_limit=False, character_coverage=1.0,
            minloglevel=2)
        proto = pb.ModelProto()
        proto.ParseFromString((folder / "m.model").read_bytes())
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(p.piece, p.score) for p in proto.pieces[3:]]
    vocab += [("<mask>", 0.0)]
    t = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    t.normalizer = normalizers.Sequence([
        normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")])
    t.decoder = decoders.Metaspace()
    t.add_special_tokens([AddedToken(s, normalized=False) for s in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)])
    return t


def fill(model, unit_norm):
    """Random weights, exact in f16 and bf16, large enough that results differ."""
    gen = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if p.dim() >= 2:
                p.copy_(noise * (1.2 / p.shape[-1] ** 0.5))
            elif "norm" in name.lower():
                p.copy_(noise * 0.1 + (0.0 if unit_norm or name.endswith("bias") else 1.0))
            else:
                p.copy_(noise * 0.2)
            p.copy_(p.bfloat16().float())


def encoded(array):
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()


def save(name, model, tokenizer, extra, dtype, shard):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = model.to(dtype)
    model.save_pretrained(folder, max_shard_size=shard or "5GB")
    # Untouched by transformers, which writes more than a tokenizer.json needs.
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    for file, content in extra.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return folder


def decoder(name, model_class, config, tokenizer, *, config_of_tokenizer, unit_norm=False, dtype=torch.float16,
            shard=None, extra=None):
    torch.manual_seed(1)
    model = model_class(config).float().eval()
    fill(model, unit_norm)
    tokens = torch.randint(3, config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        logits = model(tokens).logits[0].numpy()
    assert 0.1 < logits.std() < 100, logits.std()
    model.generation_config.eos_token_id = extra.pop("eos") if extra and "eos" in extra else None
    folder = save(name, model, tokenizer, {"tokenizer_config.json": config_of_tokenizer, **(extra or {})}, dtype, shard)
    expected = {"tokens": tokens[0].tolist(), "logits": encoded(logits)}
    (folder / "expected.json").write_text(json.dumps(expected))
    print(f"{name}: spread {logits.std():.2f}")


TEXTS = ["What do cats do all day?", "Rain falls.", "Größe   ist nicht alles: CamelCase 1234 猫は",
         "they sleep, they eat, and they look out of the window " * 3]


def embedder(name, model, tokenizer, pooling, extra):
    fill(model, False)
    texts = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        vector = {"mean": hidden.mean(0), "cls": hidden[0]}[pooling]
        texts.append({"text": text, "ids": ids, "embedding": encoded((vector / vector.norm()).numpy())})
    folder = save(name, model, tokenizer, extra, torch.float16, None)
    (folder / "expected.json").write_text(json.dumps({"texts": texts}))
    print(name)


def ranker(name, model, tokenizer, with_types):
    fill(model, False)
    query, pairs = TEXTS[0], []
    for text in TEXTS[1:] + ["The lazy dog sleeps on.", "cats"]:
        pair = tokenizer.encode(query, text)
        inputs = {"input_ids": torch.tensor([pair.ids])}
        if with_types:
            inputs["token_type_ids"] = torch.tensor([pair.type_ids])
        with torch.no_grad():
            score = model(**inputs).logits
        assert score.shape == (1, 1)
        pairs.append({"text": text, "ids": pair.ids, "types": pair.type_ids, "score": score.item()})
    scores = [p["score"] for p in pairs]
    assert max(scores) - min(scores) > 0.1, scores
    folder = save(name, model, tokenizer, {}, torch.float16, None)
    (folder / "expected.json").write_text(json.dumps({"query": query, "pairs": pairs}))
    print(name, [round(s, 3) for s in scores])


def decoders_():
    base = dict(hidden_size=HIDDEN, num_attention_heads=HEADS, num_key_value_heads=KV, intermediate_size=FF,
                num_hidden_layers=LAYERS, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, attn_implementation="eager")
    ids = lambda t, **names: {f"{k}_token_id": t.token_to_id(v) for k, v in names.items()}
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"

    t = byte_level(LLAMA3, ["<|begin|>", "<|end|>", "<|eot|>"], ignore_merges=True, first="<|begin|>")
    c = tf.LlamaConfig(**base, vocab_size=t.get_vocab_size() + 4, tie_word_embeddings=False, **ids(t, bos="<|begin|>", eos="<|end|>"),
                       rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                                        "high_freq_factor": 4.0, "original_max_position_embeddings": 64})
    decoder("llama", tf.LlamaForCausalLM, c, t, config_of_tokenizer={"bos_token": "<|begin|>", "eos_token": "<|end|>"},
            dtype=torch.bfloat16, extra={"eos": [1, 2], "chat_template.jinja": template})

    t = sentencepiece_bpe(["<unk>", "<s>", "</s>"], prepend=True)
    c = tf.MistralConfig(**base, head_dim=16, vocab_size=t.get_vocab_size(), sliding_window=None, tie_word_embeddings=False,
                         **ids(t, bos="<s>", eos="</s>"))
    decoder("mistral", tf.MistralForCausalLM, c, t, shard="40KB",
            config_of_tokenizer={"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": [
                {"name": "default", "template": "{{ messages[0].content }}"}, {"name": "tool_use", "template": "{{ tools }}"}]})

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    t = byte_level(QWEN2, specials, normalizer=normalizers.NFC())
    c = tf.Qwen2Config(**base, vocab_size=t.get_vocab_size(), tie_word_embeddings=True, **ids(t, bos="<|endoftext|>", eos="<|im_end|>"))
    decoder("qwen2", tf.Qwen2ForCausalLM, c, t,
            config_of_tokenizer={"eos_token": "<|im_end|>", "bos_token": None, "chat_template": template})

    t = byte_level(None, specials, digits=True)
    c = tf.Qwen3Config(**base, head_dim=16, vocab_size=t.get_vocab_size(), tie_word_embeddings=False, **ids(t, eos="<|im_end|>"))
    decoder("qwen3", tf.Qwen3ForCausalLM, c, t, config_of_tokenizer={"eos_token": "<|im_end|>"})

    t = sentencepiece_bpe(["<pad>", "<bos>", "<eos>", "<unk>", "<end_of_turn>"], prepend=False)
    gemma = dict(vocab_size=t.get_vocab_size(), head_dim=16, tie_word_embeddings=True, **ids(t, bos="<bos>", eos="<eos>", pad="<pad>"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>"}
    decoder("gemma", tf.GemmaForCausalLM, tf.GemmaConfig(**base, **gemma), t, config_of_tokenizer=names, unit_norm=True)
    decoder("gemma2", tf.Gemma2ForCausalLM, tf.Gemma2Config(**base, **gemma, sliding_window=24, query_pre_attn_scalar=16), t,
            config_of_tokenizer=names, unit_norm=True)
    c = {**base, "num_hidden_layers": 3}
    c = tf.Gemma3TextConfig(**c, **gemma, sliding_window=24, query_pre_attn_scalar=16,
                            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                            rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})
    decoder("gemma3", tf.Gemma3ForCausalLM, c, t, config_of_tokenizer=names, unit_norm=True)


def encoders():
    base = dict(hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=FF, num_hidden_layers=LAYERS,
                attn_implementation="eager")
    torch.manual_seed(1)
    t = word_piece(True)
    bert = dict(**base, vocab_size=t.get_vocab_size(), max_position_embeddings=160)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
               {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    cls = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    embedder("bert", tf.BertModel(tf.BertConfig(**bert)).eval(), t, "cls",
             {"modules.json": modules, "1_Pooling/config.json": cls})
    ranker("bert-rank", tf.BertForSequenceClassification(tf.BertConfig(**bert, num_labels=1)).eval(), word_piece(False), True)
    t = unigram()
    xlm = dict(**base, vocab_size=t.get_vocab_size(), max_position_embeddings=162, type_vocab_size=1, pad_token_id=1,
               bos_token_id=0, eos_token_id=2)
    embedder("xlm-roberta", tf.XLMRobertaModel(tf.XLMRobertaConfig(**xlm)).eval(), t, "mean", {})
    ranker("xlm-roberta-rank", tf.XLMRobertaForSequenceClassification(tf.XLMRobertaConfig(**xlm, num_labels=1)).eval(), t, False)


def minilm(path):
    """What sentence-transformers makes of a few texts with all-MiniLM-L6-v2, which lies in `path`."""
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(path, device="cpu")
    texts = ["The cat sleeps on the mat.", "A kitten naps.", "Naïve cafés, ÜBER 漢字: 1,234.56 – isn't it?",
             "Rain falls in Spain, mainly on the plain. " * 8]
    vectors = model.encode(texts, normalize_embeddings=True)
    cases = [{"text": t, "ids": model.tokenizer(t)["input_ids"], "embedding": encoded(v)} for t, v in zip(texts, vectors)]
    (OUT / "minilm.json").write_text(json.dumps(cases))
    print("minilm", [len(c["ids"]) for c in cases])


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        minilm(sys.argv[1])
        sys.exit(0)
    decoders_()
    encoders()
    import encoders_gguf  # imports this file

    for make in (encoders_gguf.nomic, encoders_gguf.modern, encoders_gguf.jina):
        make()
