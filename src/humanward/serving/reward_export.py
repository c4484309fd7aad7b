"""A trained reward model for others to use: a sequence classifier with one output that transformers and TRL load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from humanward import __version__
from humanward.config import ModelConfig
from humanward.errors import InputError, writing
from humanward.models.base import SharedBase
from humanward.models.loading import Loaded, load_model
from humanward.records import Prompt
from humanward.reward.model import FACTS, RewardModel, load_reward_model, member_folders, read_facts
from humanward.run_dir import new_folder

FINAL_NORMS = ("ln_f", "final_layer_norm", "final_layernorm", "norm")
PROBES = (("Hello!", "Hi."), ("What is the capital of France?", "Paris, as far as I know."), ("why?", "Because."))
PAD = "<|pad|>"


def export_reward_model(source: Path, out: Path, *, member: int | None = None) -> dict[str, Any]:
    """Write the reward model of a run or folder as ``AutoModelForSequenceClassification`` with one label into ``out``.

    The adapter is merged and the head folded, anchors and criteria included. What is written is read back and must give
    the same scores, less a constant where the architecture's head and last norm have no bias (``score_offset``).
    InputError for what cannot be exported.
    """
    folder = source / "reward_model" if (source / "reward_model" / FACTS).exists() else source
    places = member_folders(folder)
    if member is None and len(places) > 1:
        raise InputError(f"{folder}: is an ensemble of {len(places)}; give --member 1 to {len(places)}, one at a time")
    if member is not None and not 1 <= member <= len(places):
        raise InputError(f"--member {member}: {folder} holds {len(places)}; give a number from 1 to {len(places)}")
    folder = places[(member or 1) - 1]
    facts = read_facts(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; name a new folder with --out")
    if facts.get("quantization", "none") != "none":
        raise InputError(
            f"{folder}: was trained on a {facts['quantization']} base; merged into weights of full precision it would "
            "score differently: score with humanward, or train one with model.quantization = 'none'"
        )
    config = ModelConfig(policy=facts["base"], dtype=facts.get("dtype", "auto"), device="cpu")
    loaded = load_model(config)
    if loaded.model.config.is_encoder_decoder:
        raise InputError(
            f"{folder}: is on an encoder-decoder, whose sequence classifiers in transformers read another state; score "
            "with humanward (`humanward reward score`)"
        )
    ours = load_reward_model(SharedBase(loaded, system_prompt=facts.get("system_prompt")), folder)
    wanted, rows = _probe(ours)
    model, offset = _classifier(folder, facts, ours, config)
    tokenizer, pad = _padded(loaded, model)
    model.config.pad_token_id = pad
    model.config.score_offset = offset
    tokenizer.model_max_length, tokenizer.truncation_side = int(facts["limit"]), "left"
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as written:
        transformers_logging.disable_progress_bar()
        try:
            model.save_pretrained(written)
            again = AutoModelForSequenceClassification.from_pretrained(written, use_safetensors=True).eval()
        finally:
            transformers_logging.enable_progress_bar()
        tokenizer.save_pretrained(written)
        difference = float((_scores(again, rows, pad) + offset - wanted).abs().max() / wanted.abs().max().clamp_min(1))
        limit = 1e-4 if model.dtype == torch.float32 else 0.05
        if not difference <= limit:
            raise InputError(
                f"{folder}: as a sequence classifier of transformers it gives other scores (by {difference:.2g}, the "
                f"limit is {limit}); score with humanward"
            )
        (written / "README.md").write_text(_card(facts, offset, loaded), encoding="utf-8")
        for file in written.iterdir():
            file.chmod((written / "README.md").stat().st_mode)
        files = {file.name: file.stat().st_size for file in sorted(written.iterdir())}
    return {"out": str(out), "base": facts["base"], "score_offset": offset, "difference": difference, "files": files}


@torch.no_grad()
def _probe(model: RewardModel) -> tuple[torch.Tensor, list[list[int]]]:
    """(scores of a few answers, their token ids, prompt and answer together)."""
    prompts, texts = [Prompt("", prompt) for prompt, _ in PROBES], [text for _, text in PROBES]
    tokens = model.base.encode(prompts, texts, limit=model.limit)
    pairs = zip(tokens.prompt_ids, tokens.prompt_mask, tokens.response_ids, tokens.response_mask, strict=True)
    return model.score_tokens(tokens), [[*p[pm].tolist(), *r[rm].tolist()] for p, pm, r, rm in pairs]


def _classifier(folder: Path, facts: dict[str, Any], ours: RewardModel, config: ModelConfig) -> tuple[Any, float]:
    """(the sequence classifier, what is to be added to its output)."""
    if facts.get("train", "adapter") == "full":
        trunk: Any = load_model(config.model_copy(update={"policy": str(folder)})).model
    else:
        plain = load_model(config).model
        trunk = peft.PeftModel.from_pretrained(plain, str(folder)).merge_and_unload(safe_merge=True)
    settings = trunk.config
    settings.num_labels, settings.id2label, settings.label2id = 1, {0: "reward"}, {"reward": 0}
    try:
        model = AutoModelForSequenceClassification.from_config(settings).to(trunk.dtype).eval()
    except ValueError as error:
        raise InputError(
            f"{folder}: transformers has no sequence classifier of the kind {settings.model_type}; score with humanward"
        ) from error
    model.base_model.load_state_dict(trunk.base_model.state_dict())
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.weight.shape[1] != ours.base.width:
        raise InputError(
            f"{folder}: the sequence classifier of {settings.model_type} has no linear head on the last state; score "
            "with humanward"
        )
    weight, bias = (one.cpu().float() for one in ours.head.folded())
    offset = float(bias)
    with torch.no_grad():
        head.weight.copy_(weight[None])
        if head.bias is not None:
            head.bias.fill_(offset)
            return model, 0.0
        # A LayerNorm's own bias can carry the constant: w (h + w b / |w|^2) = w h + b.
        for name, module in model.base_model.named_modules():
            last = name.rpartition(".")[2] in FINAL_NORMS and name.count(".") <= 1
            if last and isinstance(module, nn.LayerNorm) and module.bias is not None:
                module.bias.add_(weight * (offset / float(weight @ weight)))
                return model, 0.0
    return model, offset


def _padded(loaded: Loaded, model: Any) -> tuple[Any, int]:
    """(the tokenizer with a pad token that ends no answer, its id): classifiers read the last token that is no pad."""
    tokenizer = loaded.tokenizer
    pad = tokenizer.pad_token_id
    if pad is None or pad in loaded.stop_ids:
        tokenizer.add_special_tokens({"pad_token": PAD})
        pad = int(tokenizer.pad_token_id)
        if pad >= model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(pad + 1, mean_resizing=False)
    return tokenizer, int(pad)


@torch.no_grad()
def _scores(model: Any, rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return model(input_ids=ids, attention_mask=mask).logits[:, 0].float()


def _card(facts: dict[str, Any], offset: float, loaded: Loaded) -> str:
    """README.md: what it is, how it is read, what was measured."""
    accuracy, temperature = facts.get("accuracy"), facts.get("temperature")
    lines = ["---", "library_name: transformers", "pipeline_tag: text-classification", "tags:", "- humanward"]
    lines += ["- reward-model", "---", "", f"# Reward model on {facts['base']}", ""]
    lines += [f"Trained with humanward {__version__}. Its only output is the reward, higher is better.", ""]
    if offset:
        lines += [
            f"humanward adds the constant {offset:.6f} to this output (`score_offset` in config.json), so that "
            "reference answers score 0 on average; differences between answers are the same without it.",
            "",
        ]
    if facts.get("criteria"):
        weights = ", ".join(f"{name} {weight:g}" for name, weight in facts["criteria"].items())
        lines += [f"It is the weighted sum of its criteria, each in standard deviations: {weights}.", ""]
    if temperature:
        lines += [f"P(people prefer A to B) = sigmoid((score A - score B) / {temperature:.4g}).", ""]
    if accuracy:
        low, high = accuracy["ci95"] or (None, None)
        within = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
        lines += [f"Held-out accuracy {accuracy['value']:.3f}{within}, {accuracy['n']} pairs.", ""]
    chat = loaded.tokenizer.chat_template is not None
    template = "tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)"
    prompt = template if chat else "prompt"
    special = "add_special_tokens=False" if chat else "add_special_tokens=True"
    lines += [
        "```python",
        "import torch",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'model = AutoModelForSequenceClassification.from_pretrained("THIS FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")',
        *(['turns = [{"role": "user", "content": prompt}]'] if chat else ()),
        f"ids = tokenizer({prompt}, {special}).input_ids",
        f"ids += tokenizer(answer, add_special_tokens=False).input_ids + [{loaded.stop_ids[0]}]  # the end token",
        "reward = model(input_ids=torch.tensor([ids])).logits[0, 0]",
        "```",
        "",
        f"The licence of {facts['base']} and of the data it was trained on apply.",
    ]
    return "\n".join(lines) + "\n"


def describe(written: dict[str, Any]) -> list[str]:
    """What was written, for people."""
    size = sum(written["files"].values()) / 2**20
    lines = [
        f"reward model: {len(written['files'])} files, {size:.1f} MiB in {written['out']}; "
        f"AutoModelForSequenceClassification.from_pretrained({written['out']!r})"
    ]
    if written["score_offset"]:
        lines.append(
            f"its output is humanward's score less the constant {written['score_offset']:.4f} (score_offset in its "
            "config.json)"
        )
    return lines
