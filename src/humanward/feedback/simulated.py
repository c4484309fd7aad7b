"""Simulated annotators: a gold score with noise, ties, position bias and a reading speed, always marked as simulated.

For demonstrations and research without people. The gold score is passed in, so nothing heavy is imported here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humanward.errors import InputError
from humanward.records import Completion, Prompt, Ranking, content_id

GoldScore = Callable[[Sequence[Prompt], Sequence[str]], ArrayLike]
Item = tuple[Prompt, Sequence[Completion]]
# A Gumbel variable of scale 1 has this standard deviation.
_GUMBEL_STD = math.pi / math.sqrt(6)


@dataclass(frozen=True)
class ReadingTime:
    """Seconds for a ranking: (``base`` + characters / ``characters_per_second``) times a log-normal of ``spread``."""

    base: float = 5.0
    characters_per_second: float = 25.0
    spread: float = 0.3

    def draw(self, characters: int, generator: np.random.Generator) -> float:
        """Seconds, rounded to tenths."""
        factor = float(np.exp(generator.normal(0.0, self.spread)))
        return round((self.base + characters / self.characters_per_second) * factor, 1)


@dataclass(frozen=True)
class SimulatedAnnotator:
    """An annotator who sees the gold score through noise.

    ``gold(prompts, responses)`` gives one number a response, higher for better. ``noise`` is the standard deviation, in
    the gold score's units, of what is added to each score: Gaussian (Thurstone's model) or Gumbel (Plackett and Luce's,
    for two answers Bradley and Terry's). Answers whose noisy scores are less than ``tie_width`` below the best of a
    tier share that tier. ``position_bias`` is added to the answer shown first, falling evenly to 0 for the last. When
    every noisy score is below ``acceptable`` the ranking is marked "none acceptable".

    Everything drawn depends on (seed, name, prompt id) alone, so a ranking is the same whatever the order or the batch.
    """

    name: str
    gold: GoldScore
    noise: float = 0.0
    tie_width: float = 0.0
    position_bias: float = 0.0
    acceptable: float | None = None
    noise_kind: Literal["gaussian", "gumbel"] = "gaussian"
    reading_time: ReadingTime = field(default_factory=ReadingTime)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("noise", "tie_width"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{self.name}: {name}={getattr(self, name)} is negative or infinite; choose 0 or more")
        if self.noise_kind not in ("gaussian", "gumbel"):
            raise InputError(f"{self.name}: noise_kind={self.noise_kind!r} is unknown; use gaussian or gumbel")

    def rank(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]], *, criterion: str = "overall"
    ) -> tuple[Ranking, ...]:
        """One ranking for each prompt with two completions or more; ``completions[i]`` answer ``prompts[i]``.

        Raises InputError when there is no such prompt or a gold score is not finite.
        """
        items = _rankable(zip(prompts, completions, strict=True))
        return self.rank_scored(items, gold_scores(self.gold, items), criterion=criterion)

    def rank_scored(
        self, items: Sequence[Item], scores: Mapping[str, float], *, criterion: str = "overall"
    ) -> tuple[Ranking, ...]:
        """As ``rank``, with the gold scores by completion id already at hand."""
        return tuple(self._rank_one(prompt, answers, scores, criterion) for prompt, answers in items)

    def _rank_one(
        self, prompt: Prompt, answers: Sequence[Completion], scores: Mapping[str, float], criterion: str
    ) -> Ranking:
        generator = np.random.default_rng(_seed(self.seed, self.name, criterion, prompt.id))
        answers = tuple(sorted(answers, key=lambda answer: answer.id))
        count = len(answers)
        shown = generator.permutation(count)
        position = np.empty(count)
        position[shown] = np.arange(count)
        noisy = np.array([scores[answer.id] for answer in answers])
        noisy = noisy + self.noise * self._draw_noise(generator, count)
        noisy = noisy + self.position_bias * (count - 1 - position) / (count - 1)
        tiers = tiers_by_score(noisy, self.tie_width)
        seconds = self.reading_time.draw(sum(len(answer.text) for answer in answers), generator)
        return Ranking(
            id=content_id("simulated", str(self.seed), self.name, criterion, prompt.id, *(a.id for a in answers)),
            prompt_id=prompt.id,
            tiers=tuple(tuple(answers[i].id for i in tier) for tier in tiers),
            annotator=self.name,
            none_acceptable=self.acceptable is not None and bool(noisy.max() < self.acceptable),
            criterion=criterion,
            shown_order=tuple(answers[i].id for i in shown),
            seconds_spent=seconds,
            simulated=True,
        )

    def _draw_noise(self, generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Shape (K,), standard deviation 1."""
        if self.noise_kind == "gumbel":
            return generator.gumbel(size=count) / _GUMBEL_STD
        return generator.standard_normal(count)


def simulate(
    prompts: Iterable[Prompt],
    completions: Iterable[Completion],
    gold: GoldScore,
    *,
    annotators: int = 3,
    overlap: int | None = None,
    noise: float = 0.0,
    tie_width: float = 0.0,
    position_bias: float = 0.0,
    acceptable: float | None = None,
    noise_kind: Literal["gaussian", "gumbel"] = "gaussian",
    seed: int = 0,
    criterion: str = "overall",
) -> tuple[Ranking, ...]:
    """Rankings by annotators ``simulated-1``, ``simulated-2`` and so on, scoring each completion once; by prompt.

    Each prompt is ranked by ``overlap`` of them (all by default), chosen by a hash of the prompt. Raises InputError for
    fewer annotators than the overlap, for no prompt with two completions, and for a gold score that is not finite.
    """
    wanted = annotators if overlap is None else overlap
    if not 1 <= wanted <= annotators:
        raise InputError(f"overlap={wanted}: is not between 1 and annotators={annotators}; change one of them")
    by_prompt: dict[str, list[Completion]] = {}
    for completion in completions:
        by_prompt.setdefault(completion.prompt_id, []).append(completion)
    items = _rankable((prompt, by_prompt.get(prompt.id, [])) for prompt in prompts)
    scores = gold_scores(gold, items)
    team = [
        SimulatedAnnotator(
            f"simulated-{number}",
            gold,
            noise,
            tie_width,
            position_bias,
            acceptable,
            noise_kind,
            seed=seed,
        )
        for number in range(1, annotators + 1)
    ]
    rankings: list[Ranking] = []
    for item in items:
        generator = np.random.default_rng(_seed(seed, "overlap", criterion, item[0].id))
        members = sorted(generator.permutation(annotators)[:wanted])
        rankings += [team[m].rank_scored([item], scores, criterion=criterion)[0] for m in members]
    return tuple(rankings)


def gold_scores(gold: GoldScore, items: Sequence[Item]) -> dict[str, float]:
    """The gold score of every completion by id, in one call; raises InputError for one that is not finite."""
    flat = [(prompt, answer) for prompt, answers in items for answer in answers]
    scores = np.asarray(gold([prompt for prompt, _ in flat], [answer.text for _, answer in flat]), dtype=np.float64)
    if scores.shape != (len(flat),):
        raise ValueError(f"gold gave scores of shape {scores.shape} for {len(flat)} responses; expected ({len(flat)},)")
    for (_, answer), score in zip(flat, scores, strict=True):
        if not np.isfinite(score):
            raise InputError(f"completion {answer.id}: its gold score is {score}, not finite; check the gold scorer")
    return {answer.id: float(score) for (_, answer), score in zip(flat, scores, strict=True)}


def tiers_by_score(scores: NDArray[np.float64], tie_width: float) -> tuple[tuple[int, ...], ...]:
    """Indices in tiers, best first: a tier holds the scores less than ``tie_width`` below its best, and equal ones."""
    tiers: list[list[int]] = []
    for index in np.argsort(-scores, kind="stable"):
        # Measured from the best of the tier, so that a chain of near neighbours does not become one tier.
        gap = scores[tiers[-1][0]] - scores[index] if tiers else math.inf
        if gap == 0 or gap < tie_width:
            tiers[-1].append(int(index))
        else:
            tiers.append([int(index)])
    return tuple(tuple(tier) for tier in tiers)


def _rankable(items: Iterable[Item]) -> list[Item]:
    several = [(prompt, answers) for prompt, answers in items if len(answers) > 1]
    if not several:
        raise InputError("completions: no prompt has two or more; sample at least two completions for each prompt")
    return several


def _seed(*parts: object) -> int:
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:16], "big")
