"""The one place that turns (prompt, response) into states.

A response of R tokens has R + 1 states: state j < R is what the model knows before token j (the policy's logits and
the critic's value come from it), state R what it knows after the last column. There are exactly two cases, causal and
encoder-decoder; nothing else in the code slices logits, shifts by one or knows about padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from humanward.models.tokens import Tokens


def positions(mask: torch.Tensor) -> torch.Tensor:
    """(B, L) position of every token, counted over real tokens, so that padding on the left changes nothing."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def causal_inputs(tokens: Tokens) -> dict[str, torch.Tensor]:
    """What a decoder-only model reads: prompt and response joined, (B, P + R)."""
    mask = torch.cat([tokens.prompt_mask, tokens.response_mask], 1)
    return {
        "input_ids": torch.cat([tokens.prompt_ids, tokens.response_ids], 1),
        "attention_mask": mask.long(),
        "position_ids": positions(mask),
    }


def decoder_prefix(model: Any) -> tuple[int, ...]:
    """What an encoder-decoder's decoder reads before the response: its start token, and the token forced to be first.

    T5 starts with its padding token. BART starts with </s>, and its generation settings force <s> (or, in mBART and
    NLLB, a language) to follow: that token is given, not sampled, so it is no part of the response. Empty without a
    start token.
    """
    settings = (getattr(model, "generation_config", None), model.config)
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(settings[0], "decoder_start_token_id", None)
    forced = next((f for s in settings if (f := getattr(s, "forced_bos_token_id", None)) is not None), None)
    return tuple(int(i) for i in (start, forced) if i is not None) if start is not None else ()


def target_ids(tokenizer: Any, text: str, prefix: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """A text as the decoder's target, closed by nothing: with what the tokenizer puts before it, but no prefix token.

    A tokenizer that opens every target (BART: <s>) does so here too, unless the prefix gives that token already.
    """
    ids = list(tokenizer(text_target=text)["input_ids"])
    while ids and ids[-1] in stop_ids:
        ids.pop()
    given = list(prefix[1:])
    return ids[len(given) :] if given and ids[: len(given)] == given else ids


def encoder_decoder_inputs(tokens: Tokens, prefix: Sequence[int]) -> dict[str, torch.Tensor]:
    """What an encoder-decoder reads: the prompt, right-padded for absolute positions, and prefix + response."""
    order = torch.argsort(~tokens.prompt_mask, dim=1, stable=True)
    ids, mask = tokens.prompt_ids.gather(1, order), tokens.prompt_mask.gather(1, order)
    start = tokens.response_ids.new_tensor(prefix).expand(len(tokens), -1)
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "decoder_input_ids": torch.cat([start, tokens.response_ids], 1),
        "decoder_attention_mask": torch.cat([torch.ones_like(start, dtype=torch.bool), tokens.response_mask], 1).long(),
    }


def hidden_states(model: Any, tokens: Tokens) -> torch.Tensor:
    """(B, R + 1, D): the trunk's last hidden state at each of the response's states."""
    if model.config.is_encoder_decoder:
        # Some families (T5) keep encoder and decoder side by side, without a trunk module that holds both.
        prefix = decoder_prefix(model)
        inputs = encoder_decoder_inputs(tokens, prefix)
        encoded = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        decoded = model.get_decoder()(
            input_ids=inputs["decoder_input_ids"],
            attention_mask=inputs["decoder_attention_mask"],
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=inputs["attention_mask"],
            use_cache=False,
        )
        return decoded.last_hidden_state[:, len(prefix) - 1 :]
    hidden = model.base_model(**causal_inputs(tokens), use_cache=False).last_hidden_state
    return hidden[:, tokens.prompt_ids.shape[1] - 1 :]


def own_logits(model: Any, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden (B, R + 1, D), logits (B, R + 1, V)) by the model's own forward, for models that scale or cap logits."""
    captured: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _module, inputs: captured.append(inputs[0]))
    count = tokens.response_ids.shape[1] + 1
    try:
        if model.config.is_encoder_decoder:
            logits = model(**encoder_decoder_inputs(tokens, decoder_prefix(model)), use_cache=False).logits
        else:
            logits = model(**causal_inputs(tokens), use_cache=False).logits
    finally:
        handle.remove()
    # An encoder-decoder's head sees a scaled state where embeddings are tied; roles read the same one everywhere.
    return captured[-1][:, -count:], logits[:, -count:]


def last_state(hidden: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """(B, D): the state after each response's last real token, which the reward model scores."""
    return hidden[torch.arange(len(hidden), device=hidden.device), response_mask.sum(1)]
