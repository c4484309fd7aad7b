"""Exported reward models: transformers alone loads them, and they score as they did here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import tiny
from reward.test_reward_model import LORA, preferences
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from humanward.config import ModelConfig, RewardConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.preferences import group_by_prompt
from humanward.reward.model import RewardEnsemble, RewardModel
from humanward.reward.training import train_reward_model
from humanward.serving.reward_export import export_reward_model

PAIRS = preferences(24, seed=1)


def trained(
    folder: Path, seed: int = 0, base: SharedBase | None = None, role: str = "reward", **changes
) -> RewardModel:
    base = base or SharedBase(load_model(ModelConfig(policy=str(folder), dtype="float32")))
    config = RewardConfig(
        **{"epochs": 1, "batch_size": 8, "learning_rate": 0.02, "rank": 4, "max_tokens_trained": 32, **changes}
    )
    return train_reward_model(base, group_by_prompt(PAIRS, criteria_together=True), config, LORA, seed=seed, role=role)


def scores_elsewhere(folder: Path, model: RewardModel) -> torch.Tensor:
    """By transformers alone, every answer by itself and in one padded batch, which must agree."""
    classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [
        tokenizer(pair.prompt.text).input_ids
        + tokenizer(pair.chosen, add_special_tokens=False).input_ids
        + [model.base.stop_ids[0]]
        for pair in PAIRS
    ]
    with torch.no_grad():
        alone = torch.cat([classifier(input_ids=torch.tensor([row])).logits[:, 0] for row in rows])
        batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
        together = classifier(**batch).logits[:, 0]
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    return alone


@pytest.mark.parametrize(
    ("name", "exact"), [("llama", False), ("gpt2", True), ("opt", True), ("neox", True), ("qwen3", False)]
)
def test_transformers_gives_the_same_scores(tmp_path: Path, name: str, exact: bool) -> None:
    model = trained(tiny.save(tmp_path / "base", name))
    model.temperature = 0.5
    model.save(tmp_path / "reward", {"accuracy": {"value": 0.9, "ci95": [0.8, 0.95], "n": 20}})
    written = export_reward_model(tmp_path / "reward", tmp_path / "out")
    ours = model.score([pair.prompt for pair in PAIRS], [pair.chosen for pair in PAIRS])
    theirs = scores_elsewhere(tmp_path / "out", model)
    torch.testing.assert_close(theirs + written["score_offset"], ours, rtol=1e-4, atol=1e-4)
    assert (written["score_offset"] == 0) == exact
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["score_offset"] == pytest.approx(written["score_offset"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "sigmoid((score A - score B) / 0.5)" in card
    assert "0.900" in card


def test_criteria_and_whole_models_are_exported_too(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "base")
    for name, changes in (("criteria", {"criteria": {"overall": 2.0}}), ("full", {"train": "full"})):
        model = trained(folder, **changes)
        model.save(tmp_path / name, {})
        written = export_reward_model(tmp_path / name, tmp_path / f"{name}-out")
        ours = model.score([pair.prompt for pair in PAIRS], [pair.chosen for pair in PAIRS])
        theirs = scores_elsewhere(tmp_path / f"{name}-out", model) + written["score_offset"]
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_a_pad_token_that_ends_answers_is_replaced(tmp_path: Path) -> None:
    """A classifier reads the last token that is no pad: with the end token as pad it would read the one before."""
    folder = tiny.save(tmp_path / "base", "gpt2", tokenizer=tiny.word_tokenizer(pad=False), pad_token_id=tiny.EOS)
    model = trained(folder)
    model.save(tmp_path / "reward", {})
    export_reward_model(tmp_path / "reward", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.pad_token_id not in model.base.stop_ids
    ours = model.score([pair.prompt for pair in PAIRS], [pair.chosen for pair in PAIRS])
    torch.testing.assert_close(scores_elsewhere(tmp_path / "out", model), ours, rtol=1e-4, atol=1e-4)


def test_a_member_of_an_ensemble_is_named(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "base")
    base = SharedBase(load_model(ModelConfig(policy=str(folder), dtype="float32")))
    members = [trained(folder, seed, base, role) for seed, role in ((0, "reward"), (1, "reward-2"))]
    RewardEnsemble(members).save(tmp_path / "reward", {})
    with pytest.raises(InputError, match="is an ensemble of 2; give --member 1 to 2"):
        export_reward_model(tmp_path / "reward", tmp_path / "out")
    with pytest.raises(InputError, match=r"--member 3: .* holds 2"):
        export_reward_model(tmp_path / "reward", tmp_path / "out", member=3)
    written = export_reward_model(tmp_path / "reward", tmp_path / "out", member=2)
    ours = members[1].score([pair.prompt for pair in PAIRS], [pair.chosen for pair in PAIRS])
    theirs = scores_elsewhere(tmp_path / "out", members[1]) + written["score_offset"]
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    model = trained(tiny.save(tmp_path / "base", "t5-tied"))
    model.save(tmp_path / "reward", {})
    with pytest.raises(InputError, match="is on an encoder-decoder"):
        export_reward_model(tmp_path / "reward", tmp_path / "out")
    facts = json.loads((tmp_path / "reward" / "reward_model.json").read_text())
    (tmp_path / "reward" / "reward_model.json").write_text(json.dumps({**facts, "quantization": "nf4"}))
    with pytest.raises(InputError, match="was trained on a nf4 base"):
        export_reward_model(tmp_path / "reward", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(InputError, match="is there already"):
        export_reward_model(tmp_path / "reward", tmp_path / "full")
    with pytest.raises(InputError, match=r"holds no reward_model\.json"):
        export_reward_model(tmp_path / "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()
