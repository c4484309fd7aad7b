"""Tiny random models of the real classes in folders, laid out as the hub lays them out; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXTS = ("you are a kind and helpful friend", "nobody likes you, go away", "what is the weather like today?")
CONTEXT = 96


def causal(folder: Path, *, chat: bool = True, eos: bool = True, pad: bool = True, seed: int = 0) -> Path:
    """A Llama of some thousand weights with a byte-level tokenizer; with or without template, EOS and pad token."""
    special = ["<|user|>", "<|assistant|>", "<|system|>", *(["</s>"] if eos else []), *(["<pad>"] if pad else [])]
    words = Tokenizer(BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(TEXTS, trainer)
    named = {**({"eos_token": "</s>"} if eos else {}), **({"pad_token": "<pad>"} if pad else {})}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **named)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE if eos else CHAT_TEMPLATE.replace(" + eos_token", "")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def roberta(folder: Path, *, labels: tuple[str, ...] = ("nothate", "hate"), seed: int = 1) -> Path:
    """A RoBERTa classifier, two labels told apart by a softmax; its tokenizer is vocab.json and merges.txt alone."""
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(names),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=66,
        type_vocab_size=1,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    return folder


def bert(folder: Path, *, seed: int = 2) -> Path:
    """A BERT classifier with several labels, each with a sigmoid of its own; its tokenizer is vocab.txt alone."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    labels = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        problem_type="multi_label_classification",
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(names) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 64}))
    return folder


def all_of_them(folder: Path) -> Path:
    """chat/, plain/ (neither template nor pad token), roberta/ and bert/ in ``folder``."""
    causal(folder / "chat")
    causal(folder / "plain", chat=False, pad=False)
    roberta(folder / "roberta")
    bert(folder / "bert")
    return folder
