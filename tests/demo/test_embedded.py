"""The embedded files themselves: they load, stay small, and behave as docs/demo.md says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from humanward import demo
from humanward.demo.recipe import corpus
from humanward.demo.recipe.evaluate import IDENTITY_SENTENCES, INSULTING_SENTENCES, auc_with_interval, roc_auc, scorer
from humanward.errors import InputError
from humanward.records import Prompt, read_jsonl

PLAIN = (
    "Have you seen the new film?",
    "I really liked the ending, it surprised me.",
    "Which team do you support?",
    "My sister plays the guitar in a band.",
    "That sounds great, let us meet on Friday.",
    "Thank you very much for your help!",
    "I think the remote control should be cheaper.",
    "Sorry, I did not understand you.",
)
DETECTORS = ("demo/detector", "demo/judge")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="'demo/poet' is no part of the embedded default; choose one of demo/policy"):
        demo.path("demo/poet")


def test_everything_together_is_at_most_40_megabytes() -> None:
    folder = Path(demo.__file__).parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc") <= 40 * 10**6


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_loads_without_remote_code(name: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(demo.path(name))
    tokenizer = AutoTokenizer.from_pretrained(demo.path(name))
    assert model.config.id2label == {0: "nothate", 1: "hate"}
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert len(tokenizer("word " * 500, truncation=True)["input_ids"]) == tokenizer.model_max_length


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_tells_insults_from_plain_talk_and_identity(name: str) -> None:
    score = scorer(demo.path(name))
    assert (score(INSULTING_SENTENCES) > 0).all()
    assert (score(PLAIN) < 0).all()
    assert (score(IDENTITY_SENTENCES) < 0).all()


@pytest.mark.parametrize("name", DETECTORS)
@torch.no_grad()
def test_padding_does_not_change_a_score(name: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(demo.path(name)).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.path(name))
    texts = ["you are an idiot", "what a lovely and rather long day it was for all of us in the park"]
    together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_prompts_are_distinct_across_splits_and_short() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.path("demo/policy"))
    records = {s: read_jsonl(demo.path("demo/prompts") / f"{s}.jsonl", Prompt) for s in ("train", "validation", "test")}
    everything = [record for split in records.values() for record in split]
    assert len({corpus.normalised(r.text) for r in everything}) == len({r.id for r in everything}) == len(everything)
    assert all(record.split == split for split, group in records.items() for record in group)
    assert len(records["test"]) >= 200
    assert max(len(ids) for ids in tokenizer([r.text for r in everything], add_special_tokens=False)["input_ids"]) <= 48


def test_policy_ends_its_turns() -> None:
    model = AutoModelForCausalLM.from_pretrained(demo.path("demo/policy"), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.path("demo/policy"))
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer([head] * 64, add_special_tokens=False, return_tensors="pt")
    torch.manual_seed(0)
    output = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=48)
    ended = (output[:, inputs["input_ids"].shape[1] :] == tokenizer.eos_token_id).any(1)
    assert ended.float().mean() >= 0.75  # the true rate is above .9: fewer than 48 of 64 has probability below 1e-3


def test_recorded_metrics_meet_what_is_promised() -> None:
    metrics = json.loads((Path(demo.__file__).parent / "metrics.json").read_text())
    for name in ("detector", "judge"):
        rates = metrics["detectors"][name]["false_positives"]
        assert all(check["rate"] < 0.02 for check in rates.values())
    assert metrics["prompts"]["test"]["judge"]["mean"] >= 0.10


def test_area_under_the_curve_by_hand() -> None:
    # pairs (positive, negative): 3>1, 3>2, 2>1 win, 2=2 counts half: 3.5 of 4
    assert roc_auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == 0.875


def test_interval_of_a_perfect_ranking_is_a_point() -> None:
    assert auc_with_interval(np.array([2.0, 3.0]), np.array([0.0, 1.0]), draws=20)["ci95"] == [1.0, 1.0]
