"""Tiny random models and tokenizers, built in memory: nothing is downloaded, everything is float32 on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from humanward.config import LoraConfig, SamplingConfig
from humanward.models.base import SharedBase
from humanward.models.loading import Loaded, finish_loading
from humanward.models.tokens import Tokens, make_tokens
from humanward.records import Prompt

VOCABULARY = 24
PAD, EOS, UNK = VOCABULARY - 3, VOCABULARY - 2, VOCABULARY - 1
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"

_SIZES = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
_LLAMA_LIKE = {
    **_SIZES,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
_GEMMA = {**_LLAMA_LIKE, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
_T5 = {
    **_SIZES,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "decoder_start_token_id": PAD,
}
_BART = {
    **_SIZES,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "decoder_start_token_id": EOS,
    "forced_eos_token_id": None,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {**_SIZES, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    "llama": ("LlamaConfig", _LLAMA_LIKE),
    "qwen2": ("Qwen2Config", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", {**_LLAMA_LIKE, "head_dim": 8}),
    "mistral": ("MistralConfig", {**_LLAMA_LIKE, "sliding_window": 4}),
    "mistral-wide": ("MistralConfig", {**_LLAMA_LIKE, "sliding_window": 64}),
    "opt": ("OPTConfig", {**_LLAMA_LIKE, "ffn_dim": 32, "word_embed_proj_dim": 16}),
    "neox": ("GPTNeoXConfig", _LLAMA_LIKE),
    "gptj": ("GPTJConfig", {**_SIZES, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "rotary_dim": 4}),
    "bloom": ("BloomConfig", {**_SIZES, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "lfm2": ("Lfm2Config", {**_LLAMA_LIKE, "layer_types": ["conv", "full_attention"]}),
    "gemma2": ("Gemma2Config", {**_GEMMA, "final_logit_softcapping": 0.5}),
    "cohere": ("CohereConfig", {**_LLAMA_LIKE, "logit_scale": 0.25}),
    "granite": ("GraniteConfig", {**_LLAMA_LIKE, "logits_scaling": 3.0}),
    "t5-tied": ("T5Config", {**_T5, "tie_word_embeddings": True}),
    "t5-untied": ("T5Config", {**_T5, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "bart": ("BartConfig", _BART),
}
LABELS = {0: "nothate", 1: "hate", 2: "Unsure"}
PLAIN = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "mistral-wide", "opt", "neox", "gptj", "bloom", "lfm2")
CAPPED = ("gemma2", "cohere", "granite")
ENCODER_DECODER = ("t5-tied", "t5-untied", "bart")


def word_tokenizer(
    size: int = VOCABULARY, *, pad: bool = True, eos: bool = True, chat: bool = False, stops: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Words w0 w1 ... separated by spaces, then <pad>, </s> and <unk> as the last three of ``size`` tokens."""
    words = [f"w{i}" for i in range(size - 3 - len(stops))] + list(stops)
    vocabulary = {word: i for i, word in enumerate([*words, "<pad>", "</s>", "<unk>"])}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>" if pad else None,
        eos_token="</s>" if eos else None,
    )
    wrapped.chat_template = CHAT_TEMPLATE if chat else None
    return wrapped


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level without merges: 256 bytes, <pad> 256 and </s> 257; any text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "<pad>", "</s>"])}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def model(name: str, seed: int = 0, **overrides: Any) -> Any:
    """A random model of ``CONFIGS``; weights are enlarged, so that its predictions are far from uniform."""
    kind, settings = CONFIGS[name]
    config = getattr(transformers, kind)(**{**settings, **overrides})
    family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = family.from_config(config)
        with torch.no_grad():
            for parameter in built.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.3)
            bias = getattr(built.get_output_embeddings(), "bias", None)
            if bias is not None:  # GPT-J
                bias.normal_(std=0.3)
    return built


def loaded(
    name: str = "llama", seed: int = 0, *, tokenizer: Any = None, dtype: str = "float32", **overrides: Any
) -> Loaded:
    """``model`` with its tokenizer, as load_model returns it."""
    built = model(name, seed, **overrides).to(getattr(torch, dtype))
    return finish_loading(built, tokenizer or word_tokenizer(), f"tiny-{name}")


def shared_base(
    name: str = "llama",
    seed: int = 0,
    *,
    tokenizer: Any = None,
    system_prompt: str | None = None,
    dtype: str = "float32",
    **overrides: Any,
) -> SharedBase:
    """A SharedBase around ``model``, in float32 unless told otherwise."""
    return SharedBase(loaded(name, seed, tokenizer=tokenizer, dtype=dtype, **overrides), system_prompt=system_prompt)


def byte_base(seed: int = 0) -> SharedBase:
    """A Llama over bytes: any text round-trips."""
    return shared_base("llama", seed, tokenizer=byte_tokenizer(), vocab_size=258, pad_token_id=256, eos_token_id=257)


def with_policy(base: SharedBase, *, moved: float = 0.0, role: str = "policy", seed: int = 1) -> SharedBase:
    """``base`` with a role whose LoRA weights are moved away from "changes nothing" by noise of scale ``moved``."""
    base.add_role(role, LoraConfig(rank=4, alpha=8.0), seed=seed)
    if moved:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in base.role_parameters(role):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * moved)
    return base


def weights(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies, to compare with later."""
    return [p.detach().clone() for p in parameters]


def same(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    """Bitwise equality of two lists of tensors."""
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3]]
RESPONSES = [[5, 6, EOS], [1], [2, 3, 4, 5, EOS]]


def tokens(
    prompts: Sequence[Sequence[int]] = PROMPTS, responses: Sequence[Sequence[int]] = RESPONSES, pad: int = PAD
) -> Tokens:
    """The ragged batch that most tests use."""
    return make_tokens(prompts, responses, pad)


def prompts(count: int, words: int = 2) -> list[Prompt]:
    """``count`` different prompts of one to ``words`` words."""
    return [
        Prompt(id=f"p{i}", text=" ".join(f"w{(i * 5 + j * 3) % 12}" for j in range(1 + i % words)))
        for i in range(count)
    ]


def sampling(**changes: Any) -> SamplingConfig:
    """Six tokens at most."""
    return SamplingConfig(**{"max_new_tokens": 6, "batch_size": 64, **changes})


def save(folder: Path, name: str = "llama", seed: int = 0, *, tokenizer: Any = None, **overrides: Any) -> Path:
    """A model folder as users have them: config.json, model.safetensors, tokenizer files."""
    model(name, seed, **overrides).save_pretrained(folder)
    (tokenizer or word_tokenizer()).save_pretrained(folder)
    return folder


def save_classifier(folder: Path, kind: str = "bert", labels: dict[int, str] = LABELS, **overrides: Any) -> Path:
    """A tiny classifier whose tokenizer closes every text, as BERT's and RoBERTa's do."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", EOS)])
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 18,
        "pad_token_id": PAD if kind == "bert" else 1,
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
    }
    if kind == "gpt2":
        settings = {k: v for k, v in settings.items() if k in ("vocab_size", "id2label", "label2id")}
        settings |= {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 18, "pad_token_id": None}
    if kind == "distilbert":
        settings = {
            k: v for k, v in settings.items() if k in ("vocab_size", "max_position_embeddings", "id2label", "label2id")
        }
        settings |= {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "pad_token_id": PAD}
    name = {"distilbert": "DistilBertConfig", "bert": "BertConfig", "roberta": "RobertaConfig", "gpt2": "GPT2Config"}[
        kind
    ]
    config = getattr(transformers, name)(**{**settings, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def quiet(message: str) -> Iterator[None]:
    """Ignore one third-party warning, named by the beginning of its text."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        yield
