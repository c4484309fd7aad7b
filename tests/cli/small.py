"""The smallest run that goes through every stage, on the tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"dtype": "float32", "device": "cpu", "max_prompt_tokens": 60},
    "lora": {"rank": 2},
    "sampling": {"max_new_tokens": 6, "batch_size": 16},
    "feedback": {"source": "none", "completions_per_prompt": 2, "prompts": 12},
    "reward": {"rank": 2, "epochs": 1, "max_tokens_trained": 96},
    "ppo": {
        "steps": 2,
        "critic_warmup_steps": 0,
        "rollout_size": 4,
        "minibatch_size": 4,
        "micro_batch_size": 4,
        "epochs": 1,
    },
    "evaluation": {"prompts": 6},
}
PROMPTS = [f"{opening} {thing}?" for opening in ("what is", "who likes", "do you hate") for thing in "abcdefghijklmnop"]


def settings(tiny: Path, folder: Path, *, trained: bool = False) -> dict[str, Any]:
    """Values of a configuration that runs; prompts go into ``folder``. ``trained``: with simulated rankings."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    values: dict[str, Any] = {section: dict(keys) for section, keys in SETTINGS.items()}
    values["model"]["policy"] = str(tiny / "chat")
    values["prompts"] = {"path": str(prompts)}
    values["evaluation"] |= {"judge": str(tiny / "bert"), "judge_label": "toxic"}
    if trained:
        gold = {"source": "simulated", "gold": str(tiny / "roberta"), "gold_label": "nothate"}
        values["feedback"] |= gold
        values["reward"] |= {"source": "trained"}
    else:
        values["reward"] |= {"source": "classifier", "classifier": str(tiny / "roberta"), "label": "nothate"}
    return values


def write(path: Path, values: dict[str, Any]) -> Path:
    """``values`` as a TOML file."""
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return path
