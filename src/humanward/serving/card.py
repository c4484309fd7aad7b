"""The model card: what a model is, from which base and data, what was measured. Whatever is not known is not said."""

from __future__ import annotations

from typing import Any

from humanward import __version__
from humanward.algorithm_config import ON_POLICY
from humanward.config import RunConfig


def model_card(
    config: RunConfig,
    models: dict[str, dict[str, str | None]],
    report: dict[str, Any] | None,
    *,
    reward: str,
    kind: str,
) -> str:
    """README.md of an exported ``model`` or ``adapter``; ``report`` is the content of report.json, if there is one.

    ``reward`` names what the policy was trained to raise.
    """
    name = config.model.policy
    lines = ["---"]
    if name.count("/") == 1 and models.get("policy", {}).get("commit"):
        lines += [f"base_model: {name}"]
    lines += [f"library_name: {'peft' if kind == 'adapter' else 'transformers'}", "tags:", "- humanward"]
    lines += [f"- {config.algorithm}", "---", "", f"# {name}, aligned by {config.algorithm.upper()}", ""]
    what = "A PEFT adapter for" if kind == "adapter" else "A model that began as"
    lines += [f"{what} {_named('policy', name, models)}, trained with humanward {__version__}.", ""]
    lines += ["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in _facts(config, models, reward))]
    lines += ["", *_use(config, kind)]
    lines += [
        "",
        "## What was measured",
        "",
        *(_numbers(report) if report else ["Nothing yet: this run has no report."]),
    ]
    lines += [
        "",
        "## Licence",
        "",
        f"The licences of {name} and of the data named above apply; humanward adds none of its own. Read both before "
        "you pass this on.",
    ]
    return "\n".join(lines) + "\n"


def _named(use: str, name: str, models: dict[str, dict[str, str | None]]) -> str:
    """A model's name with the commit or the digest that the run recorded."""
    recorded = models.get(use, {})
    for key in ("commit", "sha256"):
        if recorded.get("name") == name and recorded.get(key):
            return f"`{name}` ({key} `{recorded[key]}`)"
    return f"`{name}`"


def _facts(config: RunConfig, models: dict[str, dict[str, str | None]], reward: str) -> list[tuple[str, str]]:
    facts = [("algorithm", f"{config.algorithm}, seed {config.seed}")]
    if config.model.train == "adapter":
        lora, started = config.lora, config.model.adapter
        targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
        kind = (
            _named("adapter", started, models)
            if started
            else f"LoRA rank {lora.rank}, alpha {lora.alpha:g}, on {targets}"
        )
        facts.append(("trained", f"an adapter that began as {kind}" if started else kind))
    else:
        facts.append(("trained", "all weights"))
    prompts = config.prompts
    facts.append(("prompts", f"`{prompts.train or prompts.path}`"))
    if prompts.template is not None:
        facts.append(("prompt template", "`" + prompts.template.replace("\n", "\\n").replace("|", "\\|") + "`"))
    if config.model.system_prompt is not None:
        facts.append(("system prompt", config.model.system_prompt.replace("\n", " ").replace("|", "\\|")))
    if config.feedback.source != "none":
        simulated = (
            "simulated annotators, no people" if config.feedback.source == "simulated" else config.feedback.source
        )
        facts.append(("feedback", simulated + (f": `{config.feedback.path}`" if config.feedback.path else "")))
    if config.algorithm in ON_POLICY:
        facts.append(("reward", _named("reward", reward, models) if "reward" in models else reward))
        facts.append(("KL budget", f"{config.ppo.kl_budget:g} nats an answer"))
    if config.sampling.stop:
        facts.append(("texts that end an answer", ", ".join(f"`{text}`" for text in config.sampling.stop)))
    return facts


def _use(config: RunConfig, kind: str) -> list[str]:
    sampling = config.sampling
    how = f"temperature {sampling.temperature:g}, top-k {sampling.top_k or 'off'}, top-p {sampling.top_p:g}"
    if sampling.min_p:
        how += f", min-p {sampling.min_p:g}"
    where = "as generation_config.json says" if kind == "model" else "which has to be set where you generate"
    return [
        f"Answers were drawn at {how}, {sampling.max_new_tokens} new tokens at most, {where}. Other settings draw from "
        "another distribution than the one that was trained and measured."
    ]


def _numbers(report: dict[str, Any]) -> list[str]:
    toxicity, kl, fluency = report["toxicity"], report["kl"], report["fluency"]
    difference = toxicity["difference"]
    change = "toxicity was not measured on both sides."
    if difference["ci95"] is not None:
        low, high = difference["ci95"]
        change = (
            f"toxicity changed by {difference['mean']:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, "
            f"p = {difference['p_value']:.2g}, n = {difference['n']})."
        )
    rows = [
        *(
            [("toxicity", f"{toxicity['before']['mean']:.4f}", f"{toxicity['after']['mean']:.4f}")]
            if toxicity["before"]["mean"] is not None and toxicity["after"]["mean"] is not None
            else []
        ),
        *(
            (words, f"{fluency[f'{name}_before']:.4g}", f"{fluency[f'{name}_after']:.4g}")
            for name, words in (
                ("distinct2", "distinct-2"),
                ("perplexity", "perplexity under the base"),
                ("length", "tokens an answer"),
            )
            if fluency[f"{name}_before"] is not None and fluency[f"{name}_after"] is not None
        ),
    ]
    lines = [
        report["verdict"],
        "",
        f"On {report['prompts']} prompts never trained on, judged by `{toxicity['judge']}`: {change}",
        "",
        "| | before | after |",
        "| --- | --- | --- |",
        *(f"| {name} | {before} | {after} |" for name, before, after in rows),
    ]
    if kl["final"] is not None:
        lines += ["", f"KL to the base: {kl['final']:.2f} nats an answer."]
    if report["warnings"]:
        lines += ["", "Warnings of the report:", "", *(f"- {line}" for line in report["warnings"])]
    return [*lines, "", f"To train it again: `{report['reproduce']}`"]
