"""Tiny random T5 and BART in folders, laid out as the hub lays them out; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

POSITIONS = 96
"""BART's table of positions; T5 has none."""


def _tokenizer(special: list[str], template: str, **named: str) -> PreTrainedTokenizerFast:
    """Bytes without merges, after the special tokens, whose ids are their places."""
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = Tokenizer(BPE({name: index for index, name in enumerate(names)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.post_processor = TemplateProcessing(
        template, special_tokens=[(name, special.index(name)) for name in special if name in template]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, **named)


def t5(folder: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """T5: <pad> 0 starts, </s> 1 closes; ``tied`` as the first T5 (scaled logits), or else as v1.1 and FLAN.

    The vocabulary is padded by 28 rows, as T5's own.
    """
    tokenizer = _tokenizer(
        ["<pad>", "</s>", "<unk>"], "$A </s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer) + 28,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="relu" if tied else "gated-gelu",
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        n_positions=512,
    )
    model = T5ForConditionalGeneration(config)
    if not tied:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    _save(model, tokenizer, folder, {"tie_word_embeddings": tied})
    return folder


def bart(folder: Path, *, seed: int = 0) -> Path:
    """BART as bart-large-cnn: ids 0 to 3 are <s> <pad> </s> <unk>; </s> starts, <s> is forced; made for summaries."""
    tokenizer = _tokenizer(
        ["<s>", "<pad>", "</s>", "<unk>"],
        "<s> $A </s>",
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=POSITIONS,
        init_std=0.3,
    )
    model = BartForConditionalGeneration(config)
    model.final_logits_bias = torch.randn(model.final_logits_bias.shape) * 0.5
    settings: dict[str, Any] = {"forced_bos_token_id": 0, "no_repeat_ngram_size": 3, "min_length": 4, "num_beams": 4}
    model.generation_config.update(**settings)
    _save(model, tokenizer, folder, {})
    return folder


def _save(model: Any, tokenizer: Any, folder: Path, hub: dict[str, Any]) -> None:
    """As on the hub: whatever transformers makes of it, config.json says ``hub`` again."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    if hub:
        values.pop("scale_decoder_outputs", None)
    file.write_text(json.dumps({**values, **hub}, indent=2), encoding="utf-8")
