"""The trunk of well-known decoders on packed tokens: the same weights, a few operations a layer, no padding.

``transformers`` spends most of a decoding step on small operations: masks, caches that grow by copying, norms and
rotations in many parts, adapters module by module. Here a family is one short class that names what its layer does;
where keys and values are kept is the caller's (humanward.models.engine). A model is decoded this way when its class is
one of ``FAMILIES``, its settings change nothing that the class does not know (``unknown_setting``), and its logits
agree with its own forward (humanward.models.engine); every other model keeps the library's path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.activations import NewGELUActivation

from humanward.models.projections import Projection

if TYPE_CHECKING:
    from humanward.models.base import SharedBase

ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on the position alone, not on the length of the text."""

Function = Callable[[torch.Tensor], torch.Tensor]
Rotation = tuple[torch.Tensor, torch.Tensor] | None


class Attend(Protocol):
    """Causal attention that keeps keys and values: q (T, H, d), k and v (T, G, d) -> (T, H d)."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor: ...


Project = Callable[[Sequence[Any], Sequence[int]], Projection]


def _norm(module: Any) -> Function:
    """A norm in one operation where its class is known to be one."""
    if type(module) is nn.LayerNorm:
        return lambda x: functional.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)
    if type(module).__name__ in ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"):
        shape, eps = tuple(module.weight.shape), module.variance_epsilon
        return lambda x: functional.rms_norm(x, shape, module.weight, eps)
    return module  # type: ignore[no-any-return]


def _activation(module: Any) -> Function:
    if isinstance(module, NewGELUActivation):
        return lambda x: functional.gelu(x, approximate="tanh")
    return module  # type: ignore[no-any-return]


def _turned(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """x (T, ..., d) with its first dimensions turned by cosines and signed sines (T, 1, ..., at most d)."""
    assert rotation is not None
    cos, sin = rotation
    while cos.dim() < x.dim():
        cos, sin = cos[:, None], sin[:, None]
    width = cos.shape[-1]
    x = x.to(cos.dtype)
    first = x if width == x.shape[-1] else x[..., :width]
    turned = torch.addcmul(first * cos, first.roll(width // 2, -1), sin)
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)


class _Llama:
    """Llama, Mistral, Qwen 2 and Qwen 3: RMS norms, rotary positions, grouped queries, a gated MLP."""

    def __init__(self, index: int, layer: Any, project: Project) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.index, self.scale, self.size = index, attention.scaling, attention.head_dim
        config = attention.config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        both, values = (self.heads + self.groups) * self.size, self.groups * self.size
        self.qkv = project([attention.q_proj, attention.k_proj, attention.v_proj], [both, values])
        self.out = project([attention.o_proj], [config.hidden_size])
        inner = config.intermediate_size
        self.gate_up = project([mlp.gate_proj, mlp.up_proj], [inner, inner])
        self.down = project([mlp.down_proj], [config.hidden_size])
        self.act = _activation(mlp.act_fn)
        self.before, self.between = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.norms = [_norm(norm) for norm in norms if norm is not None]

    def __call__(self, x: torch.Tensor, rotation: Rotation, attend: Attend, kept: torch.Tensor | None) -> torch.Tensor:
        both, v = self.qkv(self.before(x))
        both = both.reshape(len(x), -1, self.size)
        if self.norms:
            q, k = both.split([self.heads, self.groups], 1)
            both = torch.cat([self.norms[0](q), self.norms[1](k)], 1)
        q, k = _turned(both, rotation).split([self.heads, self.groups], 1)
        read = attend(self.index, q, k, v.reshape(len(x), -1, self.size), self.scale)
        if kept is not None:
            x, read = x[kept], read[kept]
        x = x + self.out(read)[0]
        gate, up = self.gate_up(self.between(x))
        return x + self.down(self.act(gate) * up)[0]


class _NeoX:
    """GPT-NeoX (Pythia): layer norms, partly rotary positions, attention and MLP side by side."""

    def __init__(self, index: int, layer: Any, project: Project) -> None:
        attention, mlp = layer.attention, layer.mlp
        config = attention.config
        self.index, self.scale, self.size = index, attention.scaling, attention.head_size
        self.heads = self.groups = config.num_attention_heads
        width = config.hidden_size
        self.qkv = project([attention.query_key_value], [3 * width])
        self.out = project([attention.dense], [width])
        self.up = project([mlp.dense_h_to_4h], [config.intermediate_size])
        self.down = project([mlp.dense_4h_to_h], [width])
        self.act, self.parallel = _activation(mlp.act), layer.use_parallel_residual
        self.before, self.between = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)

    def __call__(self, x: torch.Tensor, rotation: Rotation, attend: Attend, kept: torch.Tensor | None) -> torch.Tensor:
        qkv = self.qkv(self.before(x))[0].view(len(x), self.heads, 3, self.size)
        q, k = _turned(qkv[:, :, :2], rotation).unbind(2)
        read = attend(self.index, q, k, qkv[:, :, 2], self.scale)
        if kept is not None:
            x, read = x[kept], read[kept]
        out = self.out(read)[0]
        if self.parallel:
            return self.down(self.act(self.up(self.between(x))[0]))[0] + out + x
        x = out + x
        return self.down(self.act(self.up(self.between(x))[0]))[0] + x


class _GPT2:
    """GPT-2: layer norms, a table of positions, queries, keys and values from one matrix."""

    def __init__(self, index: int, layer: Any, project: Project) -> None:
        attention, mlp = layer.attn, layer.mlp
        self.index, self.scale, self.size = index, attention.scaling, attention.head_dim
        self.heads = self.groups = attention.num_heads
        width = attention.embed_dim
        self.qkv = project([attention.c_attn], [width] * 3)
        self.out = project([attention.c_proj], [width])
        self.up = project([mlp.c_fc], [attention.config.n_inner or 4 * width])
        self.down = project([mlp.c_proj], [width])
        self.act = _activation(mlp.act)
        self.before, self.between = _norm(layer.ln_1), _norm(layer.ln_2)

    def __call__(self, x: torch.Tensor, rotation: Rotation, attend: Attend, kept: torch.Tensor | None) -> torch.Tensor:
        q, k, v = (piece.reshape(len(x), -1, self.size) for piece in self.qkv(self.before(x)))
        read = attend(self.index, q, k, v, self.scale)
        if kept is not None:
            x, read = x[kept], read[kept]
        x = self.out(read)[0] + x
        return x + self.down(self.act(self.up(self.between(x))[0]))[0]


FAMILIES: dict[str, type[_Llama] | type[_NeoX] | type[_GPT2]] = {
    "LlamaForCausalLM": _Llama,
    "MistralForCausalLM": _Llama,
    "Qwen2ForCausalLM": _Llama,
    "Qwen3ForCausalLM": _Llama,
    "GPTNeoXForCausalLM": _NeoX,
    "GPT2LMHeadModel": _GPT2,
}


class Trunk:
    """The present role's trunk, made ready for decoding: rebuilt after every change of its weights.

    ``length`` positions are prepared.
    """

    def __init__(self, base: SharedBase, length: int) -> None:
        model, family = base.model, FAMILIES[type(base.model).__name__]
        body = model.base_model
        dtype = base.compute_dtype

        def project(modules: Sequence[Any], widths: Sequence[int]) -> Projection:
            return Projection(modules, widths, dtype, base._autocast)

        layers = body.h if family is _GPT2 else body.layers
        self.layers = [family(index, layer, project) for index, layer in enumerate(layers)]
        self.embed = model.get_input_embeddings()
        self.positions = body.wpe if family is _GPT2 else None
        final = {_GPT2: "ln_f", _NeoX: "final_layer_norm", _Llama: "norm"}[family]
        self.final = _norm(getattr(body, final))
        self.rotation: tuple[torch.Tensor, torch.Tensor] | None = None
        if self.positions is None:
            places = torch.arange(length, device=base.device)[None]
            like = self.embed(places[:, :1])
            cos, sin = (table[0] for table in body.rotary_emb(like, places))
            half = sin.shape[-1] // 2
            self.rotation = cos, torch.cat([-sin[:, :half], sin[:, half:]], -1)

    def __call__(
        self, ids: torch.Tensor, places: torch.Tensor, attend: Attend, kept: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(T, D) last hidden states of tokens ``ids`` (T,) at positions ``places`` (T,), or of those ``kept`` alone."""
        x = self.embed(ids)
        rotation: Rotation = None
        if self.positions is not None:
            x = x + self.positions(places)
        elif self.rotation is not None:
            rotation = self.rotation[0][places], self.rotation[1][places]
        for layer in self.layers[:-1]:
            x = layer(x, rotation, attend, None)
        return self.final(self.layers[-1](x, rotation, attend, kept))


def unknown_setting(model: Any, context: int) -> str | None:
    """The first thing about ``model`` that no family here does, in words."""
    config = model.config
    if type(model) is not getattr(transformers, type(model).__name__, None) or type(model).__name__ not in FAMILIES:
        return f"{type(model).__name__} is none of the families that it knows"
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or []
    if window is not None and window < context and (not layers or "sliding_attention" in layers):
        return f"its attention sees a window of {window} tokens"
    if layers and set(layers) - {"full_attention", "sliding_attention"}:
        return f"its layers are of several kinds ({', '.join(sorted(set(layers)))})"
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in ROTATIONS:
        return f"its positions are of type {kind}"
    if getattr(config, "add_cross_attention", False):
        return "it reads a second text"
    return None
