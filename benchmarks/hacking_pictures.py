"""The pictures and the table of docs/reward-hacking.md from the runs of benchmarks/hacking.py; needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hacking_results import DEMANDED, HELD_OUT_ALARMS, REWARDS

BEGIN, END = "<!-- benchmarks/hacking.py writes from here -->", "<!-- to here -->"
TITLES = {"token": "bonus for a word", "length": "bonus for length", "pairs": "reward model of few pairs"}
COLOURS = {
    "none": "#333333",
    "kl": "#0072b2",
    "bounded": "#d55e00",
    "lagrangian": "#009e73",
    "length-penalty": "#cc79a7",
    "ensemble-std": "#e69f00",
}
REWARD_COLOUR, TRUTH_COLOUR = "#0072b2", "#d55e00"
Run = Mapping[str, Any]


def write_page(runs: Sequence[Run], result: Mapping[str, Any], docs: Path) -> None:
    """Put table and pictures into docs/reward-hacking.md and docs/images/; SystemExit without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit(
            "hacking: --docs draws with matplotlib, which is not installed; pip install matplotlib"
        ) from None
    matplotlib.use("Agg")
    images = docs / "images"
    curves(runs, images / "hacking-curves.png")
    frontier(runs, result["frontier"], images / "hacking-frontier.png")
    page = docs / "reward-hacking.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [BEGIN, "", *result["table"], "", *fits(result["frontier"]), "", END]
    page.write_text(before + "\n".join(lines) + after, encoding="utf-8")


def fits(frontier: Mapping[str, Any]) -> list[str]:
    """The fitted formulas as Markdown."""
    lines = ["| reward | curve | alpha | beta | R² | points |", f"|{' --- |' * 6}"]
    for reward, found in frontier.items():
        for name, one in (found or {}).items():
            cells = (
                reward,
                {"truth": "true reward", "reward": "reward"}[name],
                f"{one['alpha']:+.2f}",
                f"{one['beta']:+.2f}",
                "" if one["r2"] is None else f"{one['r2']:.2f}",
                str(one["points"]),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def curves(runs: Sequence[Run], file: Path) -> None:
    """True reward by step: a panel a reward, a colour a mitigation, a thin line a seed; rings: the held-out alarm."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(REWARDS), figsize=(11, 3.8), sharey=True)
    for panel, reward in zip(panels, REWARDS, strict=True):
        for arm in DEMANDED[reward]:
            colour = COLOURS[arm]
            own = [run for run in runs if (run["reward"], run["arm"]) == (reward, arm)]
            if not own:
                continue
            steps = [look["monitor/step"] for look in own[0]["looks"]]
            truth = np.array([[look["truth"] for look in run["looks"]] for run in own])
            panel.plot(steps, truth.T, color=colour, alpha=0.25, linewidth=0.8)
            panel.plot(steps, truth.mean(0), color=colour, linewidth=2, label="no mitigation" if arm == "none" else arm)
            if arm == "none":
                for run in own:
                    _ring(panel, run, colour)
        panel.axhline(0, color="#999999", linewidth=0.8, linestyle=":")
        panel.set(title=TITLES[reward], xlabel="step")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8, loc="lower left", frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("true reward, reference deviations")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _ring(panel: Any, run: Run, colour: str) -> None:
    fired = min((alarm["step"] for alarm in run["alarms"] if alarm["name"] in HELD_OUT_ALARMS), default=None)
    for look in run["looks"]:
        if look["monitor/step"] == fired:
            panel.plot([fired], [look["truth"]], "o", markersize=8, markerfacecolor="none", markeredgecolor=colour)


def frontier(runs: Sequence[Run], fitted: Mapping[str, Any], file: Path) -> None:
    """Reward and true reward over sqrt(KL) of the runs without mitigation, with R(d) = d (alpha - beta log d)."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(REWARDS), figsize=(11, 3.8))
    for panel, reward in zip(panels, REWARDS, strict=True):
        own = [run for run in runs if (run["reward"], run["arm"]) == (reward, "none")]
        looks = [look for run in own for look in run["looks"]]
        if not looks:
            panel.set_axis_off()
            continue
        d = [math.sqrt(max(0.0, look["monitor/sequence_kl"])) for look in looks]
        line = np.linspace(0.03, max(d), 200)
        for key, name, colour, words in (
            ("monitor/reward", "reward", REWARD_COLOUR, "reward that is optimised"),
            ("truth", "truth", TRUTH_COLOUR, "true reward"),
        ):
            panel.plot(d, [look[key] for look in looks], ".", color=colour, alpha=0.6)
            one = fitted[reward][name]
            sign = "-" if one["beta"] > 0 else "+"
            label = f"{words}: d ({one['alpha']:.2f} {sign} {abs(one['beta']):.2f} log d)"
            panel.plot(line, line * (one["alpha"] - one["beta"] * np.log(line)), color=colour, label=label)
        panel.axhline(0, color="#999999", linewidth=0.8, linestyle=":")
        panel.set(xlabel="d = square root of sequence KL, nats")
        panel.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, title=TITLES[reward])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("reference deviations")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
