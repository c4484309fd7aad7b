"""``humanward evaluate``: a run before and after, or any models side by side."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from humanward.errors import InputError

OfRun = Callable[[Path, bool, bool], None]


def evaluate_command(of_run: OfRun) -> Callable[..., None]:
    """The command; ``of_run`` is what it does for --run: (run, again, as_json)."""

    def evaluate(
        models: Annotated[
            list[str] | None,
            typer.Argument(
                help="hub ids, folders, run directories (RUN:before is what it started from) or adapter folders; "
                "NAME=MODEL gives a name",
                show_default=False,
            ),
        ] = None,
        run: Annotated[
            Path | None, typer.Option("--run", help="one run, before and after, on its test prompts")
        ] = None,
        prompts: Annotated[
            list[str] | None,
            typer.Option(
                "--prompts",
                help="a set, its format seen from its fields; KIND=FILE says it: xstest, truthfulqa, hhh, bold, rtp, "
                "references or toxicity; may be repeated",
            ),
        ] = None,
        out: Annotated[Path, typer.Option("--out", help="folder to write, or to go on with")] = Path("runs/evaluation"),
        judge: Annotated[
            list[str] | None,
            typer.Option("--judge", help="classifier of toxicity, NAME or NAME#LABEL; may be repeated [demo/judge]"),
        ] = None,
        reward: Annotated[
            list[str] | None,
            typer.Option("--reward", help="reward model, CRITERION=SOURCE as in reward score; may be repeated"),
        ] = None,
        win_rate: Annotated[
            list[str] | None, typer.Option("--win-rate", help="who decides: reward, judge or people; may be repeated")
        ] = None,
        judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint of a judge model")] = None,
        judge_model: Annotated[str | None, typer.Option(help="its model")] = None,
        judge_key_env: Annotated[str | None, typer.Option(help="NAME of the variable that holds its key")] = None,
        judge_jobs: Annotated[int, typer.Option(min=1, help="questions to it at once")] = 4,
        rankings: Annotated[Path | None, typer.Option(help="people's rankings of --win-rate people")] = None,
        base: Annotated[str | None, typer.Option(help="base of adapter folders, if not the one that they name")] = None,
        samples: Annotated[int | None, typer.Option(min=1, help="answers a prompt [25 for rtp, else 1]")] = None,
        max_new_tokens: Annotated[
            int | None, typer.Option(min=1, help="tokens an answer [20 for rtp, else 48]")
        ] = None,
        temperature: Annotated[float | None, typer.Option(help="of sampling [1]")] = None,
        top_p: Annotated[float | None, typer.Option(help="nucleus of sampling [.9 for rtp, else 1]")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="prompts of each set at most, chosen by a hash")] = None,
        batch_size: Annotated[int, typer.Option(min=1, help="answers drawn at once")] = 256,
        device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
        seed: Annotated[int, typer.Option(min=0, help="decides every random choice")] = 0,
        again: Annotated[bool, typer.Option("--again", help="with --run: evaluate it once more")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="machine-readable results on standard output")] = False,
    ) -> None:
        """Judge models on prompts that they were not trained on: a run before and after, or any models side by side.

        Continues where it stopped; more models, sets or judges extend a folder that is there.

        Example: humanward evaluate demo/policy runs/quickstart --prompts rtp.jsonl --prompts xstest.csv --out runs/eval

        Example: humanward evaluate --run runs/mine
        """
        if run is not None:
            if models or prompts:
                raise InputError("--run: evaluates one run on its own test prompts; leave it out to compare models")
            of_run(run, again, as_json)
            return
        if not models:
            raise InputError("evaluate: names no model; give models and --prompts FILE, or --run DIR")
        if not prompts:
            raise InputError(
                f"evaluate {models[0]}: names no prompts; give --prompts FILE, or --run DIR for a run's own"
            )
        from humanward.config import ModelConfig
        from humanward.evaluation.protocols.words import terminal_lines
        from humanward.progress import Reporter
        from humanward.stages.evaluate_models import PAGE, run_evaluation
        from humanward.stages.evaluate_plan import (
            EvaluationPlan,
            read_candidates,
            read_endpoint,
            read_judges,
            read_rewards,
            read_sets,
        )

        if temperature is not None and temperature <= 0:
            raise InputError(f"--temperature {temperature}: must be above 0; 1 is the model's own distribution")
        if top_p is not None and not 0 < top_p <= 1:
            raise InputError(f"--top-p {top_p}: must lie above 0 and at most at 1; 1 keeps all tokens")
        plan = EvaluationPlan(
            candidates=read_candidates(models, base=base, device=None if device == ModelConfig().device else device),
            sets=read_sets(
                prompts,
                samples=samples,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                limit=limit,
                batch_size=batch_size,
            ),
            judges=read_judges(judge or ["demo/judge"]),
            rewards=read_rewards(reward or ()),
            win_rates=tuple(dict.fromkeys(win_rate or ())),
            endpoint=read_endpoint(judge_url, judge_model, judge_key_env, judge_jobs),
            rankings=rankings,
            seed=seed,
        )
        command = _command(
            models,
            {
                "--prompts": prompts,
                "--judge": judge,
                "--reward": reward,
                "--win-rate": win_rate,
                "--judge-url": judge_url,
                "--judge-model": judge_model,
                "--judge-key-env": judge_key_env,
                "--rankings": rankings,
                "--base": base,
                "--samples": samples,
                "--max-new-tokens": max_new_tokens,
                "--temperature": temperature,
                "--top-p": top_p,
                "--limit": limit,
                "--seed": seed or None,
            },
        )
        content = run_evaluation(plan, out, reporter=Reporter(quiet=as_json), command=command, device=device)
        if as_json:
            typer.echo(json.dumps(content, ensure_ascii=False))
        else:
            for line in terminal_lines(content, out / PAGE):
                typer.echo(line)

    return evaluate


def _command(models: list[str], options: dict[str, Any]) -> str:
    words = ["humanward", "evaluate", *models]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                words += [name, str(one)]
    return f"{shlex.join(words)} --out NEW_FOLDER"
