"""Which weights these are: the commit that a hub id stood for, or a digest of a folder's files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from humanward.models.loading import resolve

DECIDING = (".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".py")
"""Files that decide what a model says; a README does not."""

WHOLE = 64 << 20
"""Files up to this many bytes are read whole, larger ones in as many evenly spaced blocks of a mebibyte."""

_BLOCK = 1 << 20


def identify(name: str, revision: str | None = None) -> dict[str, str | None]:
    """``name`` with the ``commit`` of the hub's cache that it was read from, or the ``sha256`` of its folder.

    A commit is null where the cache does not tell it. The digest covers names, sizes and contents of the files that
    ``DECIDING`` lists; of a file over 64 MiB it reads its first and last mebibyte and 62 between them: any training
    moves all of a model's weights, so this finds another model without reading all of it.
    """
    path = resolve(name)
    if name.startswith("demo/") or Path(path).is_dir():
        return {"name": name, "sha256": folder_sha256(Path(path))}
    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return {"name": name, "commit": Path(cached).parent.name if isinstance(cached, str) else None}


def folder_sha256(folder: Path) -> str:
    """Hexadecimal SHA-256 over the names, sizes and contents of a folder's deciding files; see ``identify``."""
    whole = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in DECIDING):
        size = file.stat().st_size
        whole.update(f"{file.name}\x1f{size}\x1f".encode())
        with file.open("rb") as content:
            if size <= WHOLE:
                whole.update(content.read())
                continue
            blocks = WHOLE // _BLOCK
            for number in range(blocks):
                content.seek((size - _BLOCK) * number // (blocks - 1))
                whole.update(content.read(_BLOCK))
    return whole.hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hexadecimal SHA-256 of what gives ids their meaning: every token with its id, and the special tokens.

    The padding token is left out: it is masked wherever it stands.
    """
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name != "pad_token"}
    content = [sorted(tokenizer.get_vocab().items()), sorted(special.items())]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
