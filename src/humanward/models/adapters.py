"""Folders of adapters in PEFT's format: what they must hold, and whether they belong to a base and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoTokenizer

from humanward.errors import InputError
from humanward.models.loading import readable_errors
from humanward.models.provenance import tokenizer_sha256

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def refuse_no_adapter(folder: Path, remedy: str = "name a folder that PEFT saved") -> None:
    """InputError where ``folder`` holds no adapter in safetensors."""
    if (folder / WEIGHTS).exists():
        return
    if (folder / "adapter_model.bin").exists():
        raise InputError(
            f"{folder}: holds its weights as adapter_model.bin, a pickle, which may run any code when it is read; only "
            "safetensors are read: if you trust its source, load it once with PEFT and write it to a new folder with "
            "save_pretrained(NEW_FOLDER), then name that folder"
        )
    raise InputError(f"{folder}: holds no {WEIGHTS}; {remedy}")


def trained_on(folder: Path) -> str | None:
    """The base that an adapter's folder names, if it does."""
    file = folder / CONFIG
    if not file.exists():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: damaged ({error.msg}); name a folder that PEFT saved") from None


def notice_of_another_base(folder: Path, base: str) -> list[str]:
    """A line where an adapter that may fit names another base than this one; a folder counts by its last name."""
    origin = trained_on(folder)
    if origin is None or Path(origin).name == Path(base).name:
        return []
    return [f"{folder} was trained on {origin} and is put on {base}; only the same weights give the same answers"]


def refuse_other_tokenizer(folder: Path, base: str, tokenizer: Any) -> None:
    """InputError where a tokenizer lies beside the adapter and gives other meanings to ids than the base's own."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        return
    with readable_errors(str(folder), "adapter's tokenizer"):
        own = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if tokenizer_sha256(own) != tokenizer_sha256(tokenizer):
        raise InputError(
            f"{folder}: was trained with another tokenizer ({len(own)} tokens) than that of {base} ({len(tokenizer)}), "
            "so its ids mean other texts; merge it into the base that it was trained on and name the result as "
            "model.policy, or train an adapter on this base"
        )


def refuse_partial_fit(folder: Path, base: str, expected: Iterable[str]) -> None:
    """InputError where the weights in ``folder`` are not exactly those that the base has places for.

    PEFT itself leaves out what fits nowhere and leaves at random what is missing. Copies of the base's own matrices,
    which it stores where an output matrix is adapted, are no weights of the adapter.
    """
    places = set(expected)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        given = {name for name in file.keys() if ".base_layer." not in name}  # noqa: SIM118 (not a dictionary)
    if given == places:
        return
    origin = trained_on(folder)
    odd = sorted(given - places) or sorted(places - given)
    what = "has no place for" if given - places else "also has"
    raise InputError(
        f"{folder}: {f'was trained on {origin} and ' if origin else ''}does not fit {base}, which {what} "
        f"{len(odd)} of the weights ({odd[0]}); an adapter belongs to the base that it was trained on"
    )
