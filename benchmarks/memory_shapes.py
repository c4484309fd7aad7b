"""Models of the benchmark's shapes with random weights, written as users have them: config, safetensors, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

_QWEN2 = {"tie_word_embeddings": True, "max_position_embeddings": 32768}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    # Qwen2-0.5B with a layer more, so that it holds half a billion weights (509 M).
    "0.5b": (
        "Qwen2Config",
        {
            **_QWEN2, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 25,
            "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
        },
    ),
    # As many weights with a fifth of the vocabulary (536 M): what the output matrix does not hide.
    "0.5b-32k": (
        "Qwen2Config",
        {
            **_QWEN2, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32000,
        },
    ),
    # T5 v1.1 large (783 M).
    "t5-large": (
        "T5Config",
        {
            "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 16,
            "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
        },
    ),
    "1.5b": (
        "Qwen2Config",
        {
            **_QWEN2, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        },
    ),
    "7b": (
        "Qwen2Config",
        {
            **_QWEN2, "tie_word_embeddings": False, "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        },
    ),
}  # fmt: skip


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Bytes without merges, filled up to ``size`` tokens, so that a text has as many tokens as letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"w{i}" for i in range(size - len(letters) - 3)), "<pad>", "</s>", "<unk>"]
    made = Tokenizer(tokenizer_models.BPE({word: i for i, word in enumerate(words)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


def prompt_of(row: int, tokens: int) -> str:
    """A text of so many letters, another one for each row."""
    return "".join(chr(97 + (row * 7 + place * place + place // 3) % 26) for place in range(tokens))


def config_of(shape: str) -> Any:
    """The shape's configuration."""
    kind, sizes = SHAPES[shape]
    size = sizes["vocab_size"]
    return getattr(transformers, kind)(**{**sizes, "pad_token_id": size - 3, "eos_token_id": size - 2})


def build(shape: str, folder: Path, seed: int = 0) -> Path:
    """The shape's model in bfloat16 in ``folder``, unless it is there already."""
    if (folder / "tokenizer.json").exists():
        return folder
    config = config_of(shape)
    family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(seed)
    family.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer(config.vocab_size).save_pretrained(folder)
    return folder
