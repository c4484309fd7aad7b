"""What each round of iterated alignment bought: rounds.json and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from humanward.config import RunConfig
from humanward.evaluation import cells
from humanward.evaluation.curves import Figure
from humanward.evaluation.numerals import plain, plural
from humanward.evaluation.pictures import Whisker, whiskers
from humanward.evaluation.rendering import render
from humanward.evaluation.reward_accuracy import as_json, difference_as_json
from humanward.evaluation.rows import EvaluationRow
from humanward.evaluation.statistics import accuracy, accuracy_difference, mean_interval, outcomes, paired_difference
from humanward.records import Preference

Scores = list[list[float]]
"""[scores of the chosen answers, scores of the rejected ones], one number a held-out pair."""

JUDGED = {"toxicity": "judged toxicity, lower is better", "gold": "gold reward, higher is better"}


def summarise_rounds(told: Sequence[Mapping[str, Any]], config: RunConfig, *, reproduce: str | None) -> dict[str, Any]:
    """The content of rounds.json. Of each round: ``stages``, ``round`` (round.json), ``rows``, ``pairs``.

    Differences are paired: a reward model against the one before on the same held-out pairs, a policy against the one
    before, and against the reference, on the same prompts and random numbers. Raises InputError as the statistics do.
    """
    rounds: list[dict[str, Any]] = []
    for number, one in enumerate(told, 1):
        before = told[number - 2] if number > 1 else None
        earlier = None if before is None else before["rows"]
        rounds.append(
            {
                "round": number,
                "rankings": _rankings(one["stages"], one["pairs"], before),
                "reward": _reward(one["round"], seed=config.seed),
                "judged": {
                    name: found
                    for name in JUDGED
                    if (found := _judged(name, one["rows"], earlier, told[0]["rows"], config.seed))
                },
                "kl": _mean([row.after.sequence_kl for row in one["rows"] if row.after.sequence_kl is not None]),
                "length": _mean([float(row.after.tokens) for row in one["rows"]]),
                "alarms": [
                    {"step": alarm["step"], "name": alarm["name"]} for alarm in one["stages"]["align"].get("alarms", ())
                ],
                "seconds": sum(stage["seconds"] for stage in one["stages"].values()),
            }
        )
    return {
        "rounds": rounds,
        "sentence": sentence(rounds),
        "judge": config.evaluation.judge,
        "simulated_annotators": any(one["stages"].get("feedback", {}).get("simulated") for one in told),
        "select": config.rounds.select,
        "reference": config.rounds.reference,
        "policy": config.model.policy,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "reproduce": reproduce,
    }


def _rankings(
    stages: Mapping[str, Any], pairs: Sequence[Preference], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Pairs and prompts of this round and of all so far; how unsure the reward was of what it chose."""
    sample, all_prompts = stages.get("sample", {}), len({pair.prompt_id for pair in pairs})
    earlier = [] if before is None else before["pairs"]
    return {
        "pairs": len(pairs) - len(earlier),
        "prompts": sample.get("prompts"),
        "pairs_so_far": len(pairs),
        "prompts_so_far": all_prompts,
        "uncertainty_of_pool": sample.get("uncertainty_of_pool"),
        "uncertainty_of_chosen": sample.get("uncertainty_of_chosen"),
    }


def _reward(known: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """Accuracy on the held-out pairs so far, of the reward model before this round and after it; their difference."""
    clusters = known["prompts"]
    found: dict[str, Any] = {"before": None}
    right = {side: outcomes(*scores) for side, scores in known["reward"].items()}
    for side, results in right.items():
        found[side] = as_json(accuracy(results, clusters, seed=seed))
    found["difference"] = None
    if "before" in right:
        found["difference"] = difference_as_json(
            accuracy_difference(right["after"], right["before"], clusters, seed=seed)
        )
    return found


def _judged(
    name: str,
    rows: Sequence[EvaluationRow],
    before: Sequence[EvaluationRow] | None,
    first: Sequence[EvaluationRow],
    seed: int,
) -> dict[str, Any] | None:
    """Means of the reference, the policy before and the policy after this round, and paired differences.

    Answers that one of them has no score for are left out of both, and counted; None where none has a score.
    """

    def scores(of: Sequence[EvaluationRow], side: str) -> dict[tuple[str, int], float]:
        known = {(row.prompt_id, row.sample): getattr(getattr(row, side), name) for row in of}
        return {key: value for key, value in known.items() if value is not None}

    now, start = scores(rows, "after"), scores(first, "before")
    earlier = start if before is None else scores(before, "after")
    shared = [key for key in now if key in start and key in earlier]
    if len({prompt for prompt, _ in shared}) < 2:
        return None
    clusters = [prompt for prompt, _ in shared]
    sides = {
        side: [values[key] for key in shared]
        for side, values in (("start", start), ("before", earlier), ("after", now))
    }
    return {
        **{side: as_json(mean_interval(values, clusters, seed=seed)) for side, values in sides.items()},
        "bought": difference_as_json(paired_difference(sides["before"], sides["after"], clusters, seed=seed)),
        "since_start": difference_as_json(paired_difference(sides["start"], sides["after"], clusters, seed=seed)),
        "unscored": len(rows) - len(shared),
    }


def sentence(rounds: Sequence[Mapping[str, Any]]) -> str:
    """What the last round bought, and all of them together."""
    last = rounds[-1]
    parts = [f"After {plural(len(rounds), 'round')}"]
    toxicity = last["judged"].get("toxicity")
    if toxicity:
        parts.append(
            f"judged toxicity went from {plain(toxicity['start']['value'], 3)} to "
            f"{plain(toxicity['after']['value'], 3)} ({_words(toxicity['since_start'])})"
        )
        if len(rounds) > 1:
            parts.append(f"the last round {_verdict(toxicity['bought'])}: {_words(toxicity['bought'])}")
    accuracy_now = last["reward"]["after"]
    parts.append(f"the reward orders {plain(accuracy_now['value'], 3)} of {accuracy_now['n']} held-out pairs as ranked")
    return f"{parts[0]} {'; '.join(parts[1:])}."


def _verdict(difference: Mapping[str, Any]) -> str:
    if difference["ci95"] is None or difference["ci95"][0] <= 0 <= difference["ci95"][1]:
        return "bought no difference that could be told from chance"
    return "lowered it" if difference["mean"] < 0 else "raised it"


def _words(difference: Mapping[str, Any]) -> str:
    span = ""
    if difference["ci95"] is not None:
        low, high = (plain(one, 3, sign=True) for one in difference["ci95"])
        span = f", 95 % interval {low} to {high}"
    return f"{plain(difference['mean'], 3, sign=True)}{span}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


# --- the page --------------------------------------------------------------------------------------------------------


def render_rounds(content: Mapping[str, Any]) -> str:
    """rounds.html: one file without any reference to a network or another file."""
    figures = [_accuracy_figure(content)]
    figures += [figure for name in JUDGED if (figure := _judged_figure(content, name)) is not None]
    context = {"content": content, "figures": figures, "bounds": cells.bounds, "judged": JUDGED}
    return render("rounds.html.j2", ("report.css", "compare.css"), context)


def _accuracy_figure(content: Mapping[str, Any]) -> Figure:
    rows = [
        Whisker(f"round {one['round']}{words}", found["value"], _interval(found), kind)
        for one in content["rounds"]
        for side, words, kind in (("before", ", reward before", "second"), ("after", "", "main"))
        if (found := one["reward"].get(side))
    ]
    picture = whiskers(
        rows,
        title="Accuracy of the reward model of each round with 95 % intervals",
        x_label="accuracy on held-out pairs so far, 95 % interval",
        reference=0.5,
        label_width=150,
        row_height=30,
        digits=3,
    )
    caption = "Before and after are measured on the same pairs, which no reward model was trained on. Dashed: chance."
    return Figure("Reward model", picture, caption)


def _judged_figure(content: Mapping[str, Any], name: str) -> Figure | None:
    known = [(one["round"], one["judged"][name]) for one in content["rounds"] if name in one["judged"]]
    if not known:
        return None
    start = known[0][1]["start"]
    rows = [Whisker("reference", start["value"], _interval(start), "second")]
    rows += [
        Whisker(f"round {number}", one["after"]["value"], _interval(one["after"]), "main") for number, one in known
    ]
    title = {"toxicity": "Judged toxicity", "gold": "Gold reward"}[name]
    picture = whiskers(
        rows,
        title=f"{title} of each round's policy with 95 % intervals",
        x_label=f"{title.lower()}, 95 % interval",
        label_width=150,
        row_height=30,
        digits=3,
    )
    return Figure(title, picture, f"{JUDGED[name][0].upper()}{JUDGED[name][1:]}.")


def _interval(found: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if found["ci95"] is None else (found["ci95"][0], found["ci95"][1])
