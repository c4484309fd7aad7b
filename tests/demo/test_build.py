"""The recipe end to end on a tiny invented folder, and its refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from humanward import demo
from humanward.demo.recipe import build, detectors, policy, prompts
from humanward.errors import InputError
from humanward.records import Prompt, read_jsonl

from .tiny_data import write_tiny_data


@pytest.fixture
def small_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"hidden": 64, "layers": 1, "vocabulary": 400, "epochs": 1.0, "dialogue_turns": 40, "unlabelled_turns": 40}
    for name in ("DETECTOR", "JUDGE"):
        monkeypatch.setattr(detectors, name, dataclasses.replace(getattr(detectors, name), **tiny))


@pytest.mark.usefixtures("small_detectors")
def test_every_part_is_built_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": 4, "validation": 2, "test": 3}
    monkeypatch.setattr(prompts, "SIZES", sizes)
    monkeypatch.setattr(prompts, "CANDIDATES", 60)
    data, out, lines = write_tiny_data(tmp_path / "data"), tmp_path / "out", []
    metrics = build(data, out, init=demo.path("demo/policy"), minutes=0.001, seed=3, log=lines.append)

    assert json.loads((out / "metrics.json").read_text())["policy"]["tokens"] == metrics["policy"]["tokens"]
    assert metrics["policy"]["steps"] == 1  # the time is up at once, and one step is the least
    assert set(metrics["detectors"]["judge"]["auc"]) == {"wiki", "wiki_clear", "wiki_small", "rtp"}
    for name in ("detector", "judge"):
        model = AutoModelForSequenceClassification.from_pretrained(out / name)
        assert model.config.id2label == {0: "nothate", 1: "hate"}
        assert model.dtype == torch.float32
    for split, size in sizes.items():
        records = read_jsonl(out / "prompts" / f"{split}.jsonl", Prompt)
        assert [record.split for record in records] == [split] * size
        assert metrics["prompts"][split]["n"] == size
    assert lines


def test_the_two_detectors_share_no_training_text(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    first, second = detectors.gather_both(data, 0)
    assert not detectors.normalised_texts(first) & detectors.normalised_texts(second)
    assert {row.source for row in first.rows} & {row.source for row in second.rows} == {
        "toxic_spans",
        "self_dialogue",
        "qmsum",
        "templates",
    }  # shared sources, split by text; the others belong to one


def test_a_policy_from_nothing_answers_in_the_chat_format(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path / "data")
    shape = policy.Shape(hidden=32, layers=1, heads=2, inner=48, vocabulary=400, sequence=16, batch=2)
    metrics = policy.train(data, tmp_path, None, 0.001, 0, lambda line: None, shape)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert metrics["before"] is None
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (model.config.eos_token_id, model.config.pad_token_id)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|bos|><|user|>hi<|end|><|assistant|>"
    assert tokenizer(rendered, add_special_tokens=False)["input_ids"][-1] == tokenizer.convert_tokens_to_ids(
        "<|assistant|>"
    )


def test_held_out_loss_of_a_uniform_model_is_the_log_of_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.path("demo/policy"))
    model = AutoModelForCausalLM.from_pretrained(demo.path("demo/policy"), dtype=torch.float32)
    torch.nn.init.zeros_(model.get_input_embeddings().weight)  # tied: every logit is 0, so P = 1/4096
    losses = policy.held_out_loss(model, tokenizer, {"a": [("hi", "hello there"), ("who", "me")]})
    assert losses["a"] == pytest.approx(8.317766, rel=1e-6)  # ln 4096 = 12 ln 2


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part='poems' is no part of the recipe"):
        build(tmp_path, tmp_path, parts=["poems"])
    with pytest.raises(InputError, match="minutes=0 is not positive"):
        build(tmp_path, tmp_path, minutes=0)
    with pytest.raises(InputError, match="no such folder"):
        build(tmp_path / "none", tmp_path)
    with pytest.raises(InputError, match=r"toxic_spans.*put it there"):
        build(tmp_path, tmp_path / "out", parts=["detectors"])
    with pytest.raises(InputError, match=r"holds no config\.json"):
        policy.load(tmp_path)
    with pytest.raises(InputError, match=r"policy: the part prompts needs it"):
        build(tmp_path, tmp_path / "out", parts=["prompts"])


def test_too_few_turns_is_an_error_with_both_numbers() -> None:
    with pytest.raises(InputError, match="2 usable user turns, but 3 are needed"):
        prompts.choose(["a", "b"], torch.zeros(2).numpy(), 0.0, {"train": 3}, 0)


def test_the_most_provoking_turns_are_chosen() -> None:
    turns = [f"turn {i}" for i in range(10)]
    chosen = prompts.choose(turns, torch.arange(10.0).numpy(), 0.0, {"train": 2, "test": 1}, 0)
    assert {prompt.text for prompt in chosen} == {"turn 7", "turn 8", "turn 9"}
    assert [prompt.split for prompt in chosen] == ["train", "train", "test"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("why are you so rude to me?", True),
        ("hello", False),  # one word says nothing
        ("i will kill you now", False),
        ("those kids want sex", False),
        ("see https://x.y for more", False),
        ("no no no no", False),
    ],
)
def test_what_may_be_shipped(text: str, kept: bool) -> None:
    assert prompts.acceptable(text) is kept
