"""benchmarks/ppo_speed.py and benchmarks/gpu_speed.py: their arithmetic by hand, and both run on the smallest shape."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for folder in (BENCHMARKS, BENCHMARKS / "speed"):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module("gpu_speed")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for folder in (BENCHMARKS, BENCHMARKS / "speed"):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module("ppo_speed")


def test_operations_and_bytes_by_hand(gpu: ModuleType) -> None:
    """micro: a layer has 2 * 64^2 + 2 * 64 * 32 + 3 * 64 * 128 = 36,864 weights, two of them 73,728; the head 32,768.

    2 prompts of 3 + 4 tokens, one epoch: 14 tokens * (4 * 73,728 + 3 * 2 * 2 * 64 * 7) + 8 * 4 * 32,768. Cache: 2 bytes
    * keys and values * 2 layers * 32 = 256 bytes a token, positions 3 + 4 + 5 + 6 = 18 of each of 2 prompts.
    """
    assert gpu.weights("micro") == (73_728, 32_768)
    assert gpu.learning_operations("micro", 2, 3, 4, 1) == 14 * (4 * 73_728 + 5_376) + 8 * 4 * 32_768
    assert gpu.decoding_bytes("micro", 2, 3, 4) == 4 * (2 * 73_728 + 2 * 32_768) + 2 * 256 * 18


def test_weights_are_those_of_the_model(gpu: ModuleType, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gpu.build("micro", tmp_path / "micro"), local_files_only=True)
    matrices = sum(p.numel() for name, p in model.model.layers.named_parameters() if p.ndim == 2)
    assert gpu.weights("micro") == (matrices, model.lm_head.weight.numel())


def test_the_floor_by_hand(cpu: ModuleType) -> None:
    """tiny, 112 tokens: N = 6 * (4 * 256^2 + 3 * 256 * 704) = 4,816,896; LoRA 24 * N * T, full 32 * N * T."""
    import work

    assert work.trunk_weights("tiny") == 4_816_896
    assert work.floor_operations("tiny", "lora", 112, 4) == 24 * 4_816_896 * 112
    assert work.floor_operations("tiny", "full", 112, 4) == 32 * 4_816_896 * 112


def test_ratios_pair_what_ran_in_turn(cpu: ModuleType) -> None:
    assert cpu.ratio([6.0, 9.0, 8.0], [2.0, 3.0, 4.0]) == {"median": 3.0, "range": [2.0, 3.0], "n": 3}


def test_the_gpu_benchmark_runs_on_the_cpu(gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--prompts", "4", "--prompt", "8", "--response", "8", "--rows", "4", "--epochs", "1"]
    gpu.main(["--device", "cpu", "--shapes", "micro", *sizes, "--out", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cpu"
    result = found["results"]["micro"]
    assert set(result["seconds"]) == {"sample", "policy", "reference", "reward", "learn", "whole step"}
    assert 0 < result["learning, share of the measured peak"] < 1
    assert 0 < result["sampling, share of the measured bandwidth"] < 1


def test_without_cuda_the_gpu_benchmark_says_so(gpu: ModuleType, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(SystemExit, match="shows no CUDA device"):
        gpu.main(["--out", str(tmp_path)])


def test_ours_is_measured_without_peers(
    cpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(cpu, "SIDES", (replace(cpu.SIDES[0], settings=("rows 4",)),))
    sizes = ["--episodes", "4", "--response", "4", "--epochs", "1", "--repeats", "1", "--steps", "1"]
    cpu.main(["--shapes", "micro", "--trains", "lora", *sizes, "--out", str(tmp_path), "--json"])
    result = json.loads(capsys.readouterr().out)["results"]["micro, lora"]
    assert result["sides"]["ours"]["episodes_per_second"]["n"] == 1
    assert result["ratios"] == {}
    # A second call takes what was measured from the folder.
    kept = list((tmp_path / "processes").glob("*.json"))
    assert len(kept) == 1
    assert sys.modules["ppo_speed"] is cpu
