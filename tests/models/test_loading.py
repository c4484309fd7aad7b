"""Whatever is wrong with a model's name or folder is one InputError line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import tiny

from humanward.config import ModelConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.loading import dtype_notice, load_model, pick_device, pick_dtype, resolve


def load(policy: str | Path):
    return load_model(ModelConfig(policy=str(policy), dtype="float32", device="cpu"))


def problem(policy: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        load(policy)
    assert "\n" not in str(caught.value)
    assert str(policy) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5-tied", "t5-untied"])
def test_a_folder_loads_as_it_was_saved(name: str, tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path, name))
    assert loaded.stop_ids == (tiny.EOS,)
    assert loaded.pad_id == tiny.PAD
    with torch.no_grad():
        ours = SharedBase(loaded).logprobs(tiny.tokens())[0]
        assert torch.equal(ours, tiny.shared_base(name).logprobs(tiny.tokens())[0])


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no such folder" in problem(tmp_path / "absent")


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("x")
    assert "is a file" in problem(tmp_path / "weights")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "check that the folder holds config.json" in problem(tmp_path)


def test_a_hub_id_without_network() -> None:
    assert "check the spelling and the network" in problem("nobody/no-such-model-here")


def test_a_name_that_is_no_hub_id() -> None:
    assert "not a hub id (owner/name)" in problem("a/b/c")
    with pytest.raises(InputError, match="no such folder"):
        resolve("~/surely/not/here")


def test_weights_that_are_absent(tmp_path: Path) -> None:
    tiny.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "cannot load the model" in problem(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    tiny.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny.model("llama").state_dict(), tmp_path / "pytorch_model.bin")
    assert "safetensors" in problem(tmp_path)


def test_weights_that_are_damaged(tmp_path: Path) -> None:
    tiny.save(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cannot load the model" in problem(tmp_path)
    file.write_bytes(b"\x00" * 64)
    assert "cannot load the model" in problem(tmp_path)


def test_weights_that_are_incomplete(tmp_path: Path) -> None:
    """A folder without some of the model's weights would otherwise start from random ones."""
    from safetensors.torch import load_file, save_file

    tiny.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = problem(tmp_path)
    assert "lack 1 of the model's weights (model.layers.1.mlp.down_proj.weight)" in message


def test_a_damaged_config(tmp_path: Path) -> None:
    tiny.save(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot load the model" in problem(tmp_path)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    tiny.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "martian", "architectures": ["Martian"]}')
    assert "cannot load the model" in problem(tmp_path)


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    tiny.model("llama").save_pretrained(tmp_path)
    assert "cannot load the tokenizer" in problem(tmp_path)


def test_devices_and_precisions() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match=r"model.device = 'abacus': not a device"):
        pick_device("abacus")
    if not torch.cuda.is_available():
        assert pick_device("auto") == torch.device("cpu")
        with pytest.raises(InputError, match="this machine shows no CUDA device"):
            pick_device("cuda")
    assert pick_dtype("float32", torch.device("cpu")) == torch.float32
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert pick_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_a_device_without_bfloat16_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for fast, words in ((True, None), (False, "this processor has no bfloat16 instructions")):
        monkeypatch.setattr("humanward.models.loading.fast_bf16_cpu", lambda fast=fast: fast)
        assert pick_dtype("bfloat16", cpu) == torch.bfloat16
        said = dtype_notice("bfloat16", cpu)
        assert said is None if words is None else words in (said or "")
        assert dtype_notice("float32", cpu) is None
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        assert pick_dtype("bfloat16", cuda) == pick_dtype("auto", cuda) == dtype
        assert pick_dtype("float32", cuda) == torch.float32
    assert "cuda has no bfloat16; float32 is used instead" in (dtype_notice("bfloat16", cuda) or "")


def test_the_notice_comes_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humanward.models.loading.fast_bf16_cpu", lambda: False)
    loaded = load_model(ModelConfig(policy=str(tiny.save(tmp_path)), dtype="bfloat16"))
    assert any("no bfloat16 instructions" in line for line in loaded.notices)
