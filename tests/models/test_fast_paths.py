"""The fast paths of attention, LoRA layers and the output matrix compute what the libraries' plain ones do."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from humanward.models import attention, lora_linear, output_head
from humanward.models.logprobs import flat_statistics
from humanward.models.output_head import OutputHead
from humanward.models.products import of_bfloat16_values

BOUNDS = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 0.03, "rtol": 0.03}}


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(dtype).requires_grad_(True)


# --- attention ---------------------------------------------------------------------------------------------------


def causal_mask(rows: int, length: int, padding: int) -> torch.Tensor:
    """(B, 1, L, L), True where a query may look: backwards, and not at row r's first r * padding places."""
    seen = torch.ones(length, length, dtype=torch.bool).tril().expand(rows, 1, length, length).clone()
    for row in range(rows):
        # A query on padding sees itself, or its softmax would be over nothing.
        seen[row, :, :, : row * padding] = torch.eye(length, dtype=torch.bool)[None, :, : row * padding]
    return seen


def attended(function, dtype, heads, groups, mask, **options):  # type: ignore[no-untyped-def]
    """(output, gradients of query, key, value) of one attention function, in float32."""
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = heads // groups, True  # type: ignore[assignment]
    query = normal(3, heads, 7, 8, seed=0, dtype=dtype)
    key, value = (normal(3, groups, 7, 8, seed=seed, dtype=dtype) for seed in (1, 2))
    out, _ = function(module, query, key, value, mask, scaling=0.4, **options)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    gradients = torch.autograd.grad((out * weights).sum(), (query, key, value))
    return [x.float().detach() for x in (out, *gradients)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("kind", ["bool", "added", "none"])
@pytest.mark.parametrize("chunk", [1, 1 << 19])
def test_attention_is_pytorchs(dtype, heads, groups, kind, chunk, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(attention, "CHUNK_SCORES", chunk)
    mask = None if kind == "none" else causal_mask(3, 7, padding=2)
    if kind == "added":
        assert mask is not None
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    ours = attended(attention.attend, dtype, heads, groups, mask)
    theirs = attended(sdpa_attention_forward, dtype, heads, groups, mask)
    for mine, own in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, own, **BOUNDS[dtype])


def test_one_query_after_a_cache_looks_everywhere() -> None:
    query, key, value = (normal(2, 4, length, 8, seed=length) for length in (1, 5, 5))
    ours, _ = attention.attend(nn.Module(), query, key, value, None)
    torch.testing.assert_close(ours, functional.scaled_dot_product_attention(query, key, value).transpose(1, 2))


def test_what_is_not_covered_goes_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *args, **kwargs: asked.append(kwargs))
    query = normal(1, 2, 3, 8, seed=0)
    attention.attend(nn.Module(), query, query, query, None, dropout=0.1)
    attention.attend(nn.Module(), query, query, query, None, position_bias=torch.zeros(1, 2, 3, 3))
    monkeypatch.setattr(attention, "ROW_SCORES", 10)
    attention.attend(nn.Module(), query, query, query, None)
    assert len(asked) == 3


# --- LoRA --------------------------------------------------------------------------------------------------------


def lora_layer(bias: bool, dtype: torch.dtype) -> Linear:
    model = nn.Sequential(nn.Linear(12, 20, bias=bias).to(dtype)).requires_grad_(False)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["0"], lora_dropout=0.0)
    wrapped = peft.get_peft_model(model, config)
    layer = wrapped.base_model.model[0]
    torch.manual_seed(0)
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_lora_layer_is_pefts(dtype: torch.dtype, bias: bool) -> None:
    plain = lora_layer(bias, dtype)
    fast = copy.deepcopy(plain)
    lora_linear.install(fast)
    assert "forward" in fast.__dict__
    found = []
    for layer in (plain, fast):
        x = normal(2, 5, 12, seed=1, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = layer(x)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.dtype)
        trained = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        found.append([out, *torch.autograd.grad((out * weights).sum(), trained)])
    for mine, own in zip(*found, strict=True):
        assert mine.dtype == own.dtype
        scale = float(own.detach().abs().max())
        torch.testing.assert_close(mine.float() / scale, own.float() / scale, **BOUNDS[dtype])


def test_other_kinds_of_lora_keep_pefts_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = lora_layer(False, torch.float32)
    lora_linear.install(layer)
    x = normal(2, 12, seed=1)
    asked = []
    monkeypatch.setattr(Linear, "forward", lambda layer, x: asked.append(layer) or x)
    layer(x)
    assert asked == []
    layer.lora_dropout["default"] = nn.Dropout(0.1)
    layer(x)
    layer.lora_dropout["default"] = nn.Identity()
    layer._disable_adapters = True
    layer(x)
    assert len(asked) == 2


# --- the output matrix -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [30, 1 << 20])
def test_statistics_are_those_of_the_logits(dtype, trained, temperature, chunk, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(output_head, "CHUNK_LOGITS", chunk)
    vocabulary, ids = 11, torch.tensor([0, 10, 3, 3, 7, 1, 2])
    found = []
    for plain in (True, False):
        hidden = normal(7, 6, seed=0, dtype=dtype)
        weight = normal(13, 6, seed=1, dtype=dtype).detach().requires_grad_(trained)
        bias = normal(13, seed=2, dtype=dtype).detach().requires_grad_(trained)
        head = OutputHead(weight, bias, dtype)
        logits_of = (lambda states, head=head: head(states)) if plain else head
        logprobs, entropies = flat_statistics(
            hidden, ids, logits_of, temperature=temperature, vocabulary=vocabulary, entropy=True
        )
        wanted = [hidden, weight, bias] if trained else [hidden]
        gradients = torch.autograd.grad((logprobs * torch.arange(1.0, 8)).sum(), wanted)
        assert not entropies.requires_grad
        found.append([logprobs.detach(), entropies, *(g.float() for g in gradients)])
    for mine, own in zip(found[1], found[0], strict=True):
        exact = mine.shape == (7,) and mine.dtype == torch.float32
        scale = float(own.detach().abs().max())
        bounds = BOUNDS[torch.float32] if exact and dtype == torch.float32 else BOUNDS[dtype]
        torch.testing.assert_close(mine / scale, own / scale, **bounds)


def test_products_of_bfloat16_values_have_float32_results() -> None:
    """1.0078125 * 1.0078125 = 1.01568603515625 has more digits than bfloat16, and none more than float32."""
    one = torch.full((64, 64), 1.0078125)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with of_bfloat16_values():
        product = one @ one
    assert float(product[0, 0]) == pytest.approx(64 * 1.01568603515625, abs=1e-6)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
