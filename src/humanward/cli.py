"""The command line: one command a stage, thin; everything it does lives elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from humanward import __version__
from humanward.algorithm_config import ALGORITHMS, ON_POLICY
from humanward.config import RunConfig, load_config, parse_config
from humanward.demo.cli import app as demo_app
from humanward.errors import InputError
from humanward.feedback.collect import collect, users_app
from humanward.feedback.commands import app as feedback_app
from humanward.stages.compare_cli import compare
from humanward.stages.evaluate_cli import evaluate_command
from humanward.stages.reward_cli import reward_evaluate, reward_export

app = typer.Typer(
    name="humanward",
    help="Make a language model more helpful, honest and harmless: from human rankings to a proven result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
reward_app = typer.Typer(help="Train, evaluate and use reward models.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(reward_app, name="reward")
app.add_typer(feedback_app, name="feedback")
app.add_typer(demo_app, name="demo")
app.add_typer(users_app, name="users")
app.command("compare")(compare)
app.command("collect")(collect)
reward_app.command("evaluate")(reward_evaluate)
reward_app.command("export")(reward_export)

USAGE_ERROR: Any = typer.BadParameter.__bases__[0]
"""The base of typer's errors about commands and options, wherever its version keeps it."""

RunOption = Annotated[Path, typer.Option("--run", help="the run directory")]
OutOption = Annotated[Path, typer.Option("--out", help="the run directory to write; an unfinished one is continued")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="override, section.key=value; may be repeated")]
JsonOption = Annotated[bool, typer.Option("--json", help="machine-readable results on standard output")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="decides every random choice")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file that starts the run directory")]
AlgorithmOption = Annotated[str | None, typer.Option("--algorithm", help=f"one of {', '.join(ALGORITHMS)}")]
AgainOption = Annotated[bool, typer.Option("--again", help="run the stage even if it has finished")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"humanward {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Options before the command."""
    # main() reads --debug itself, because it must know before anything can fail.


@app.command()
def quickstart(
    out: OutOption = Path("runs/quickstart"),
    seed: SeedOption = None,
    algorithm: AlgorithmOption = None,
    reward: Annotated[str, typer.Option(help="trained (on rankings) or classifier (ready-made)")] = "trained",
    rank_yourself: Annotated[
        bool, typer.Option("--rank-yourself", help="rank ten prompts in the terminal yourself")
    ] = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop on the embedded demo model, offline.

    Example: humanward quickstart --out runs/quickstart
    """
    from humanward.stages.quickstart import quickstart_values

    values = quickstart_values(algorithm or "ppo", reward, rank_yourself=rank_yourself, seed=seed or 0)
    config = parse_config(values, tuple(set_ or ()))
    flags = f" --algorithm {algorithm}" if algorithm else ""
    flags += f"{f' --reward {reward}' if reward != 'trained' else ''}{' --rank-yourself' if rank_yourself else ''}"
    flags += "".join(f" --set {shlex.quote(item)}" for item in set_ or ())
    _loop(config, out, as_json, f"humanward quickstart --seed {config.seed}{flags} --out NEW_FOLDER")


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="TOML file; see examples/")],
    out: Annotated[Path | None, typer.Option("--out", help="the run directory; default runs/NAME of the file")] = None,
    algorithm: AlgorithmOption = None,
    seed: SeedOption = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="rank, train the reward and align this often, each round on the last"),
    ] = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop on your models and data; continues where it stopped.

    With --rounds N the loop is closed: each round ranks answers of the policy so far that the reward is least sure of.

    Example: humanward run examples/detox.toml --out runs/detox
    """
    overrides = _overrides(set_, seed, algorithm)
    loaded = load_config(config, overrides)
    flags = "".join(f" --set {shlex.quote(item)}" for item in overrides)
    place = out or Path("runs") / config.stem
    if rounds is not None:
        _rounds(loaded, place, rounds, as_json, f"humanward run {config} --rounds {rounds}{flags} --out NEW_FOLDER")
        return
    _loop(loaded, place, as_json, f"humanward run {config}{flags} --out NEW_FOLDER")


@app.command()
def sample(
    run: RunOption,
    config: ConfigOption = None,
    set_: SetOption = None,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Sample K completions for each prompt into the run directory.

    Example: humanward sample --run runs/mine --config examples/my-preferences.toml
    """
    _stage(("prompts", "sample"), run, config, set_, again, as_json)


@feedback_app.command("simulate")
def feedback_simulate(
    run: RunOption,
    config: ConfigOption = None,
    set_: SetOption = None,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rank the run's completions as its configuration says (simulated annotators by default) and derive preferences.

    Example: humanward feedback simulate --run runs/mine
    """
    _stage(("feedback",), run, config, set_, again, as_json)


@reward_app.command("train")
def reward_train(
    run: RunOption,
    config: ConfigOption = None,
    set_: SetOption = None,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a reward model on the run's preferences and measure it on held-out prompts.

    Example: humanward reward train --run runs/mine
    """
    _stage(("feedback", "reward"), run, config, set_, again, as_json)


@reward_app.command("score")
def reward_score(
    input_: Annotated[Path, typer.Option("--input", help='JSON lines of {"prompt": ..., "response": ...}')],
    output: Annotated[Path, typer.Option("--output", help="the same lines with a score")],
    source: Annotated[
        str | None,
        typer.Option(
            help="a classifier (demo/judge, folder, hub id), a reward model's folder, a run directory's reward model, "
            "module:function, or an http address"
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="score by the reward of this run's configuration")] = None,
    label: Annotated[str | None, typer.Option(help="the classifier's label; default: its last")] = None,
    probability: Annotated[
        bool, typer.Option("--probability/--logit", help="a classifier's probability, or its raw logit")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Score any text by any kind of reward.

    Example: humanward reward score --source demo/judge --label hate --input in.jsonl --output out.jsonl
    """
    from humanward.stages.score import score_file

    facts = score_file(
        source, input_, output, run=run, label=label, probability=probability, reporter=_reporter(as_json)
    )
    _print(facts, as_json, [f"{facts['scored']} responses scored into {output}"])


@app.command()
def align(
    run: RunOption,
    config: ConfigOption = None,
    algorithm: AlgorithmOption = None,
    profile: Annotated[
        bool, typer.Option(help="Record where time and memory go, by phase: profile.json, and a part of the report.")
    ] = False,
    set_: SetOption = None,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Align the policy: by PPO against the run's reward, or by another algorithm.

    On a run that has begun, another algorithm than its own takes the place of it; options that both use stay.

    Example: humanward align --run runs/mine --algorithm dpo
    """
    if algorithm is not None and config is None:
        from humanward.run_dir import change_algorithm

        for line in change_algorithm(run, algorithm, again=again):
            _reporter(as_json).say(line)
    overrides = None if config is None else list(_overrides(set_, None, algorithm))
    _stage(("prompts", "align"), run, config, set_ if config is None else overrides, again, as_json, profile=profile)


app.command("evaluate")(
    evaluate_command(lambda run, again, as_json: _stage(("evaluate",), run, None, None, again, as_json))
)


@app.command()
def report(run: RunOption, as_json: JsonOption = False) -> None:
    """Write report.html and report.json of a run.

    Example: humanward report --run runs/mine
    """
    from humanward.evaluation.report import closing_lines
    from humanward.stages.report import run_report

    content = run_report(_open(run, None, None, as_json))
    _print(content, as_json, closing_lines(content, run / "report.html"))


@app.command()
def chat(
    run: Annotated[Path, typer.Argument(help="the run directory")],
    prompt: Annotated[
        str | None, typer.Option(help="answer this prompt and stop, instead of asking for prompts")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="decides the answers that are drawn")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Put the model before and after side by side on prompts that you type.

    Example: humanward chat runs/quickstart --prompt "you are useless"
    """
    from humanward.stages.chat import run_chat

    run_chat(_open(run, None, None, as_json), prompt, seed=seed, as_json=as_json)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="the run directory")],
    out: Annotated[Path, typer.Option("--out", help="the new folder to write")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="the adapter alone, in PEFT's format, instead of the whole model")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the trained model for others: safetensors, tokenizer, settings and a model card.

    Example: humanward export runs/quickstart --out kinder-model
    """
    from humanward.run_dir import open_run
    from humanward.serving.export import describe, export_run

    written = export_run(open_run(run, None), out, adapter=adapter)
    _print(written, as_json, describe(written))


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option("--config", help="TOML file of a run, to predict its memory")] = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can run and what a configuration will hold in memory, before anything is loaded.

    Exit code 2 where it cannot fit, with the options that would make it fit.

    Example: humanward doctor --config examples/detox.toml
    """
    from humanward.stages.doctor import diagnose, show

    if set_ and config is None:
        raise InputError("--set: changes a configuration; give --config too")
    content, forecast = diagnose(None if config is None else load_config(config, tuple(set_ or ())))
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        show(content, forecast)
    if forecast is not None:
        forecast.refuse()


# --- shared by the commands --------------------------------------------------------------------------------------


def _overrides(set_: list[str] | None, seed: int | None, algorithm: str | None = None) -> tuple[str, ...]:
    named = {"seed": seed, "algorithm": algorithm}
    return (*(set_ or ()), *(f"{key}={value}" for key, value in named.items() if value is not None))


def _reporter(as_json: bool) -> Any:
    from humanward.progress import Reporter

    return Reporter(quiet=as_json)


def _open(path: Path, config: Path | None, set_: list[str] | None, as_json: bool) -> Any:
    """The run in ``path``, started from ``config`` when given."""
    from humanward.run_dir import open_run
    from humanward.stages.context import Run

    if set_ and config is None:
        raise InputError("--set: changes a configuration only when a run starts; give --config too")
    loaded = load_config(config, tuple(set_ or ())) if config is not None else None
    return Run(open_run(path, loaded), _reporter(as_json))


def _loop(config: RunConfig, out: Path, as_json: bool, reproduce: str) -> None:
    from humanward.evaluation.report import closing_lines
    from humanward.run_dir import leaving_nothing_half_begun, open_run
    from humanward.stages.context import Run
    from humanward.stages.loop import run_loop

    _check_memory(config, as_json)
    folder = open_run(out, config)
    with leaving_nothing_half_begun(folder):
        content = run_loop(Run(folder, _reporter(as_json)), reproduce=reproduce)
    _print(content, as_json, closing_lines(content, out / "report.html"))


def _rounds(config: RunConfig, out: Path, rounds: int, as_json: bool, reproduce: str) -> None:
    from humanward.run_dir import leaving_nothing_half_begun, open_run
    from humanward.stages.rounds import closing_lines, refuse_without_rounds, run_rounds

    refuse_without_rounds(config)
    _check_memory(config, as_json)
    folder = open_run(out, config)
    with leaving_nothing_half_begun(folder):
        content = run_rounds(folder, rounds, _reporter(as_json), reproduce=reproduce)
    _print(content, as_json, closing_lines(content, out))


def _check_memory(config: RunConfig, as_json: bool) -> None:
    from humanward.stages.doctor import refuse_what_cannot_fit

    refuse_what_cannot_fit(config, _reporter(as_json).warn)


def _stage(
    names: tuple[str, ...],
    path: Path,
    config: Path | None,
    set_: list[str] | None,
    again: bool,
    as_json: bool,
    *,
    profile: bool = False,
) -> None:
    from humanward.run_dir import leaving_nothing_half_begun
    from humanward.stages.loop import STAGES

    context = _open(path, config, set_, as_json)
    if profile and context.config.algorithm not in ON_POLICY:
        raise InputError(
            f"--profile: times the steps of {', '.join(ON_POLICY)}; this run's algorithm is {context.config.algorithm}"
        )
    context.profile = profile
    with leaving_nothing_half_begun(context.folder):
        if "align" in names:
            _check_memory(context.config, as_json)
        for name in names:
            finished = context.folder.stages()
            if name in finished and not (again and name == names[-1]):
                if name == names[-1]:
                    context.reporter.say(f"{name}: finished before; --again runs it once more")
                continue
            STAGES[name](context)
    record = context.folder.stages()[names[-1]]
    _print(record, as_json, [f"{names[-1]}: finished in {record['seconds']:.1f} s; files in {path}"])


def _print(content: Any, as_json: bool, lines: list[str]) -> None:
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        for line in lines:
            typer.echo(line)


def main() -> None:
    """Run the command line; bad input is one line and exit code 2, a failure one line and exit code 1."""
    debug = "--debug" in sys.argv[1:]
    if debug:
        sys.argv.remove("--debug")
    else:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    started = time.monotonic()
    try:
        code = app(prog_name="humanward", standalone_mode=False)
        if code == 130:  # typer turns Ctrl-C into this code
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except InputError as error:
        _fail(str(error), 2, debug)
    except USAGE_ERROR as error:
        _refuse_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        print(
            f"\nhumanward: stopped after {time.monotonic() - started:.0f} s; finished stages are kept: "
            "the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        _fail(f"{type(error).__name__}: {first} (--debug shows where)", 1, debug)


def _refuse_usage(error: Any) -> NoReturn:
    """A wrong command or option in one line; a group without a command shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    command = error.ctx.command_path if error.ctx is not None else "humanward"
    print(f"humanward: {error.format_message().rstrip('.')}; see {command} --help", file=sys.stderr)
    sys.exit(2)


def _fail(line: str, code: int, debug: bool) -> NoReturn:
    if debug:
        raise
    print(f"humanward: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(code)
