"""Before and after, side by side, on a prompt that the user types."""

from __future__ import annotations

import json
import sys

import typer
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from humanward.models.sampling import sample
from humanward.prompts import PromptForm, typed_prompt
from humanward.records import Prompt
from humanward.stages.best_of_n import best_places, draw_candidates
from humanward.stages.context import Run


def run_chat(run: Run, prompt: str | None, *, seed: int, as_json: bool) -> None:
    """Answer ``prompt``, or every line typed until an empty one or the end of input."""
    run.folder.facts("align", f"run `humanward align --run {run.folder.path}`")
    if run.config.algorithm != "best-of-n":
        run.base().replace_role("policy", run.policy_folder)
    console = Console()
    if prompt is not None:
        _show(console, run, prompt, seed, as_json)
        return
    if sys.stdin.isatty():
        console.print("Type a prompt; an empty line ends.", style="dim")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line:
            return
        _show(console, run, line, seed, as_json)
        seed += 1


def answers(run: Run, typed: str, seed: int) -> dict[str, str]:
    """The reference's and the policy's answer to what was typed, drawn with the same random numbers.

    The run's ``prompts.template`` is built around it, as around every prompt of the run.
    With best-of-n: the first of n answers of the reference, and the one with the highest reward among them.
    """
    base, prompts = run.base(), run.config.prompts
    prompt = typed_prompt(typed, PromptForm(field=prompts.field, template=prompts.template))
    if run.config.algorithm == "best-of-n":
        drawn = draw_candidates(run, [Prompt("chat", prompt)], ["chat"], seed=seed)
        (best,) = best_places(drawn.rewards, len(drawn.rewards))
        return {"before": drawn.texts[0], "after": drawn.texts[best]}
    ids = base.prompt_ids(Prompt("chat", prompt))[-(base.context - run.config.sampling.max_new_tokens) :]
    texts = {}
    for side, role in (("before", "reference"), ("after", "policy")):
        with base.role(role):
            response = sample(base, [ids], ["chat"], run.config.sampling, seed=seed)[0]
        texts[side] = base.response_text(response.ids, run.config.sampling.stop)
    return texts


def _show(console: Console, run: Run, prompt: str, seed: int, as_json: bool) -> None:
    texts = answers(run, prompt, seed)
    asked = [Prompt("chat", prompt)] * len(texts)
    scores = run.classifier("judge").score(asked, list(texts.values())).tolist()
    toxicity = dict(zip(texts, scores, strict=True))
    if as_json:
        typer.echo(json.dumps({"prompt": prompt, **texts, "toxicity": toxicity}, ensure_ascii=False))
        return
    width = max(30, console.width // 2 - 2)
    n = run.config.best_of_n.samples
    titles = {"after": f"after: best of {n}"} if run.config.algorithm == "best-of-n" else {}
    panels = [
        Panel(
            Text(text or "(empty)"),
            title=titles.get(side, side),
            subtitle=f"toxicity {toxicity[side]:.2f}",
            width=width,
        )
        for side, text in texts.items()
    ]
    console.print(Columns(panels))
