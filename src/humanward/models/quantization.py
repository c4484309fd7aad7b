"""4-bit bases for QLoRA: the one place that knows bitsandbytes (extra ``qlora``)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from humanward.errors import InputError


def nf4(compute: torch.dtype) -> BitsAndBytesConfig:
    """NF4 weights with doubly quantised constants; products are computed in ``compute``.

    Linear layers are quantised, embeddings and the output matrix are not. InputError where bitsandbytes is missing.
    Source: Dettmers et al. 2023 (arXiv 2305.14314), sections 3 and 4.
    """
    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            raise InputError(f"model.quantization = 'nf4': {package} is not installed; pip install 'humanward[qlora]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def keep_one_format(model: Any) -> None:
    """Keep bitsandbytes from repacking weights at the first forward without gradients on a CPU with AVX-512 BF16.

    The repacked weights lose double quantisation and multiply by another kernel, so that sampling and the reference
    would compute other numbers than learning, and log-ratios would not start at 0.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def let_go_of_the_file(model: Any) -> None:
    """Copy what was not quantised out of the mapped file, which otherwise stays in memory whole (CPU).

    safetensors are mapped, not read: one embedding that still points into the file keeps all of its pages, those of the
    weights that were quantised too.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def is_quantized(model: Any) -> bool:
    """Whether the model's linear layers hold packed 4-bit weights."""
    return bool(getattr(model, "is_loaded_in_4bit", False))
