"""Ready-made classifiers as reward and as judge."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import tiny
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from humanward.errors import InputError
from humanward.records import Message, Prompt
from humanward.reward.sources import Classifier, Gold

LABELS = tiny.LABELS
save = tiny.save_classifier
LONG = " ".join(f"w{i % 18}" for i in range(40))
TEXTS = ["w1", "w2 w3 w4 w5 w6", "w7 w8", "w9 w10 w11", "w1 w1 w1 w1"]


def make(folder: Path, label: str | int | None = "hate", **options: Any) -> Classifier:
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


# --- how it reads ----------------------------------------------------------------------------------------------------


def test_the_left_side_is_cut_where_that_is_asked_for(tmp_path: Path) -> None:
    """Five words and a closing token against a limit of 4: the last three words are left."""
    save(tmp_path)
    left = make(tmp_path, max_tokens=4, truncation="left")
    text = "w1 w2 w3 w4 w5"
    assert float(left.score_texts([text])) == pytest.approx(float(plain_logits(tmp_path, "w3 w4 w5", 18)[1]), rel=1e-4)
    right = make(tmp_path, max_tokens=4)
    assert float(right.score_texts([text])) == pytest.approx(float(plain_logits(tmp_path, "w1 w2 w3", 18)[1]), rel=1e-4)
    assert (left.truncated, right.truncated) == (1, 1)


def test_another_tokenizer(tmp_path: Path) -> None:
    """Its words stand in the other order, so w0 of one is w19 of the other."""
    save(tmp_path / "model")
    words = [f"w{i}" for i in reversed(range(tiny.VOCABULARY - 3))]
    other = tiny.word_tokenizer()
    vocabulary = {word: i for i, word in enumerate([*words, "<pad>", "</s>", "<unk>"])}
    state = json.loads(other.backend_tokenizer.to_str())
    state["model"]["vocab"] = vocabulary
    state["added_tokens"] = []
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(tmp_path / "other")
    plain = tiny.word_tokenizer()
    plain.save_pretrained(tmp_path / "model")
    swapped = make(tmp_path / "model", tokenizer=str(tmp_path / "other")).score_texts(["w0 w1"])
    assert float(swapped) == pytest.approx(float(plain_logits(tmp_path / "model", "w20 w19", 18)[1]), rel=1e-4)


def test_another_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model")
    tiny.word_tokenizer(30).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"other: has 30 tokens and .*model only 24 embeddings"):
        make(tmp_path / "model", tokenizer=str(tmp_path / "other"))


def test_two_segments(tmp_path: Path) -> None:
    """BERT tells prompt and response apart by token types; its tokenizer closes both."""
    save(tmp_path)
    tokenizer = tiny.word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "$A </s>", "$A </s> $B:1 </s>:1", special_tokens=[("</s>", tiny.EOS)]
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path)
    pair = make(tmp_path, text="prompt+response", template="pair")
    found = pair.score([Prompt("p", "w3"), Prompt("p", "w1")], ["w4", "w2 w5"])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[3, tiny.EOS, 4, tiny.EOS]])
    with torch.no_grad():
        expected = model(input_ids=ids, token_type_ids=torch.tensor([[0, 0, 1, 1]])).logits[0, 1]
        one_segment = model(input_ids=ids).logits[0, 1]
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-4)
    assert abs(float(expected - one_segment)) > 1e-3


def test_a_chat_template(tmp_path: Path) -> None:
    save(tmp_path, "gpt2")
    tiny.word_tokenizer(chat=True).save_pretrained(tmp_path)
    chat = Prompt("p", "w3", (Message("user", "w9"), Message("assistant", "w8"), Message("user", "w3")))
    both = make(tmp_path, text="prompt+response", template="chat").score([chat], ["w4"])
    text = "user w9 assistant w8 user w3 assistant w4 "
    assert float(both) == pytest.approx(float(plain_logits(tmp_path, text, 18)[1]), rel=1e-4)
    alone = make(tmp_path, template="chat").score([chat], ["w4"])
    assert float(alone) == pytest.approx(float(plain_logits(tmp_path, "user w4 ", 18)[1]), rel=1e-4)


def test_a_chat_template_that_is_not_there_or_refuses(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(InputError, match="has no chat template; set template = 'plain'"):
        make(tmp_path, template="chat")
    tokenizer = tiny.word_tokenizer(chat=True)
    tokenizer.chat_template = "{{ raise_exception('no assistants here') }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"refuses the turns user, assistant \(no assistants here\)"):
        make(tmp_path, template="chat", text="prompt+response").score([Prompt("p", "w3")], ["w4"])


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_a_model_with_one_output_needs_no_label(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind, labels={0: "LABEL_0"}, problem_type="regression")
    expected = float(plain_logits(tmp_path, "w1 w2", 16)[0])
    for label in (None, 0, -1, "LABEL_0", "0"):
        assert float(make(tmp_path, label).score_texts(["w1 w2"])) == pytest.approx(expected, rel=1e-4)
    assert float(make(tmp_path, None, output="probability").score_texts(["w1 w2"])) == pytest.approx(
        1 / (1 + math.exp(-expected)), rel=1e-4
    )
    with pytest.raises(InputError, match=r"has no label 'nothate'; its only output is LABEL_0: set label = 0"):
        make(tmp_path, "nothate")


def test_several_labels_need_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 3 labels, nothate, hate, Unsure; say with label which"):
        make(save(tmp_path), None)


def test_labels_without_names_are_numbers(tmp_path: Path) -> None:
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_labels": 3}))
    expected = float(plain_logits(tmp_path, "w1", 18)[2])
    for label in (2, "2", "LABEL_2"):
        assert float(make(tmp_path, label).score_texts(["w1"])) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="its labels are LABEL_0, LABEL_1, LABEL_2"):
        make(tmp_path, "hate")


def test_more_tokens_than_it_takes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_tokens = 19: it reads 18 tokens at most"):
        make(save(tmp_path), max_tokens=19)


def test_a_limit_without_room_for_a_text_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    tokenizer = tiny.word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("</s> $A </s>", special_tokens=[("</s>", tiny.EOS)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="max_tokens = 2 leaves no room beside the 2 tokens"):
        make(tmp_path, max_tokens=2)


def test_weights_in_bfloat16(tmp_path: Path) -> None:
    save(tmp_path)
    coarse = make(tmp_path, dtype="bfloat16")
    assert coarse.model.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.score_texts(TEXTS), make(tmp_path).score_texts(TEXTS), rtol=0.1, atol=0.3)


def test_a_model_that_padding_disturbs_is_given_texts_of_one_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As XLNet reads the last place of a row: the same scores as alone, one forward for each length."""
    save(tmp_path)
    forward = BertForSequenceClassification.forward

    def careless(self, input_ids, attention_mask=None, **inputs):
        return forward(self, input_ids=input_ids)

    monkeypatch.setattr(BertForSequenceClassification, "forward", careless)
    classifier = make(tmp_path)
    assert not classifier._pads
    alone = torch.cat([make(tmp_path, batch_size=1).score_texts([text]) for text in TEXTS])
    torch.testing.assert_close(classifier.score_texts(TEXTS), alone, rtol=1e-4, atol=1e-5)


ARCHITECTURES = {
    "DebertaV2Config": {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    "BartConfig": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "decoder_start_token_id": tiny.EOS},
    "T5Config": {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
        "decoder_start_token_id": tiny.PAD,
    },
    "LlamaConfig": {"num_key_value_heads": 1},
    "XLNetConfig": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_architecture_scores_in_batches_as_alone(tmp_path: Path, name: str) -> None:
    """XLNet reads the last place of a row, which padding would take."""
    shared = {"vocab_size": tiny.VOCABULARY, "pad_token_id": tiny.PAD, "eos_token_id": tiny.EOS, "num_labels": 3}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    if name in ("T5Config", "XLNetConfig"):
        sizes = {}
    elif name == "BartConfig":
        sizes = {key: value for key, value in sizes.items() if "coder" in key}
    config = getattr(transformers, name)(**shared, **sizes, **ARCHITECTURES[name])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path)
    tokenizer = tiny.word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", tiny.EOS)])
    tokenizer.save_pretrained(tmp_path)
    together = make(tmp_path, 1).score_texts(TEXTS)
    with torch.no_grad():
        alone = [model.eval()(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, 1] for text in TEXTS]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)
