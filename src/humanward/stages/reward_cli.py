"""``humanward reward evaluate`` and ``humanward reward export``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from humanward.errors import InputError

DEFAULT_SHARES = "0.125,0.25,0.5,1"


def reward_export(
    source: Annotated[Path, typer.Argument(help="the run directory, or a reward model's folder")],
    out: Annotated[Path, typer.Option("--out", help="the new folder to write")],
    member: Annotated[int | None, typer.Option(min=1, help="of an ensemble: which one, from 1")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable results on standard output")] = False,
) -> None:
    """Write a trained reward model as a sequence classifier with one output, for transformers and TRL.

    Example: humanward reward export runs/mine --out my-reward
    """
    from humanward.serving.reward_export import describe, export_reward_model

    written = export_reward_model(source, out, member=member)
    if as_json:
        typer.echo(json.dumps(written, ensure_ascii=False))
    else:
        for line in describe(written):
            typer.echo(line)


def reward_evaluate(
    run: Annotated[
        Path | None, typer.Option("--run", help="the reward of this run's configuration, on its held-out pairs")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="or any source as in `reward score`: a classifier, a folder, module:function, URL"),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pairs",
            help="FILE or NAME=FILE of judged pairs: RewardBench, HHH, Auto-J, LLMBar, PandaLM, HH-RLHF, or any format "
            "of `feedback import`; may be repeated",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder to write; default the run, or runs/reward-evaluation")
    ] = None,
    label: Annotated[str | None, typer.Option(help="with --source: the classifier's label; default: its last")] = None,
    probability: Annotated[
        bool, typer.Option("--probability/--logit", help="a classifier's probability, or its raw logit")
    ] = False,
    curve: Annotated[
        bool, typer.Option("--learning-curve", help="with --run: train on growing shares; is more labelling worth it?")
    ] = False,
    shares: Annotated[str, typer.Option(help="of the run's prompts, for the learning curve")] = DEFAULT_SHARES,
    curve_seeds: Annotated[int, typer.Option(min=1, help="models trained for each share")] = 1,
    probes: Annotated[bool, typer.Option("--probes/--no-probes", help="score edited answers too")] = True,
    lexicon: Annotated[
        Path | None,
        typer.Option(help="file of rude words, one a line, for the lexicon baseline; default: a short list"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="pairs of each set at most, chosen by a hash")] = None,
    seed: Annotated[int, typer.Option(min=0, help="decides every random choice")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable results on standard output")] = False,
) -> None:
    """Measure a reward on pairs that people judged: accuracy against baselines, calibration, probes, learning curve.

    Writes reward_evaluation.json and reward_evaluation.html. With --source instead of --run any reward is measured,
    such as --source demo/detector --label nothate.

    Example: humanward reward evaluate --run runs/mine --pairs hhh.jsonl --learning-curve
    """
    from humanward.evaluation.reward_words import terminal_lines
    from humanward.progress import Reporter
    from humanward.stages.reward_evaluate import PAGE, RewardPlan, read_shares, run_reward_evaluation

    if not curve and (shares != DEFAULT_SHARES or curve_seeds != 1):
        raise InputError("--shares, --curve-seeds: belong to the learning curve; give --learning-curve too")
    plan = RewardPlan(
        source=source,
        run=run,
        pairs=tuple(pairs or ()),
        label=label,
        probability=probability,
        lexicon=lexicon,
        shares=read_shares(shares) if curve else (),
        curve_seeds=curve_seeds,
        probes=probes,
        limit=limit,
        seed=seed,
    )
    folder = out or run or Path("runs/reward-evaluation")
    words = ["humanward", "reward", "evaluate"]
    given = {
        "--run": run,
        "--source": source,
        **{f"--pairs {place}": one for place, one in enumerate(pairs or ())},
        "--label": label,
        "--lexicon": lexicon,
        "--limit": limit,
        "--seed": seed or None,
        "--shares": shares if shares != DEFAULT_SHARES else None,
        "--curve-seeds": curve_seeds if curve_seeds != 1 else None,
    }
    for name, value in given.items():
        words += [] if value is None else [name.split()[0], str(value)]
    flags = {"--probability": probability, "--learning-curve": curve, "--no-probes": not probes}
    words += [name for name, on in flags.items() if on]
    content = run_reward_evaluation(
        plan, folder, reporter=Reporter(quiet=as_json), command=f"{shlex.join(words)} --out NEW_FOLDER"
    )
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        for line in terminal_lines(content, folder / PAGE):
            typer.echo(line)
