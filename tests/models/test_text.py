"""Prompts and responses as text: chat templates, plain models, ends and limits."""

from __future__ import annotations

import pytest
import torch
from models import tiny

from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.loading import finish_loading
from humanward.records import Message, Prompt

CHAT = Prompt("c", "w3", (Message("user", "w1"), Message("assistant", "w2"), Message("user", "w3")))


def words(base: SharedBase, prompt: Prompt) -> str:
    return base.tokenizer.decode(base.prompt_ids(prompt))


def test_a_chat_template_renders_the_turns() -> None:
    base = tiny.shared_base(tokenizer=tiny.word_tokenizer(24, chat=True, stops=("user", "assistant", "system")))
    assert words(base, CHAT) == "user w1 assistant w2 user w3"
    assert words(base, Prompt("p", "w4")) == "user w4"


def test_a_system_prompt_goes_first_unless_there_is_one() -> None:
    tokenizer = tiny.word_tokenizer(24, chat=True, stops=("user", "assistant", "system"))
    base = tiny.shared_base(tokenizer=tokenizer, system_prompt="w9")
    assert words(base, Prompt("p", "w4")) == "system w9 user w4"
    own = Prompt("p", "w4", (Message("system", "w8"), Message("user", "w4")))
    assert words(base, own) == "system w8 user w4"


def test_without_a_template_a_prompt_is_plain_text_and_a_chat_is_titled() -> None:
    base = tiny.shared_base(
        "llama", tokenizer=tiny.byte_tokenizer(), vocab_size=258, pad_token_id=256, eos_token_id=257
    )
    assert words(base, Prompt("p", "Once upon")) == "Once upon"
    assert words(base, Prompt("p", "b", (Message("user", "a"), Message("assistant", "x"), Message("user", "b")))) == (
        "Human: a\n\nAssistant: x\n\nHuman: b\n\nAssistant:"
    )


def test_an_end_token_that_the_tokenizer_appends_is_taken_off_a_prompt() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny.word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", tiny.EOS)])
    assert tokenizer("w1 w2")["input_ids"] == [1, 2, tiny.EOS]
    causal = tiny.shared_base("llama", tokenizer=tokenizer)
    assert causal.prompt_ids(Prompt("p", "w1 w2")) == [1, 2]
    # An encoder was trained to read it.
    assert tiny.shared_base("t5-tied", tokenizer=tokenizer).prompt_ids(Prompt("p", "w1 w2")) == [1, 2, tiny.EOS]
    assert causal.response_ids("w3") == [3, tiny.EOS]


def test_an_empty_prompt_still_has_a_token_to_continue_from() -> None:
    assert tiny.shared_base().prompt_ids(Prompt("p", "")) == [tiny.EOS]


def test_responses_are_closed_when_they_ended() -> None:
    base = tiny.shared_base()
    assert base.response_ids("w1 w2") == [1, 2, tiny.EOS]
    assert base.response_ids("w1 w2", ended=False) == [1, 2]
    assert base.response_text([1, 2, tiny.EOS]) == "w1 w2"
    assert base.response_text([tiny.PAD, 1, tiny.EOS]) == "w1"


def test_long_prompts_lose_their_beginning_and_long_responses_their_end() -> None:
    base = tiny.shared_base()
    tokens = base.encode([Prompt("p", "w1 w2 w3 w4 w5")], ["w6 w7"], limit=6)
    assert tokens.prompt_ids.tolist() == [[3, 4, 5]]
    assert tokens.response_ids.tolist() == [[6, 7, tiny.EOS]]
    tokens = base.encode([Prompt("p", "w1 w2 w3")], ["w6 w7 w8 w9"], limit=4)
    assert tokens.prompt_ids.tolist() == [[3]]
    assert tokens.response_ids.tolist() == [[6, 7, 8]]


def test_encoding_pads_a_batch() -> None:
    base = tiny.shared_base()
    tokens = base.encode([Prompt("a", "w1"), Prompt("b", "w2 w3")], ["w4", "w5 w6"], ended=[True, False])
    assert tokens.prompt_ids.tolist() == [[tiny.PAD, 1], [2, 3]]
    assert tokens.response_ids.tolist() == [[4, tiny.EOS], [5, 6]]
    assert bool(tokens.response_mask.all())


def test_a_tokenizer_without_padding_is_noticed_and_its_end_is_still_learnt() -> None:
    base = tiny.shared_base(tokenizer=tiny.word_tokenizer(pad=False))
    assert base.pad_id == tiny.EOS
    assert any(f"no padding token; token {tiny.EOS} fills" in line for line in base.notices)
    tokens = base.encode([Prompt("a", "w1"), Prompt("b", "w2 w3")], ["w4", "w5 w6"])
    assert tokens.response_ids.tolist() == [[4, tiny.EOS, tiny.EOS], [5, 6, tiny.EOS]]
    assert tokens.response_mask.tolist() == [[True, True, False], [True, True, True]]
    assert tokens.prompt_mask.tolist() == [[False, True], [True, True]]
    other = tiny.shared_base()
    with torch.no_grad():
        ours = base.logprobs(tokens)[0]
        theirs = other.logprobs(other.encode([Prompt("a", "w1"), Prompt("b", "w2 w3")], ["w4", "w5 w6"]))[0]
    torch.testing.assert_close(ours, theirs)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    model = tiny.model("llama", eos_token_id=None)
    with pytest.raises(InputError, match=r"tiny: its tokenizer has no end-of-sequence token.*set eos_token"):
        finish_loading(model, tiny.word_tokenizer(eos=False), "tiny")


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="has 30 tokens but the model only 24 embeddings"):
        finish_loading(tiny.model("llama"), tiny.word_tokenizer(30), "tiny")


def test_a_model_without_a_language_model_head_is_refused() -> None:
    trunk = tiny.model("llama").model
    with pytest.raises(InputError, match="tiny: has no language-model head; name a causal"):
        SharedBase(finish_loading(trunk, tiny.word_tokenizer(), "tiny"))


def test_loading_freezes_the_model_and_turns_dropout_off() -> None:
    base = tiny.shared_base("gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    assert not any(p.requires_grad for p in base.model.parameters())
    with torch.no_grad():
        first, second = base.logprobs(tiny.tokens())[0], base.logprobs(tiny.tokens())[0]
    assert torch.equal(first, second)
    assert base.context == 64
