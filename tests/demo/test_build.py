"""The recipe end to end on a tiny invented folder, and its refusals."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from humanward import demo
from humanward.demo.recipe import build, detectors, policy, prompts, written
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
    for module in (prompts, written):
        monkeypatch.setattr(module, "SIZES", sizes)
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


def test_written_prompts_share_no_pattern_between_splits() -> None:
    found = written.written_prompts()
    by_split = {split: [p.text for p in found if p.split == split] for split in written.SIZES}
    assert {split: len(texts) for split, texts in by_split.items()} == {"train": 600, "validation": 100, "test": 300}
    assert len({p.text for p in found}) == len({p.id for p in found}) == 1000
    assert written.written_prompts() == found
    # "Get lost, {rude}." serves one split only, whatever the word.
    assert sum(any(t.startswith("Get lost,") for t in texts) for texts in by_split.values()) == 1
    assert not any("{" in text or " a i" in text for texts in by_split.values() for text in texts)


def test_too_few_patterns_are_an_error() -> None:
    with pytest.raises(ValueError, match="1 patterns give only 1 of 2 prompts"):
        written.fill_evenly(["Hello."], 2, random.Random(0))
