"""Log-probabilities, entropies, values and scores equal what Hugging Face's own forward and loss give.

Hugging Face reads each text bare, or padded on the right, or on the left; ours reads padded batches. Whatever is
expected here is computed from the model's own loss, logits and hidden states, never with the code under test.
"""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from models import tiny
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead, ValueHead
from humanward.models.micro_batches import MicroBatches
from humanward.models.tokens import Tokens, make_tokens
from humanward.reward.model import RewardModel
from humanward.rl.rollouts import judge_tokens

FAMILIES = (*tiny.PLAIN, *tiny.CAPPED, *tiny.ENCODER_DECODER)
DECODERS = (*tiny.PLAIN, *tiny.CAPPED)
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
"""Rounding of float32 log-probabilities of a few nats."""

EOS = tiny.EOS
# Of many lengths: one token alone, responses without and with an end, and texts far longer than a window of 4.
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3], [11, 2] * 12, [0, 17]]
RESPONSES = [[5, 6, EOS], [1], [2, 3, 4, 5, EOS], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3], [EOS]]


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest) -> SharedBase:
    return tiny.with_policy(tiny.shared_base(request.param), moved=0.05)


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> SharedBase:
    return tiny.with_policy(tiny.shared_base(request.param), moved=0.05)


def batches() -> dict[str, Tokens]:
    """The texts as a batch, with more padding on either side (of rubbish, not of the padding token), and backwards."""
    plain = make_tokens(PROMPTS, RESPONSES, tiny.PAD)
    left, right = torch.full((5, 6), 7), torch.full((5, 3), 9)
    wide = Tokens(
        torch.cat([left, plain.prompt_ids], 1),
        torch.cat([left < 0, plain.prompt_mask], 1),
        torch.cat([plain.response_ids, right], 1),
        torch.cat([plain.response_mask, right < 0], 1),
    )
    return {"batch": plain, "padded on both sides": wide, "backwards": plain[torch.arange(4, -1, -1)]}


@torch.no_grad()
def hugging_face(base: SharedBase, prompt: list[int], response: list[int]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """(mean negative log-likelihood, logits before each token (R, V), states (R + 1, D)), bare, without any mask."""
    if base.model.config.is_encoder_decoder:
        out = base.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([response]), output_hidden_states=True)
        start = base.model.config.decoder_start_token_id
        whole = base.model(
            input_ids=torch.tensor([prompt]),
            decoder_input_ids=torch.tensor([[start, *response]]),
            output_hidden_states=True,
        )
        return float(out.loss), out.logits[0], whole.decoder_hidden_states[-1][0]
    labels = torch.tensor([[-100] * len(prompt) + response])
    out = base.model(input_ids=torch.tensor([prompt + response]), labels=labels, output_hidden_states=True)
    return float(out.loss), out.logits[0, len(prompt) - 1 : -1], out.hidden_states[-1][0, len(prompt) - 1 :]


def check_loss(base: SharedBase, role: str = "policy") -> None:
    """Ragged, padded log-probabilities against one bare text at a time through the model's own loss."""
    with base.role(role):
        for tokens in batches().values():
            with torch.no_grad():
                logprobs, _, _ = base.logprobs(tokens)
            for row, mask in enumerate(tokens.response_mask):
                prompt = tokens.prompt_ids[row][tokens.prompt_mask[row]].tolist()
                response = tokens.response_ids[row][mask].tolist()
                ours = -float(logprobs[row].double().sum()) / len(response)
                assert ours == pytest.approx(hugging_face(base, prompt, response)[0], rel=1e-5, abs=1e-5)
                assert not bool(logprobs[row][~mask].any())


@pytest.mark.parametrize("role", ["policy", "reference"])
def test_log_probabilities_equal_the_models_own_loss(base: SharedBase, role: str) -> None:
    check_loss(base, role)


@pytest.mark.parametrize("side", ["right", "left"])
def test_log_probabilities_equal_the_loss_of_a_batch_padded_by_hugging_face(decoder: SharedBase, side: str) -> None:
    """One loss over a padded batch of its own: the mean over all real response tokens."""
    width = max(len(p) + len(r) for p, r in zip(PROMPTS, RESPONSES, strict=True))
    ids, mask, labels, places = [], [], [], []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        text, rest = prompt + response, width - len(prompt) - len(response)
        target, seen, count = [-100] * len(prompt) + response, [1] * len(text), list(range(len(text)))
        before, after = (rest, 0) if side == "left" else (0, rest)
        ids.append([tiny.PAD] * before + text + [tiny.PAD] * after)
        mask.append([0] * before + seen + [0] * after)
        labels.append([-100] * before + target + [-100] * after)
        places.append([0] * before + count + [0] * after)
    with torch.no_grad(), decoder.role("policy"):
        loss = decoder.model(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            labels=torch.tensor(labels),
            # On the right the model counts by itself; on the left it has to be told.
            **({"position_ids": torch.tensor(places)} if side == "left" else {}),
        ).loss
        for tokens in batches().values():
            logprobs, _, _ = decoder.logprobs(tokens)
            ours = -float(logprobs.double().sum()) / sum(map(len, RESPONSES))
            assert ours == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("name", tiny.ENCODER_DECODER)
def test_log_probabilities_equal_the_loss_of_a_padded_encoder_decoder_batch(name: str) -> None:
    base = tiny.shared_base(name)
    width, length = max(map(len, PROMPTS)), max(map(len, RESPONSES))
    with torch.no_grad():
        loss = base.model(
            input_ids=torch.tensor([p + [tiny.PAD] * (width - len(p)) for p in PROMPTS]),
            attention_mask=torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in PROMPTS]),
            labels=torch.tensor([r + [-100] * (length - len(r)) for r in RESPONSES]),
        ).loss
        for tokens in batches().values():
            ours = -float(base.logprobs(tokens)[0].double().sum()) / sum(map(len, RESPONSES))
            assert ours == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_and_tempered_log_probabilities_equal_torch_distributions(
    base: SharedBase, temperature: float
) -> None:
    with torch.no_grad(), base.role("policy"):
        logprobs, entropies, _ = base.logprobs(batches()["padded on both sides"], temperature=temperature, entropy=True)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            _, logits, _ = hugging_face(base, prompt, response)
            plain = torch.distributions.Categorical(logits=logits.double() / temperature)
            count = len(response)
            torch.testing.assert_close(entropies[row, :count].double(), plain.entropy(), **CLOSE)
            torch.testing.assert_close(
                logprobs[row, :count].double(), plain.log_prob(torch.tensor(response)), rtol=1e-5, atol=1e-5
            )
            assert not bool(entropies[row, count:].any())


def test_values_equal_the_head_on_the_models_own_states(base: SharedBase) -> None:
    """V(s) of the state before each token: w h + b on the last hidden state after the final norm.

    T5 with tied embeddings multiplies that state by D^-1/2 = 1/4 before its output matrix; there the critic reads it.
    """
    head = ValueHead(base.width)
    with torch.no_grad():
        head.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
        head.linear.bias.fill_(0.25)
    weight, bias = head.linear.weight.detach()[0].double(), 0.25
    factor = 0.25 if base.name == "tiny-t5-tied" else 1.0
    with base.role("policy"):
        tokens = batches()["padded on both sides"]
        _, _, values = judge_tokens(base, tokens, head, temperature=1.0, micro_batches=MicroBatches(2))
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            _, _, states = hugging_face(base, prompt, response)
            expected = (factor * states[: len(response)].double()) @ weight + bias
            torch.testing.assert_close(values[row, : len(response)].double(), expected, rtol=1e-4, atol=1e-5)
            assert not bool(values[row, len(response) :].any())


def test_scores_equal_the_head_on_the_models_own_last_state(base: SharedBase) -> None:
    """The reward model reads the state after the last real token, the end itself."""
    head = ScoreHead(base.width, torch.Generator().manual_seed(0))
    head.anchor(torch.tensor([1.0, 3.0]))  # shift 2, scale 1
    weight = head.linear.weight.detach()[0].double()
    model = RewardModel(base, head, limit=64)
    with torch.no_grad(), base.role("policy"):
        scores = model.forward(batches()["padded on both sides"])
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            _, _, states = hugging_face(base, prompt, response)
            assert float(scores[row]) == pytest.approx(float(states[-1].double() @ weight) - 2, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", tiny.CAPPED)
def test_the_bare_output_matrix_would_be_wrong_where_logits_are_capped_or_scaled(name: str) -> None:
    """The control of the first test: forced onto the bare matrix, parity fails."""
    base = tiny.shared_base(name)
    base._own_head = True
    with pytest.raises(AssertionError):
        check_loss(base, "reference")


def test_the_sliding_window_is_shorter_than_some_texts_and_changes_them() -> None:
    """The control of "mistral": its window of 4 gives other log-probabilities than one of 64, with the same weights."""
    narrow, wide = tiny.shared_base("mistral"), tiny.shared_base("mistral-wide")
    assert (narrow.model.config.sliding_window, wide.model.config.sliding_window) == (4, 64)
    tokens = batches()["batch"]
    with torch.no_grad():
        difference = (narrow.logprobs(tokens)[0] - wide.logprobs(tokens)[0]).abs()
    assert float(difference[3].max()) > 0.01
    assert float(difference[2, :3].max()) == 0  # one token of prompt and three before: all within the window


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma2", "t5-untied"])
def test_a_merged_export_equals_the_adapter_within_1e_5(name: str, tmp_path: Path) -> None:
    """Saved adapter, merged into a copy of the base by plain PEFT, saved and loaded as an ordinary model."""
    base = tiny.with_policy(tiny.shared_base(name), moved=0.1)
    base.save_role("policy", tmp_path / "adapter")
    wrapped = peft.PeftModel.from_pretrained(tiny.model(name).eval(), str(tmp_path / "adapter"))
    wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    family = AutoModelForSeq2SeqLM if base.model.config.is_encoder_decoder else AutoModelForCausalLM
    merged = family.from_pretrained(tmp_path / "merged").eval()
    assert not [n for n, _ in merged.named_parameters() if "lora" in n]
    tokens = batches()["batch"]
    with torch.no_grad():
        with base.role("policy"):
            adapter = base.logprobs(tokens)[0]
        reference = base.logprobs(tokens)[0]
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            extra = {"labels": torch.tensor([response])}
            if not base.model.config.is_encoder_decoder:
                extra = {"labels": torch.tensor([[-100] * len(prompt) + response])}
            ids = prompt if base.model.config.is_encoder_decoder else prompt + response
            logits = merged(input_ids=torch.tensor([ids]), **extra).logits[0]
            if not base.model.config.is_encoder_decoder:
                logits = logits[len(prompt) - 1 : -1]
            plain = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
            assert float((adapter[row, : len(response)] - plain).abs().max()) <= 1e-5
    assert float((adapter - reference).abs().max()) > 0.01
