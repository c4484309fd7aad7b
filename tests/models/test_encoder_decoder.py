"""T5 and BART as they are on the hub: tied, untied, biased logits, forced first tokens, padded vocabularies.

What is expected comes from the model's own forward, loss and greedy decoding, never from the code under test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from humanward.config import ModelConfig
from humanward.errors import InputError
from humanward.models import states
from humanward.models.base import SharedBase
from humanward.models.loading import UNLIMITED, context_length, finish_loading, load_model
from humanward.models.sampling import sample
from humanward.models.tokens import Tokens, make_tokens

PROMPTS = [[1, 2, 3, tiny.EOS], [4, 5, 6, 7, 8, 9, tiny.EOS], [3, tiny.EOS]]
RESPONSES = [[5, 6, tiny.EOS], [1], [2, 3, 4, 5, tiny.EOS]]
BOS = 0
"""w0 serves as <s>."""


def t5_untied(seed: int = 0) -> Any:
    """T5 v1.1 and FLAN: gated GELU, an output matrix of its own, no scale."""
    model = tiny.model("t5-untied", seed)
    generator = torch.Generator().manual_seed(seed)
    model.lm_head.weight = nn.Parameter(torch.randn(model.lm_head.weight.shape, generator=generator) * 0.3)
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    return model


def bart(seed: int = 0, *, bias: float = 0.5, forced: int | None = BOS) -> Any:
    """BART as bart-large-cnn: starts with </s>, forces <s> to follow, adds a bias to its logits."""
    model = tiny.model("bart", seed)
    generator = torch.Generator().manual_seed(seed)
    model.final_logits_bias = bias * torch.randn(model.final_logits_bias.shape, generator=generator)
    model.generation_config.forced_bos_token_id = forced
    return model


MODELS = {
    "t5 tied": lambda: tiny.model("t5-tied"),
    "t5 untied": t5_untied,
    "bart": bart,
    "bart, nothing forced": lambda: bart(forced=None),
    "bart, no bias": lambda: bart(bias=0.0),
}
PREFIX = {
    "t5 tied": [tiny.PAD],
    "t5 untied": [tiny.PAD],
    "bart": [tiny.EOS, BOS],
    "bart, nothing forced": [tiny.EOS],
    "bart, no bias": [tiny.EOS, BOS],
}


def closing_tokenizer(*, opens: bool = False) -> Any:
    """Closes what it encodes with </s>, as T5's; ``opens`` also puts <s> (w0) before it, as BART's does."""
    tokenizer = tiny.word_tokenizer()
    specials = [("</s>", tiny.EOS), *([("w0", BOS)] if opens else [])]
    template = "w0 $A </s>" if opens else "$A </s>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(template, special_tokens=specials)
    return tokenizer


def shared(model: Any, *, opens: bool = False) -> SharedBase:
    return SharedBase(finish_loading(model, closing_tokenizer(opens=opens), "tiny"))


@pytest.fixture(scope="module", params=MODELS)
def named(request: pytest.FixtureRequest) -> tuple[SharedBase, list[int]]:
    """A base with a policy that has moved, and what its decoder reads first."""
    return tiny.with_policy(shared(MODELS[request.param]()), moved=0.2), PREFIX[request.param]


def batches() -> list[Tokens]:
    plain = make_tokens(PROMPTS, RESPONSES, tiny.PAD)
    left, right = torch.full((3, 5), 7), torch.full((3, 2), 9)
    wide = Tokens(
        torch.cat([left, plain.prompt_ids], 1),
        torch.cat([left < 0, plain.prompt_mask], 1),
        torch.cat([plain.response_ids, right], 1),
        torch.cat([plain.response_mask, right < 0], 1),
    )
    return [plain, wide, *(make_tokens([p], [r], tiny.PAD) for p, r in zip(PROMPTS, RESPONSES, strict=True))]


def bare_logits(base: SharedBase, prompt: list[int], read: list[int]) -> torch.Tensor:
    """(len(read), V) by the model's own forward on one text without padding or masks."""
    return base.model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([read]), use_cache=False).logits[
        0
    ]


@pytest.mark.parametrize("role", ["policy", "reference"])
@torch.no_grad()
def test_log_probabilities_equal_the_models_own_logits(named: tuple[SharedBase, list[int]], role: str) -> None:
    base, prefix = named
    expected = {}
    with base.role(role):
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            logits = bare_logits(base, prompt, [*prefix, *response[:-1]])[len(prefix) - 1 :].double()
            expected[tuple(prompt)] = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        for tokens in batches():
            logprobs, _, _ = base.logprobs(tokens)
            for row in range(len(tokens)):
                prompt = tokens.prompt_ids[row][tokens.prompt_mask[row]].tolist()
                mask = tokens.response_mask[row]
                torch.testing.assert_close(logprobs[row][mask].double(), expected[tuple(prompt)], rtol=1e-5, atol=2e-6)
                assert not bool(logprobs[row][~mask].any())


@torch.no_grad()
def test_log_probabilities_equal_hugging_faces_loss(named: tuple[SharedBase, list[int]]) -> None:
    """labels = forced token + response: the loss is the mean over both, so what the forced one costs is taken off."""
    base, prefix = named
    with base.role("policy"):
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            labels = [*prefix[1:], *response]
            loss = base.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([labels])).loss
            forced = sum(
                float(bare_logits(base, prompt, prefix[: i + 1])[-1].log_softmax(-1)[token])
                for i, token in enumerate(prefix[1:])
            )
            ours, _, _ = base.logprobs(make_tokens([prompt], [response], tiny.PAD))
            assert float(ours.sum()) + forced == pytest.approx(-float(loss) * len(labels), rel=1e-5)


@torch.no_grad()
def test_a_new_policy_has_no_kl(named: tuple[SharedBase, list[int]]) -> None:
    base = tiny.with_policy(named[0], role=f"new {id(named)}")
    tokens = batches()[1]
    with base.role(f"new {id(named)}"):
        own = base.logprobs(tokens)[0]
    with base.role("reference"):
        assert torch.equal(own, base.logprobs(tokens)[0])


@torch.no_grad()
def test_the_most_probable_answer_is_the_one_of_greedy_decoding(named: tuple[SharedBase, list[int]]) -> None:
    """top_k = 1 against transformers' own generate; start and forced token are no part of the response."""
    base, prefix = named
    with base.role("policy"):
        ours = sample(base, PROMPTS, ["a", "b", "c"], tiny.sampling(max_new_tokens=7, top_k=1), seed=0)
        for prompt, response in zip(PROMPTS, ours, strict=True):
            theirs = base.model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=7 + len(prefix) - 1,
                forced_eos_token_id=None,
            )[0].tolist()
            assert theirs[: len(prefix)] == prefix
            assert list(response.ids) == theirs[len(prefix) :][: len(response.ids)]
            assert len(response.ids) in (7, len(theirs) - len(prefix))


def test_a_prompt_is_encoded_once_for_all_its_samples(named: tuple[SharedBase, list[int]]) -> None:
    base, _ = named
    rows: list[int] = []
    encoder = base.model.get_encoder()
    handle = encoder.register_forward_hook(
        lambda _module, _args, kwargs, _out: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        prompts = [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4
        drawn = sample(base, prompts, [str(i) for i in range(8)], tiny.sampling(), seed=0)
    finally:
        handle.remove()
    assert rows == [2]
    assert len({r.ids for r in drawn}) > 2


def test_a_forced_token_changes_what_is_drawn() -> None:
    """The control: with the same weights and numbers BART answers otherwise where nothing is forced."""
    keys = [str(i) for i in range(16)]
    forced, free = (
        sample(shared(model), [PROMPTS[0]] * 16, keys, tiny.sampling(), seed=0) for model in (bart(), bart(forced=None))
    )
    assert forced != free


@pytest.mark.parametrize(
    ("forced", "opens", "expected"),
    [
        (None, False, [5, 6]),  # T5: nothing before the text
        (BOS, True, [5, 6]),  # BART as it is on the hub: <s> is given to the decoder
        (None, True, [BOS, 5, 6]),  # trained on "<s> text </s>", and nothing forces <s>: the model has to write it
        (BOS, False, [5, 6]),
    ],
)
def test_a_text_becomes_what_the_decoder_was_trained_on(forced: int | None, opens: bool, expected: list[int]) -> None:
    base = shared(bart(forced=forced), opens=opens)
    assert base.response_ids("w5 w6") == [*expected, tiny.EOS]
    assert base.response_ids("w5 w6", ended=False) == expected
    assert base.response_ids("", ended=True)[-1] == tiny.EOS


def test_prompts_stay_closed_and_are_padded_on_the_right_for_the_encoder() -> None:
    base = shared(bart())
    tokens = base.encode(tiny.prompts(3, words=3), ["w5", "w6 w7", ""])
    inputs = states.encoder_decoder_inputs(tokens, states.decoder_prefix(base.model))
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
        assert ids[length - 1] == tiny.EOS
    assert inputs["decoder_input_ids"][:, :2].tolist() == [[tiny.EOS, BOS]] * 3


def test_the_output_head_is_checked_against_the_models_own_logits() -> None:
    """Tied T5 scales, a biased BART shifts: their own forward is used, and a line says so."""
    for name, plain in {"t5 tied": False, "t5 untied": True, "bart": False, "bart, no bias": True}.items():
        base = shared(MODELS[name]())
        assert base._own_head is plain
        assert any("its own forward is used" in line for line in base.notices) is not plain


# --- lengths -------------------------------------------------------------------------------------------------------


def test_relative_positions_have_no_limit_and_absolute_ones_do() -> None:
    assert context_length(tiny.model("t5-tied", n_positions=8)) == UNLIMITED
    assert context_length(tiny.model("bart"), prefix=2) == 62
    assert context_length(tiny.model("llama")) == 64
    base = shared(tiny.model("t5-tied", n_positions=8))
    with torch.no_grad():
        long = base.logprobs(make_tokens([[1, 2] * 40], [[3, 4, tiny.EOS]], tiny.PAD))[0]
    assert bool(torch.isfinite(long).all())


def test_prompts_beyond_what_t5_was_trained_with_are_said(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "t5-untied", n_positions=300)
    assert load_model(ModelConfig(policy=str(folder), dtype="float32", max_prompt_tokens=300)).notices == ()
    (notice,) = load_model(ModelConfig(policy=str(folder), dtype="float32", max_prompt_tokens=301)).notices
    assert "was trained with prompts of 300 tokens; model.max_prompt_tokens = 301" in notice


def test_bart_fills_its_table_of_positions_and_no_more() -> None:
    base = shared(bart())
    length = base.context - 2
    with torch.no_grad():
        base.logprobs(make_tokens([[1, tiny.EOS]], [[3] * length], tiny.PAD))
    tokens = base.encode(tiny.prompts(1), [" ".join(["w1"] * 100)])
    assert tokens.prompt_ids.shape[1] + tokens.response_ids.shape[1] == base.context == 62


def test_a_model_without_a_start_token_is_refused() -> None:
    with pytest.raises(InputError, match="names no decoder_start_token_id"):
        shared(tiny.model("t5-tied", decoder_start_token_id=None))


# --- padded vocabularies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2", "t5-tied", "t5-untied", "bart"])
def test_ids_without_a_text_are_never_drawn_and_have_no_probability(name: str) -> None:
    """40 rows of which the tokenizer knows 24; the rows beyond are made the most probable ones."""
    model = tiny.model(name, vocab_size=40)
    base = SharedBase(finish_loading(model, tiny.word_tokenizer(), "padded"))
    assert base.vocabulary == 24
    keys = [str(i) for i in range(64)]
    drawn = sample(base, [[1, 2, tiny.EOS]] * 64, keys, tiny.sampling(temperature=100.0), seed=0)
    assert {i for r in drawn for i in r.ids} <= set(range(24))
    count = 24
    rows = make_tokens([[1, 2, tiny.EOS]] * count, [[i] for i in range(count)], tiny.PAD)
    with torch.no_grad():
        logprobs, entropies, _ = base.logprobs(rows, temperature=1.5, entropy=True)
        if base.model.config.is_encoder_decoder:
            start = list(states.decoder_prefix(model))
            logits = bare_logits(base, [1, 2, tiny.EOS], start)[-1]
        else:
            logits = model(input_ids=torch.tensor([[1, 2, tiny.EOS]])).logits[0, -1]
    known = torch.distributions.Categorical(logits=logits[:24].double() / 1.5)
    torch.testing.assert_close(logprobs[:, 0].double(), known.log_prob(torch.arange(24)), rtol=1e-5, atol=1e-5)
    assert float(entropies[0, 0]) == pytest.approx(float(known.entropy()), rel=1e-5)
    everything = torch.distributions.Categorical(logits=logits.double() / 1.5)
    assert not torch.allclose(known.log_prob(torch.arange(24)), everything.log_prob(torch.arange(24)), atol=0.01)


def test_an_end_that_only_the_generation_settings_name_counts_as_known() -> None:
    model = tiny.model("llama", vocab_size=40)
    model.generation_config.eos_token_id = [30, tiny.EOS]
    assert finish_loading(model, tiny.word_tokenizer(), "padded").vocabulary == 31


def test_an_untied_t5_keeps_its_matrix_through_a_folder(tmp_path: Path) -> None:
    model = t5_untied()
    model.save_pretrained(tmp_path)
    closing_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(ModelConfig(policy=str(tmp_path), dtype="float32", device="cpu"))
    with torch.no_grad():
        before = shared(t5_untied()).logprobs(batches()[0])[0]
        assert torch.equal(SharedBase(loaded).logprobs(batches()[0])[0], before)
        plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
        assert not torch.equal(plain.lm_head.weight, plain.shared.weight)
