"""What a run trained, for others to use: a whole model that transformers loads, or the adapter alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from humanward.config import ModelConfig, RunConfig
from humanward.errors import InputError, writing
from humanward.models.adapters import CONFIG, WEIGHTS, refuse_no_adapter, refuse_partial_fit
from humanward.models.loading import NEUTRAL_SETTINGS, Loaded, load_model
from humanward.models.provenance import identify
from humanward.models.states import decoder_prefix
from humanward.run_dir import RunDir, new_folder
from humanward.serving.card import model_card

PROBE = 16
"""Token ids that the merged model and the adapter on its base both read before anything is written."""


def export_run(run: RunDir, out: Path, *, adapter: bool = False) -> dict[str, Any]:
    """Write the run's policy to the new folder ``out``, all or nothing; returns what was written.

    The whole model (the adapter merged into its base) in safetensors with tokenizer, chat template, generation settings
    and a model card; with ``adapter`` the adapter in PEFT's format and its card. The base is the very one that the run
    began with. InputError where nothing was trained, or ``out`` holds something already.
    """
    config = run.config
    align = run.facts("align", f"run `humanward align --run {run.path}`")
    if config.algorithm == "best-of-n":
        raise InputError(
            f"{run.path}: best-of-n trains nothing, so there is nothing to export; align by another algorithm"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; name a new folder with --out")
    base = _base_of_the_run(run)
    kind = "adapter" if adapter else "model"
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as folder:
        (_write_adapter if adapter else _write_model)(run, base, folder)
        report = run.file("report.json")
        numbers = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
        card = folder / "README.md"
        card.write_text(model_card(config, run.models(), numbers, reward=align["reward"], kind=kind), encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(card.stat().st_mode)  # safetensors are written for their owner alone
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    return {"kind": kind, "out": str(out), "base": run.models().get("policy"), "files": files}


def _base_of_the_run(run: RunDir) -> ModelConfig:
    """The run's model with the commit that it began with; InputError where a folder's files are others by now."""
    model = run.config.model
    if "policy" not in run.models():
        return model
    model = model.model_copy(update={"revision": run.revision("policy", model.policy, model.revision)})
    run.pin("policy", identify(model.policy, model.revision))
    return model


def _write_adapter(run: RunDir, base: ModelConfig, folder: Path) -> None:
    if run.config.model.train == "full":
        raise InputError(f"{run.path}: trained the whole model, so there is no adapter; leave --adapter out")
    source = run.file("adapter")
    refuse_no_adapter(source, "run the align stage first")
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(source / name, folder / name)
    values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    values |= {"base_model_name_or_path": base.policy, "revision": base.revision}
    (folder / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_model(run: RunDir, base: ModelConfig, folder: Path) -> None:
    if run.config.model.train == "full":
        loaded = load_model(base.model_copy(update={"policy": str(run.file("model")), "revision": None}))
        model = loaded.model
    else:
        loaded, model = _merged(run, base)
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if head.data_ptr() != embeddings.data_ptr():
        # transformers 5 says "tied" of every T5; without this, older versions would tie what is not.
        model.config.tie_word_embeddings = False
    model.generation_config = generation_settings(loaded, run.config)
    transformers_logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        transformers_logging.enable_progress_bar()
    loaded.tokenizer.save_pretrained(folder)


def _merged(run: RunDir, base: ModelConfig) -> tuple[Loaded, Any]:
    """(the base, the base with the run's adapter merged into it), checked against the adapter's own logits."""
    if base.quantization != "none":
        raise InputError(
            f"{run.path}: was trained on a {base.quantization} base; merged into weights of full precision it would be "
            "another model than the one that was measured: export the adapter alone with --adapter"
        )
    source = run.file("adapter")
    refuse_no_adapter(source, "run the align stage first")
    loaded = load_model(base)
    policy: Any = peft.PeftModel.from_pretrained(loaded.model, str(source)).eval()
    refuse_partial_fit(source, loaded.name, peft.get_peft_model_state_dict(policy, save_embedding_layers=False))
    before = _probe(policy, loaded)
    merged = policy.merge_and_unload(safe_merge=True)
    difference = float((_probe(merged, loaded) - before).abs().max() / before.abs().max().clamp_min(1))
    limit = 1e-4 if merged.dtype == torch.float32 else 0.05
    if not difference <= limit:
        raise InputError(
            f"{run.path}: merged into its base the adapter gives other logits (by {difference:.2g} of the largest, the "
            f"limit is {limit}); export the adapter alone with --adapter"
        )
    return loaded, merged


@torch.no_grad()
def _probe(model: Any, loaded: Loaded) -> torch.Tensor:
    """(1, L, V) logits of a few token ids, spread over the vocabulary, in float32."""
    step = max(1, loaded.vocabulary // PROBE)
    ids = torch.arange(0, loaded.vocabulary, step, device=loaded.model.device)[None, :PROBE]
    if not loaded.model.config.is_encoder_decoder:
        return model(input_ids=ids, use_cache=False).logits.float()
    start = ids.new_tensor([decoder_prefix(loaded.model)])
    return model(input_ids=ids, decoder_input_ids=torch.cat([start, ids], 1), use_cache=False).logits.float()


def generation_settings(loaded: Loaded, config: RunConfig) -> GenerationConfig:
    """How the run drew its answers; settings of the base that would change the distribution are left out."""
    sampling = config.sampling
    settings = GenerationConfig.from_dict(loaded.model.generation_config.to_dict())
    for name, neutral in NEUTRAL_SETTINGS.items():
        if getattr(settings, name, None) is not None:
            setattr(settings, name, neutral[0] if neutral else None)
    settings.update(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p or None,
        max_length=None,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(loaded.stop_ids) if len(loaded.stop_ids) > 1 else loaded.stop_ids[0],
        pad_token_id=loaded.pad_id,
    )
    if loaded.model.config.is_encoder_decoder:
        start, *forced = decoder_prefix(loaded.model)
        settings.update(decoder_start_token_id=start, forced_bos_token_id=forced[0] if forced else None)
    return settings


def describe(written: dict[str, Any]) -> list[str]:
    """What was written, for people."""
    size = sum(written["files"].values()) / 2**20
    load: Callable[[str], str] = (
        "PeftModel.from_pretrained(base, {!r})" if written["kind"] == "adapter" else "from_pretrained({!r})"
    ).format
    return [
        f"{written['kind']}: {len(written['files'])} files, {size:.1f} MiB in {written['out']}; {load(written['out'])}"
    ]
