"""Checks of the off-policy trainer: each passes on the code as it is and must fail under its mutants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from models import tiny

from humanward.alarm import Alarm
from humanward.algorithm_config import OfflineConfig
from humanward.models.base import SharedBase
from humanward.models.chunks import length_chunks
from humanward.offline import data
from humanward.offline.data import Demonstrations, Group, Labelled, Pairs
from humanward.offline.trainer import OfflineTrainer
from humanward.records import Preference, Prompt

ALGORITHMS = ("sft", "dpo", "ipo", "orpo", "kto")


def preferences(count: int = 6, seed: int = 0) -> list[Preference]:
    """Rankings of three ragged answers a prompt, one of them a tie: pairs with weights that differ by prompt."""
    random = np.random.default_rng(seed)

    def words(least: int, most: int) -> str:
        return " ".join(f"w{j}" for j in random.integers(5, 20, random.integers(least, most)))

    made = []
    for i in range(count):
        prompt = Prompt(f"p{i}", words(1, 7))
        best, middle, worst = f"w1 {words(1, 6)}", f"w2 {words(3, 9)}", f"w3 {words(1, 3)}"
        couples = [(best, middle), (best, worst), (middle, worst)]
        for place, (chosen, rejected) in enumerate(couples):
            tie = i % 3 == 2 and place == 2
            made.append(
                Preference(
                    prompt.id, chosen, rejected, prompt, chosen, rejected, tie=tie, weight=1 / 3, ranking_id=f"r{i}"
                )
            )
    return made


def groups_of(algorithm: str, made: Sequence[Preference]) -> list[Group]:
    """What the algorithm learns from."""
    if algorithm == "sft":
        return list(data.demonstrations(made))
    if algorithm == "kto":
        return list(data.with_others(data.labels_of_pairs(made), seed=0))
    return list(data.pairs(made))


def make_trainer(
    algorithm: str = "dpo",
    made: Sequence[Preference] | None = None,
    *,
    base: SharedBase | None = None,
    moved: float = 0.0,
    held_out: Sequence[Preference] = (),
    judged: bool = True,
    seed: int = 0,
    **options: Any,
) -> tuple[OfflineTrainer, list[Alarm]]:
    """(a trainer of a tiny random model whose reference has judged, the list that its alarms go to)."""
    base = base or tiny.with_policy(tiny.shared_base(), moved=moved)
    settings = {"batch_size": 3, "warmup_fraction": 0.0, "max_gradient_norm": 1e9, "max_tokens": 60, **options}
    sounded: list[Alarm] = []
    trainer = OfflineTrainer(
        base,
        algorithm,
        OfflineConfig(**settings),
        groups_of(algorithm, preferences() if made is None else made),
        groups_of(algorithm, held_out) if held_out else (),
        seed=seed,
        on_alarm=sounded.append,
    )
    if judged:
        trainer.judge_reference()
    return trainer, sounded


def raised_base(name: str = "llama") -> SharedBase:
    """A policy that finds the responses more likely than its reference does: KTO's reference point is above 0."""
    base = tiny.with_policy(tiny.shared_base(name))
    trainer, _ = make_trainer("sft", base=base, epochs=4, learning_rate=0.01, schedule="constant")
    for _ in range(trainer.steps):
        trainer.step()
    trainer.optimizer.zero_grad()
    return trainer.base


def gradients(trainer: OfflineTrainer) -> list[torch.Tensor]:
    """What the last step left."""
    return [p.grad.clone() for p in trainer.parameters if p.grad is not None]


def plain_logprob(base: SharedBase, role: str, prompt: Prompt, text: str, *, ended: bool = True) -> tuple[float, int]:
    """(log-probability, tokens) of one response by Hugging Face's own loss on that response alone, without padding."""
    asked, answer = base.prompt_ids(prompt), base.response_ids(text, ended=ended)
    ids = torch.tensor([asked + answer])
    labels = torch.tensor([[-100] * len(asked) + answer])
    with torch.no_grad(), base.role(role):
        loss = base.model(input_ids=ids, labels=labels).loss
    return -float(loss) * len(answer), len(answer)


def by_hand(trainer: OfflineTrainer, batch: Sequence[Group]) -> float:
    """The batch's loss from ``plain_logprob`` by the formulas of the papers, in plain Python."""
    base, config = trainer.base, trainer.config

    def ratio(group: Group, i: int) -> float:
        text, ended = group.texts[i], group.ended[i]
        policy, _ = plain_logprob(base, "policy", group.prompt, text, ended=ended)
        return policy - plain_logprob(base, "reference", group.prompt, text, ended=ended)[0]

    def mean(group: Group, i: int) -> float:
        total, count = plain_logprob(base, "policy", group.prompt, group.texts[i], ended=group.ended[i])
        return total / count

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    losses: list[tuple[float, float]] = []  # weight, loss
    point = 0.0
    if any(isinstance(group, Labelled) for group in batch):
        ratios = [ratio(g.others, i) for g in batch if isinstance(g, Labelled) for i in range(len(g.others.texts))]
        point = max(0.0, sum(ratios) / len(ratios))
    for group in batch:
        if isinstance(group, Demonstrations):
            for i, weight in enumerate(group.weights):
                total, count = plain_logprob(base, "policy", group.prompt, group.texts[i], ended=group.ended[i])
                losses.append((weight * count, -total / count))
        elif isinstance(group, Labelled):
            for i, good in enumerate(group.desirable):
                gain = config.beta * (ratio(group, i) - point)
                weight = config.desirable_weight if good else config.undesirable_weight
                losses.append((1.0, weight * (1 - sigmoid(gain if good else -gain))))
        elif isinstance(group, Pairs):
            for better, worse, weight in zip(group.chosen, group.rejected, group.weights, strict=True):
                losses.append((weight, _pair(trainer, ratio, mean, group, better, worse)))
    return sum(weight * loss for weight, loss in losses) / sum(weight for weight, _ in losses)


def _pair(trainer: OfflineTrainer, ratio, mean, group: Pairs, better: int, worse: int) -> float:
    config, name = trainer.config, type(trainer.objective).__name__
    if name == "ORPO":
        odds = [math.exp(m) / (1 - math.exp(m)) for m in (mean(group, better), mean(group, worse))]
        return -mean(group, better) - config.beta * math.log(odds[0] / odds[1] / (1 + odds[0] / odds[1]))
    margin = ratio(group, better) - ratio(group, worse)
    if name == "IPO":
        return (margin - 1 / (2 * config.beta)) ** 2
    e, x = config.label_smoothing, config.beta * margin
    return (1 - e) * math.log(1 + math.exp(-x)) + e * math.log(1 + math.exp(x))


# --- the checks --------------------------------------------------------------------------------------------------


def uneven() -> list[Preference]:
    """Two annotators of one prompt who agree on no best answer, and one of another: responses of unequal weight."""
    p, q = Prompt("p", "w1 w2"), Prompt("q", "w3 w4 w5")
    return [
        Preference("p", "a", "b", p, "w5 w6 w7 w8", "w6", ranking_id="r1"),
        Preference("p", "b", "a", p, "w6", "w5 w6 w7 w8", ranking_id="r2"),
        Preference("q", "c", "d", q, "w9 w10", "w11", ranking_id="r3"),
    ]


def check_ties_are_left_out() -> None:
    """Of the three pairs of every third prompt one is a tie: no objective sees it."""
    given = data.pairs(preferences())
    assert [len(group.chosen) for group in given] == [3, 3, 2, 3, 3, 2]


def check_loss_by_hand(algorithm: str, name: str = "llama", **options: Any) -> None:
    """The first step's loss, on a policy that has moved, is that of the papers' formulas on Hugging Face's own loss."""
    trainer, _ = make_trainer(algorithm, base=raised_base(name), **options)
    batch = [held.group for held in trainer._batch(0)]
    expected, found = by_hand(trainer, batch), trainer.step()["offline/loss"]
    assert math.isclose(found, expected, rel_tol=1e-4), (found, expected)


def check_unfinished_responses_get_no_end_token() -> None:
    """A response that sampling cut off is learnt from as it is."""
    made = preferences(3)
    cut = {(p.prompt_id, p.chosen) for p in made if p.chosen.startswith("w1")}
    base = tiny.with_policy(tiny.shared_base(), moved=0.3)
    trainer = OfflineTrainer(base, "dpo", OfflineConfig(max_tokens=60), data.pairs(made, cut), seed=0)
    trainer.judge_reference()
    groups = [held.group for held in trainer._batch(0)]
    assert [group.ended.count(False) for group in groups] == [1, 1, 1]
    expected, found = by_hand(trainer, groups), trainer.step()["offline/loss"]
    assert math.isclose(found, expected, rel_tol=1e-4), (found, expected)


def check_start() -> None:
    """Before any update policy and reference agree bitwise: KL 0, DPO's loss log 2, KTO's 1/2, no reward, no alarm."""
    for algorithm, loss in (("dpo", math.log(2)), ("ipo", 25.0), ("kto", 0.5), ("sft", None), ("orpo", None)):
        trainer, sounded = make_trainer(algorithm, held_out=preferences(4, seed=5))
        trainer.start()
        assert trainer.kl_at_start == 0
        assert sounded == []
        metrics = trainer.step()
        if loss is None:
            continue
        assert math.isclose(metrics["offline/loss"], loss, rel_tol=1e-6)
        assert metrics["offline/chosen_reward"] == metrics["offline/rejected_reward"] == 0
        assert metrics["offline/accuracy"] == 0.5
        assert math.isclose(trainer.history[0]["offline/validation_loss"], loss, rel_tol=1e-6)


def check_chunks_change_nothing(algorithm: str) -> None:
    """One prompt a forward gives the loss and the gradient of all prompts in one forward."""
    found = []
    for budget in (1, 10**6):
        kept = length_chunks.__defaults__
        length_chunks.__defaults__ = (budget,)
        try:
            trainer, _ = make_trainer(algorithm, moved=0.3, batch_size=6)
            metrics = trainer.step()
        finally:
            length_chunks.__defaults__ = kept
        found.append((metrics["offline/loss"], gradients(trainer)))
    (one, single), (all_, together) = found
    assert math.isclose(one, all_, rel_tol=1e-5)
    largest = max(float(g.abs().max()) for g in together)
    assert largest > 1e-4
    for left, right in zip(single, together, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5 * largest)


def check_learns_what_was_preferred(algorithm: str) -> None:
    """Two steps on one batch raise the chosen against the rejected; sft's raise the demonstrations."""
    trainer, _ = make_trainer(algorithm, batch_size=6, epochs=3, learning_rate=0.01, schedule="constant", moved=0.1)
    rows = [trainer.step() for _ in range(3)]
    assert rows[-1]["offline/loss"] < rows[0]["offline/loss"]
    if algorithm == "sft":
        assert rows[-1]["offline/chosen_logprob"] > rows[0]["offline/chosen_logprob"]
    else:
        assert rows[-1]["offline/margin"] > rows[0]["offline/margin"]


def check_the_reference_stays() -> None:
    """Judged once before training, the reference says the same after it, and is not the policy."""
    trainer, _ = make_trainer("dpo", moved=0.3, epochs=2, learning_rate=0.02)
    held = trainer._batch(0)
    before = [one.ref_logprobs.clone() for one in held]
    for _ in range(trainer.steps):
        trainer.step()
    assert all(torch.equal(one.ref_logprobs, kept) for one, kept in zip(held, before, strict=True))
    trainer.judge_reference()
    for one, kept in zip(held, before, strict=True):
        assert torch.equal(one.ref_logprobs, kept)
        for text, stored in zip(one.group.texts, kept.tolist(), strict=True):
            plain, _ = plain_logprob(trainer.base, "reference", one.group.prompt, text)
            policy, _ = plain_logprob(trainer.base, "policy", one.group.prompt, text)
            assert math.isclose(stored, plain, rel_tol=1e-4)
            assert abs(stored - policy) > 1e-2


def check_swapping_flips_the_gradient() -> None:
    """At the start DPO's gradient for swapped pairs is the negative of that for the pairs."""
    made = preferences()
    swapped = [
        Preference(p.prompt_id, p.rejected_id, p.chosen_id, p.prompt, p.rejected, p.chosen, tie=p.tie, weight=p.weight)
        for p in made
    ]
    found = []
    for given in (made, swapped):
        trainer, _ = make_trainer("dpo", given, batch_size=6)
        trainer.step()
        found.append(gradients(trainer))
    assert max(float(g.abs().max()) for g in found[0]) > 1e-4
    for right, wrong in zip(*found, strict=True):
        torch.testing.assert_close(right, -wrong, rtol=1e-3, atol=1e-6)


def check_the_reference_point_is_not_learnt_from() -> None:
    """KTO's gradient is that with the reference point as a number: (1/n) sum of -+ w beta s (1 - s) d log p."""
    trainer, _ = make_trainer("kto", base=raised_base(), batch_size=6)
    held = trainer._batch(0)
    trainer.step()
    ours = gradients(trainer)
    again, _ = make_trainer("kto", base=raised_base(), batch_size=6)
    config = again.config
    total: Any = 0.0
    with again.base.role("policy"):
        point = float(again._reference_point(again._batch(0)))
        count = sum(len(one.group.texts) for one in held)
        for one in again._batch(0):
            logprobs = again._logprobs([one])
            for logprob, reference, good in zip(logprobs, one.ref_logprobs, one.group.desirable, strict=True):
                s = 1 / (1 + math.exp(-config.beta * float(logprob.detach() - reference - point)))
                total += (-1 if good else 1) * config.beta * s * (1 - s) * logprob / count
        total.backward()
    assert point > 0, "the reference point must not be clamped here"
    for left, right in zip(ours, gradients(again), strict=True):
        torch.testing.assert_close(left, right, rtol=2e-3, atol=1e-7)


def check_one_step_a_batch() -> None:
    """5 prompts, 2 a batch, 2 epochs: 6 optimizer steps, each prompt once an epoch, and the schedule's rates."""
    trainer, _ = make_trainer(
        "dpo", preferences(5), batch_size=2, epochs=2, schedule="linear", warmup_fraction=1 / 3, learning_rate=0.06
    )
    assert trainer.steps == 6
    seen = [[held.group.prompt.id for held in trainer._batch(step)] for step in range(6)]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(name for batch in epoch for name in batch) == [f"p{i}" for i in range(5)]
    rates = [trainer.step()["offline/learning_rate"] for _ in range(6)]
    # Two steps of warm-up, then 1, 3/4, 1/2, 1/4 of .06.
    np.testing.assert_allclose(rates, [0.02, 0.04, 0.06, 0.045, 0.03, 0.015], rtol=1e-9)
