"""Sampling and learning on a GPU against its limits and against TRL 1.12, on random weights of Qwen2.5's shapes.

    python benchmarks/gpu_speed.py --shapes 1.5b --json > runs/gpu.json
    python benchmarks/gpu_speed.py --shapes 0.5b 1.5b 7b --nf4 --peer PEER_VENV/bin/python
    python benchmarks/gpu_speed.py --device cpu --shapes micro --prompts 4 --prompt 8 --response 8    # anywhere

A step of PPO with LoRA of rank 16: 128 prompts of 256 tokens, 256 new tokens, 4 epochs; --steps of them after one
that warms up. Sampling is held against memory bandwidth (weights and cache read once a token), learning against the
arithmetic: both as this device reaches them in a copy and in a large product, and as --bandwidth and --peak give them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import describe_machine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "speed"))

SHAPES: dict[str, dict[str, Any]] = {
    "micro": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True,
    },
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
}  # fmt: skip
LIMITS = {"learning, share of the peak (MFU)": 0.45, "sampling, share of the bandwidth": 0.5, "ours / TRL 1.12": 8.0}
H200_BANDWIDTH, H200_PEAK = 4.8e12, 989e12
"""Bytes a second, and dense bfloat16 operations a second, by NVIDIA's data sheet."""


def build(shape: str, folder: Path) -> Path:
    """The shape's model in bfloat16 and its tokenizer in ``folder``, written once; weights as transformers draws."""
    import torch
    from memory_shapes import tokenizer
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if not (folder / "done").exists():
        size = SHAPES[shape]["vocab_size"]
        config = Qwen2Config(
            **SHAPES[shape], max_position_embeddings=32768, pad_token_id=size - 3, eos_token_id=size - 2
        )
        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            torch.set_default_dtype(torch.bfloat16)
            try:
                model = Qwen2ForCausalLM(config)
            finally:
                torch.set_default_dtype(torch.float32)
        model.save_pretrained(folder)
        tokenizer(size).save_pretrained(folder)
        (folder / "done").touch()
    return folder


def weights(shape: str) -> tuple[int, int]:
    """(weights of the trunk's matrices, weights of the output matrix)."""
    size = SHAPES[shape]
    width = size["hidden_size"]
    keys = width * size["num_key_value_heads"] // size["num_attention_heads"]
    layer = 2 * width * width + 2 * width * keys + 3 * width * size["intermediate_size"]
    return size["num_hidden_layers"] * layer, width * size["vocab_size"]


def learning_operations(shape: str, prompts: int, prompt: int, response: int, epochs: int) -> float:
    """Operations of the epochs under LoRA: 4 for each weight and token, the output matrix on response tokens alone.

    Attention adds 4 * layers * width * context for each token forward, causal and so half of it, and twice that
    backward. Recomputation is not counted, as usual for MFU.
    """
    trunk, head = weights(shape)
    tokens = prompts * (prompt + response)
    attention = 3 * 2 * SHAPES[shape]["num_hidden_layers"] * SHAPES[shape]["hidden_size"] * (prompt + response)
    return epochs * (tokens * (4 * trunk + attention) + prompts * response * 4 * head)


def decoding_bytes(shape: str, prompts: int, prompt: int, response: int, weight_bytes: float = 2.0) -> float:
    """Bytes that sampling a response's tokens must read: all weights once a position, and the cache so far."""
    trunk, head = weights(shape)
    size = SHAPES[shape]
    width = size["hidden_size"] // size["num_attention_heads"] * size["num_key_value_heads"]
    cached = 2 * 2 * size["num_hidden_layers"] * width
    positions = sum(prompt + place for place in range(response))
    return response * (trunk * weight_bytes + head * 2) + prompts * cached * positions


def measured_limits(device: str) -> dict[str, float]:
    """What the device reaches: bytes a second of a large copy, operations a second of a large bfloat16 product."""
    import time

    import torch

    cuda = device.startswith("cuda")
    size = 8192 if cuda else 256

    def best(work: Any, rounds: int = 20) -> float:
        shortest = float("inf")
        for _ in range(rounds):
            if cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            shortest = min(shortest, time.perf_counter() - began)
        return shortest

    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    source = torch.empty(1 << (31 if cuda else 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "bytes_per_second": 2 * source.numel() / best(lambda: target.copy_(source)),
        "operations_per_second": 2 * size**3 / best(lambda: left @ left),
    }


def child(python: str, script: str, job: Any, out: Path) -> dict[str, Any]:
    """What one measured process printed; what it could not do is told instead of a number."""
    command = [python, "-W", "ignore", str(HERE / "speed" / script), job.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=out)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"code {done.returncode}"
        print(f"{script}: {reason}", file=sys.stderr)
        return {"failed": reason}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(options: argparse.Namespace, shape: str, quantization: str, limits: dict[str, float]) -> dict[str, Any]:
    """Ours, and TRL's where its environment is given, on one shape: seconds, rates, shares of the limits, ratio."""
    from work import Work

    folder = build(shape, options.out / shape)
    work = Work(
        model=str(folder), train="lora", dtype="bfloat16", steps=options.steps, episodes=options.prompts,
        response=options.response, shortest=options.prompt, longest=options.prompt, epochs=options.epochs,
        setting=f"rows {options.rows}{' checkpointing' if options.checkpointing else ''}", device=options.device,
        quantization=quantization, vocabulary=SHAPES[shape]["vocab_size"], out=str(options.out / "trl"),
        threads=os.cpu_count() or 1,
    )  # fmt: skip
    ours = child(sys.executable, "ours.py", work, options.out)
    found: dict[str, Any] = {"ours": ours}
    if "failed" in ours:
        return found
    sizes = (shape, options.prompts, options.prompt, options.response)
    phases = {name: seconds / options.steps for name, seconds in ours["phases"].items()}
    step = statistics.median(ours["wall"])
    read = decoding_bytes(*sizes, weight_bytes=2.0 if quantization == "none" else 0.55)
    operations = learning_operations(*sizes, options.epochs)
    tokens = options.prompts * statistics.mean(ours["response_length"])
    found |= {
        "seconds": {**phases, "whole step": step},
        "episodes_per_second": options.prompts / step,
        "sampled_tokens_per_second": tokens / phases["sample"],
        "learnt_tokens_per_second": options.prompts * (options.prompt + options.response) * options.epochs
        / phases["learn"],
        "sampling, share of the bandwidth": read / options.bandwidth / phases["sample"],
        "sampling, share of the measured bandwidth": read / limits["bytes_per_second"] / phases["sample"],
        "learning, share of the peak (MFU)": operations / options.peak / phases["learn"],
        "learning, share of the measured peak": operations / limits["operations_per_second"] / phases["learn"],
        "peak_memory": ours["peak"],
    }  # fmt: skip
    if options.peer and quantization == "none":
        peer = child(options.peer, "trl_new.py", _peer_work(work, options), options.out)
        found["TRL 1.12"] = peer
        if "failed" not in peer:
            found["ours / TRL 1.12"] = statistics.median(peer["wall"]) / step
            found["memory, ours / TRL 1.12"] = ours["peak"] / peer["peak"]
    return found


def _peer_work(work: Any, options: argparse.Namespace) -> Any:
    from dataclasses import replace

    return replace(work, setting=str(options.peer_rows), quantization="none")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["1.5b"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--nf4", action="store_true", help="each shape in 4 bits too")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--response", type=int, default=256, help="tokens")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=32, help="episodes in one forward of ours")
    parser.add_argument(
        "--peer-rows", type=int, default=16, help="episodes in one forward of TRL's; a divisor of prompts"
    )
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--peer", help="Python of an environment with TRL 1.12.0")
    parser.add_argument("--bandwidth", type=float, default=H200_BANDWIDTH, help="bytes a second by the data sheet")
    parser.add_argument("--peak", type=float, default=H200_PEAK, help="bfloat16 operations a second by the data sheet")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    import torch

    options = parse(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(
            "--device cuda: this machine shows no CUDA device; --device cpu with --shapes micro runs anywhere"
        )
    limits = measured_limits(options.device)
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    results = {}
    for shape in options.shapes:
        for quantization in ("none", "nf4") if options.nf4 else ("none",):
            name = shape if quantization == "none" else f"{shape}, nf4"
            results[name] = measure(options, shape, quantization, limits)
            print(f"{name}: {results[name]}", file=sys.stderr)
    if options.json:
        print(json.dumps({**describe_machine(), "device": device, "limits": limits, "results": results}))
        return
    print(
        f"{device}: {limits['bytes_per_second'] / 1e12:.2f} TB/s, {limits['operations_per_second'] / 1e12:.1f} Tflop/s"
    )
    for name, found in results.items():
        print(name)
        for key, value in found.items():
            if isinstance(value, float):
                limit = f" (meant: {LIMITS[key]})" if key in LIMITS else ""
                print(f"  {key}: {value:.4g}{limit}")
        for side in ("ours", "TRL 1.12"):
            if "failed" in found.get(side, {}):
                print(f"  {side}: failed: {found[side]['failed']}")


if __name__ == "__main__":
    main()
