"""Loads policies and tokenizers from the hub, a local folder or the embedded default.

Weights are read from safetensors only, remote code stays off unless asked for by name, and whatever is wrong with a
name, a folder or a tokenizer is one InputError. The rules for users are in docs/models.md.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from humanward import demo
from humanward.config import ModelConfig
from humanward.errors import InputError
from humanward.models import attention
from humanward.models.quantization import keep_one_format, nf4
from humanward.models.states import decoder_prefix

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer. ``stop_ids`` end a response; ``pad_id`` fills masked positions.

    ``context`` is the longest prompt + response in tokens. ``vocabulary`` counts the ids that the tokenizer knows:
    an output matrix padded beyond it has rows without a text, which are never sampled and have no probability.
    """

    model: Any
    tokenizer: Any
    stop_ids: tuple[int, ...]
    pad_id: int
    context: int
    vocabulary: int
    name: str
    notices: tuple[str, ...]


def resolve(name: str) -> str:
    """A local path for ``demo/...`` names and existing folders, otherwise the name itself (a hub id)."""
    if name.startswith("demo/"):
        return str(demo.path(name))
    path = Path(name).expanduser()
    if path.exists():
        if not path.is_dir():
            raise InputError(f"{name}: is a file; name the folder that holds config.json and model.safetensors")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(f"{name}: no such folder, and not a hub id (owner/name); check the path")
    return name


@cache
def hub_is_unreachable() -> bool:
    """True where the hub's name does not resolve: the cache is all there is, and retries would take a minute."""
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return False
    try:
        socket.getaddrinfo(urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname, 443)
    except OSError:
        return True
    return False


@contextmanager
def readable_errors(name: str, what: str):  # type: ignore[no-untyped-def]
    """Turns what transformers raises for ``name`` into one InputError line, and keeps its log quiet meanwhile."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        local = Path(name).expanduser().exists() or name.startswith("demo/")
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            remedy = "its code is not part of transformers; set model.trust_remote_code = true if you trust it"
        elif local and (pickles := _pickles(Path(resolve(name)))):
            raise InputError(
                f"{name}: holds its weights as {pickles[0].name}, a pickle, which may run any code when it is read; "
                "only safetensors are read: if you trust its source, load it once with transformers and write it to a "
                "new folder with save_pretrained(NEW_FOLDER), then name that folder (docs/models.md shows how)"
            ) from None
        elif not local and "safetensors" in str(error):
            remedy = "only safetensors are read; name a revision or copy that has them (docs/models.md shows how)"
        elif local:
            remedy = "check that the folder holds config.json, the tokenizer files and *.safetensors"
        else:
            remedy = "check the spelling and the network, or download it and name the local folder"
        raise InputError(f"{name}: cannot load the {what} ({first}); {remedy}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


def _pickles(folder: Path) -> list[Path]:
    """The folder's pickled weights, if it has no others."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return []
    return sorted(p for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(kind))


def refuse_missing_weights(name: str, info: dict[str, Any], remedy: str) -> None:
    """Raises InputError for weights that the files lack: transformers would go on with random ones."""
    if missing := sorted(info["missing_keys"]):
        some = ", ".join(missing[:2]) + (", ..." if len(missing) > 2 else "")
        raise InputError(f"{name}: its files lack {len(missing)} of the model's weights ({some}); {remedy}")


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"model.device = {name!r}: not a device; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model.device = {name!r}: this machine shows no CUDA device; use auto or cpu")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the device multiplies it fast, else float32; so is bfloat16 where CUDA lacks it."""
    if name == "float32" or (device.type == "cuda" and not torch.cuda.is_bf16_supported()):
        return torch.float32
    return torch.bfloat16 if name == "bfloat16" or device.type == "cuda" or fast_bf16_cpu() else torch.float32


def dtype_notice(name: str, device: torch.device) -> str | None:
    """What a person who asked for bfloat16 has to know on a device without it; None elsewhere."""
    if name != "bfloat16" or pick_dtype("auto", device) == torch.bfloat16:
        return None
    if pick_dtype(name, device) == torch.float32:
        return f"model.dtype = 'bfloat16': {device} has no bfloat16; float32 is used instead, at twice the memory"
    return (
        "model.dtype = 'bfloat16': this processor has no bfloat16 instructions and multiplies it slowly; "
        "model.dtype = 'float32' is faster here, and takes twice the memory"
    )


def fast_bf16_cpu() -> bool:
    """True on processors with bfloat16 matrix instructions (AVX-512 BF16 or AMX)."""
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        return False
    text = flags.read_text()
    return "avx512_bf16" in text or "amx_bf16" in text


def load_model(config: ModelConfig) -> Loaded:
    """The policy of a configuration in evaluation mode (dropout off), its weights frozen."""
    path = resolve(config.policy)
    device = pick_device(config.device)
    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if path != config.policy or Path(path).exists():
        options["revision"] = None
        options["local_files_only"] = True
    elif hub_is_unreachable():
        options["local_files_only"] = True
    with readable_errors(config.policy, "model"):
        model_config = AutoConfig.from_pretrained(path, **options)
        family = AutoModelForSeq2SeqLM if model_config.is_encoder_decoder else AutoModelForCausalLM
        dtype = pick_dtype(config.dtype, device)
        # Quantised while it is read, straight onto its device: the whole in full precision never exists.
        quantised = config.quantization == "nf4"
        placing = {"quantization_config": nf4(dtype), "device_map": {"": device}} if quantised else {}
        model: Any
        model, info = family.from_pretrained(  # type: ignore[misc]
            path, dtype=dtype, use_safetensors=True, config=model_config, output_loading_info=True, **options, **placing
        )
    refuse_missing_weights(config.policy, info, "name a complete language model")
    with readable_errors(config.policy, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    if quantised:
        keep_one_format(model)
    loaded = finish_loading(model if quantised else model.to(device), tokenizer, config.policy)
    if (words := dtype_notice(config.dtype, device)) is not None:
        loaded = replace(loaded, notices=(*loaded.notices, words))
    learnt = trained_length(model)
    if learnt is None or config.max_prompt_tokens <= learnt:
        return loaded
    notice = (
        f"{config.policy} was trained with prompts of {learnt} tokens; model.max_prompt_tokens = "
        f"{config.max_prompt_tokens} admits longer ones, which it reads without having learnt to"
    )
    return replace(loaded, notices=(*loaded.notices, notice))


def finish_loading(model: Any, tokenizer: Any, name: str) -> Loaded:
    """Freezes the model and finds stop tokens, padding and context length; refuses a tokenizer without an end."""
    notices = []
    stop_ids = _stop_ids(model, tokenizer)
    if not stop_ids:
        raise InputError(
            f"{name}: its tokenizer has no end-of-sequence token, so a response could never end; "
            "set eos_token in tokenizer_config.json"
        )
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        pad_id = stop_ids[0]
        notices.append(
            f"{name} has no padding token; token {pad_id} fills masked positions (masks are explicit, so the end "
            "of a response is still learnt)"
        )
    prefix = decoder_prefix(model) if model.config.is_encoder_decoder else ()
    if model.config.is_encoder_decoder and not prefix:
        raise InputError(f"{name}: names no decoder_start_token_id to begin a response with; set it in config.json")
    embeddings = model.get_input_embeddings().weight.shape[0]
    known = max(tokenizer.get_vocab().values(), default=-1) + 1
    vocabulary = max(known, pad_id + 1, *(i + 1 for i in (*stop_ids, *prefix)))
    if vocabulary > embeddings:
        raise InputError(
            f"{name}: its tokenizer has {vocabulary} tokens but the model only {embeddings} embeddings; "
            "use the tokenizer that the model was trained with"
        )
    if unused := unused_generation_settings(model):
        notices.append(
            f"{name}: its generation settings {', '.join(unused)} are not applied: answers are drawn from the model's "
            "own distribution, the one that is trained and measured"
        )
    model.requires_grad_(False)
    model.eval()
    attention.install(model)
    return Loaded(
        model, tokenizer, stop_ids, int(pad_id), context_length(model, len(prefix)), vocabulary, name, tuple(notices)
    )


UNLIMITED = 1_000_000
"""The context of models that have no table of positions."""


def context_length(model: Any, prefix: int = 0) -> int:
    """The longest prompt + response in tokens.

    Models that know relative positions alone (T5, ALiBi) have no limit: what T5 calls n_positions is the length that it
    was trained with. With absolute positions an encoder-decoder's two sides each have this many places; here they
    share them, as elsewhere, and the decoder's prefix takes its own off.
    """
    text = model.config.get_text_config()
    if getattr(text, "relative_attention_num_buckets", None):
        return UNLIMITED
    names = ("max_position_embeddings", "n_positions", "max_encoder_position_embeddings")
    limits = [int(getattr(text, name, 0) or 0) for name in (*names, "max_decoder_position_embeddings")]
    return min((limit for limit in limits if limit > 0), default=UNLIMITED) - prefix


def trained_length(model: Any) -> int | None:
    """Tokens of a prompt that a model without a hard limit was trained with, where it says so (T5: n_positions)."""
    text = model.config.get_text_config()
    relative = getattr(text, "relative_attention_num_buckets", None)
    return int(getattr(text, "n_positions", 0) or 0) or None if relative else None


NEUTRAL_SETTINGS: dict[str, tuple[Any, ...]] = {
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beams": (1,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": (),
    "force_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": (),
    "exponential_decay_length_penalty": (),
    "sequence_bias": (),
    "guidance_scale": (1.0,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "watermarking_config": (),
}
"""Generation settings that change the distribution, with the values (besides None) that leave it as it is."""


def unused_generation_settings(model: Any) -> list[str]:
    """``name = value`` of the model's generation settings that humanward does not apply.

    Temperature, top-k and top-p are not among them (the run's own take their place), nor is a forced first token of an
    encoder-decoder, which is part of what the decoder reads.
    """
    settings = getattr(model, "generation_config", None)
    found = [(name, getattr(settings, name, None), neutral) for name, neutral in NEUTRAL_SETTINGS.items()]
    if not model.config.is_encoder_decoder:
        found.append(("forced_bos_token_id", getattr(settings, "forced_bos_token_id", None), ()))
    return [
        f"{name} = {str(value)[:40]}"
        for name, value, neutral in found
        if value is not None and value != [] and value not in neutral
    ]


def _stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's EOS first, then the further ones that the model's generation settings name."""
    found: list[int] = []
    generation = getattr(model, "generation_config", None)
    for value in (tokenizer.eos_token_id, getattr(generation, "eos_token_id", None)):
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is not None and item not in found:
                found.append(int(item))
    return tuple(found)
