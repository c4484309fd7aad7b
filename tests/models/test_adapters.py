"""Adapters that do not belong: to the base, to its tokenizer, or to safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from models import tiny
from safetensors.torch import load_file, save_file

from humanward.config import LoraConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The policy of a Llama with two layers, as PEFT saves it."""
    folder = tmp_path / "adapter"
    tiny.with_policy(tiny.shared_base("llama"), moved=0.1).save_role("policy", folder)
    return folder


def refusal(base: SharedBase, folder: Path) -> str:
    with pytest.raises(InputError) as caught, tiny.quiet("Found missing adapter keys"):
        base.load_role("policy", folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_loads_where_it_belongs(adapter: Path) -> None:
    base = tiny.shared_base("llama")
    base.load_role("policy", adapter)
    tokens = tiny.tokens()
    with torch.no_grad(), base.role("policy"):
        expected = tiny.with_policy(tiny.shared_base("llama"), moved=0.1)
        with expected.role("policy"):
            assert torch.equal(base.logprobs(tokens)[0], expected.logprobs(tokens)[0])


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("gpt2", {}, "does not fit tiny-gpt2"),  # no such modules
        ("t5-untied", {}, "does not fit tiny-t5-untied"),
        ("llama", {"intermediate_size": 48}, "does not fit tiny-llama"),  # other widths
        ("llama", {"num_hidden_layers": 1}, "does not fit tiny-llama, which has no place for 14 of the weights"),
    ],
)
def test_another_base_is_refused_and_both_are_named(adapter: Path, name: str, changes: dict, words: str) -> None:
    """Of equal widths PEFT would load what fits and leave the rest out, or at random, without a word."""
    message = refusal(tiny.shared_base(name, **changes), adapter)
    assert f"{adapter}: was trained on tiny-llama and " in message
    assert words in message


def test_a_base_of_another_name_is_said(adapter: Path) -> None:
    base = tiny.shared_base("llama")
    base.start_from(adapter)
    assert base.notices == []
    other = tiny.shared_base("llama", num_hidden_layers=3)
    other.name = "owner/larger"
    other.start_from(adapter)
    assert other.notices == [
        f"{adapter} was trained on tiny-llama and is put on owner/larger; only the same weights give the same answers"
    ]


def test_a_missing_matrix_is_refused(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(key for key in sorted(weights) if "lora_B" in key)
    del weights[name]
    save_file(weights, adapter / "adapter_model.safetensors")
    assert f"also has 1 of the weights ({name})" in refusal(tiny.shared_base("llama"), adapter)


def test_target_modules_that_match_nothing_are_refused() -> None:
    base = tiny.shared_base("t5-untied")
    with pytest.raises(InputError, match=r"lora.target_modules = \('q_proj',\): matches nothing in tiny-t5-untied"):
        base.add_role("policy", LoraConfig(target_modules=("q_proj",)))


def test_a_pickle_is_refused(adapter: Path) -> None:
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    message = refusal(tiny.shared_base("llama"), adapter)
    assert "adapter_model.bin, a pickle" in message
    assert "save_pretrained(NEW_FOLDER)" in message


def test_a_damaged_configuration_is_refused(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")
    assert "adapter_config.json: damaged" in refusal(tiny.shared_base("llama"), adapter)


def test_the_tokenizer_beside_an_adapter_has_to_be_the_bases(adapter: Path, tmp_path: Path) -> None:
    """TRL and others save it there. Another padding token changes no id's meaning; other words do."""
    tiny.word_tokenizer(pad=False).save_pretrained(adapter)
    tiny.shared_base("llama").load_role("policy", adapter)
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    tiny.word_tokenizer(stops=("stop",)).save_pretrained(other)
    message = refusal(tiny.shared_base("llama"), other)
    assert f"{other}: was trained with another tokenizer (24 tokens) than that of tiny-llama (24)" in message
