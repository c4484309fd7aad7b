"""Ready-made classifiers as reward and as judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import tiny
from transformers import AutoModelForSequenceClassification

from humanward.errors import InputError
from humanward.records import Message, Prompt
from humanward.reward.sources import Classifier, Gold

LABELS = tiny.LABELS
save = tiny.save_classifier
LONG = " ".join(f"w{i % 18}" for i in range(40))
TEXTS = ["w1", "w2 w3 w4 w5 w6", "w7 w8", "w9 w10 w11", "w1 w1 w1 w1"]


def make(folder: Path, label: str | int = "hate", **options: Any) -> Classifier:
    return Classifier(str(folder), label, device="cpu", **options)


@torch.no_grad()
def plain_logits(folder: Path, text: str, limit: int) -> torch.Tensor:
    """One text through transformers alone, cut by its own tokenizer."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
    return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[0]


def test_a_label_is_found_by_name_or_index(tmp_path: Path) -> None:
    save(tmp_path)
    for index, name in LABELS.items():
        expected = plain_logits(tmp_path, "w1 w2", 18)[index]
        for label in (name, name.upper(), index):
            assert float(make(tmp_path, label).score_texts(["w1 w2"])) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("label", ["toxic", 3])
def test_an_unknown_label_lists_the_labels(tmp_path: Path, label: str | int) -> None:
    with pytest.raises(InputError, match=rf"has no label {label!r}; its labels are nothate, hate, Unsure"):
        make(save(tmp_path), label)


def test_logit_and_probability(tmp_path: Path) -> None:
    save(tmp_path)
    for text in TEXTS:
        logits = plain_logits(tmp_path, text, 18)
        assert float(make(tmp_path).score_texts([text])) == pytest.approx(float(logits[1]), rel=1e-4)
        probability = float(logits.softmax(-1)[1])
        assert float(make(tmp_path, output="probability").score_texts([text])) == pytest.approx(probability, rel=1e-4)


def test_independent_labels_have_a_sigmoid_each(tmp_path: Path) -> None:
    save(tmp_path, problem_type="multi_label_classification")
    expected = float(plain_logits(tmp_path, "w1", 18)[1].sigmoid())
    assert float(make(tmp_path, output="probability").score_texts(["w1"])) == pytest.approx(expected, rel=1e-4)


def test_a_single_label_is_a_sigmoid(tmp_path: Path) -> None:
    save(tmp_path, labels={0: "toxicity"})
    expected = float(plain_logits(tmp_path, "w1", 18)[0].sigmoid())
    assert float(make(tmp_path, "toxicity", output="probability").score_texts(["w1"])) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_order_and_batching_change_nothing(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind)
    together, alone = make(tmp_path), make(tmp_path, batch_size=1)
    plain = alone.score_texts(TEXTS)
    torch.testing.assert_close(together.score_texts(TEXTS), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.score_texts(TEXTS[::-1]).flip(0), plain, rtol=1e-4, atol=1e-5)
    expected = torch.stack([plain_logits(tmp_path, text, 16)[1] for text in TEXTS])
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "limit"), [("bert", 18), ("roberta", 16)])
def test_long_texts_are_cut_as_their_tokenizer_cuts_them_and_counted(tmp_path: Path, kind: str, limit: int) -> None:
    """RoBERTa's positions begin after its padding index, so two fewer fit; the closing token stays."""
    save(tmp_path, kind)
    classifier = make(tmp_path)
    assert classifier.max_tokens == limit
    scores = classifier.score_texts(["w1", LONG, LONG])
    assert classifier.truncated == 2
    assert float(scores[1]) == pytest.approx(float(plain_logits(tmp_path, LONG, limit)[1]), rel=1e-4)
    assert float(scores[1]) == float(scores[2])
    short = make(tmp_path, max_tokens=4)
    assert float(short.score_texts([LONG])) == pytest.approx(float(plain_logits(tmp_path, LONG, 4)[1]), rel=1e-4)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_an_empty_text_has_a_score(tmp_path: Path, kind: str) -> None:
    scores = make(save(tmp_path, kind)).score_texts(["", "w1"])
    assert bool(torch.isfinite(scores).all())
    assert make(tmp_path).score_texts([]).shape == (0,)


def test_an_empty_text_without_closing_tokens_has_a_score(tmp_path: Path) -> None:
    save(tmp_path)
    tiny.word_tokenizer().save_pretrained(tmp_path)
    assert bool(torch.isfinite(make(tmp_path).score_texts([""])).all())


def test_what_is_read(tmp_path: Path) -> None:
    save(tmp_path)
    prompt = Prompt("p", "w3", (Message("user", "w9"), Message("assistant", "w8"), Message("user", "w3")))
    assert float(make(tmp_path).score([prompt], ["w4"])) == pytest.approx(float(plain_logits(tmp_path, "w4", 18)[1]))
    both = make(tmp_path, text="prompt+response").score([prompt], ["w4"])
    assert float(both) == pytest.approx(float(plain_logits(tmp_path, "w3\nw4", 18)[1]), rel=1e-4)


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[int] = []
    make(save(tmp_path), batch_size=2).score_texts(TEXTS, progress=seen.append)
    assert seen == [2, 4, 5]


def test_a_model_without_a_classification_head_is_refused(tmp_path: Path) -> None:
    """transformers would give it a random one."""
    tiny.save(tmp_path, "gpt2")
    with pytest.raises(InputError, match=r"its files lack 1 of the model's weights \(score\.weight\)") as caught:
        make(tmp_path, 0)
    assert "\n" not in str(caught.value)


def test_a_missing_classifier_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        make(tmp_path / "absent")
    with pytest.raises(InputError, match="cannot load the classifier"):
        make(tmp_path)


def test_gold_dislikes_answers_of_too_few_words() -> None:
    class Flat:
        name = "flat"

        def score(self, prompts: Any, responses: Any) -> torch.Tensor:
            return torch.full((len(responses),), 0.9)

    gold = Gold(Flat(), short_words=3, short_penalty=0.2)
    scores = gold.score([], ["yes", "me too!", "that is fine", ""])
    assert torch.allclose(scores, torch.tensor([0.7, 0.7, 0.9, 0.7]))
    assert gold.name == "flat"
