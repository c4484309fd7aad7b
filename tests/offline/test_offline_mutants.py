"""Planted faults: every check of the off-policy trainer must fail under the fault that it exists for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from models import tiny
from offline import offline_checks as checks

from humanward.models import base as base_module
from humanward.models import states
from humanward.models import tokens as tokens_module
from humanward.models.base import SharedBase
from humanward.offline import data, objectives
from humanward.offline import trainer as trainer_module
from humanward.offline.objectives import Scored
from humanward.offline.trainer import OfflineTrainer

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A fault by its name, how it is planted, and the check that must find it."""

    name: str
    plant: Patch
    check: Callable[[], None]


def swap_the_sides(patch: pytest.MonkeyPatch) -> None:
    real = objectives._four
    patch.setattr(objectives, "_four", lambda scored, chosen, rejected: real(scored, rejected, chosen))


def forget_the_reference(patch: pytest.MonkeyPatch) -> None:
    real = objectives._four
    patch.setattr(
        objectives,
        "_four",
        lambda scored, *sides: real(replace(scored, ref_logprobs=torch.zeros_like(scored.logprobs)), *sides),
    )


def let_the_reference_follow(patch: pytest.MonkeyPatch) -> None:
    real = SharedBase.role

    @contextmanager
    def role(self, name):
        with real(self, "policy" if name == "reference" else name):
            yield self

    patch.setattr(SharedBase, "role", role)


def learn_the_prompt_too(patch: pytest.MonkeyPatch) -> None:
    real = SharedBase.encode

    def encode(self, prompts, responses, **options):
        tokens = real(self, prompts, responses, **options)
        rows = [
            ids[mask].tolist() + answer[kept].tolist()
            for ids, mask, answer, kept in zip(
                tokens.prompt_ids, tokens.prompt_mask, tokens.response_ids, tokens.response_mask, strict=True
            )
        ]
        return tokens_module.make_tokens([row[:1] for row in rows], [row[1:] for row in rows], self.pad_id)

    patch.setattr(SharedBase, "encode", encode)


def sum_over_padding(patch: pytest.MonkeyPatch) -> None:
    real = base_module.token_statistics

    def statistics(hidden, response_ids, response_mask, logits_of, **options):
        return real(hidden, response_ids, torch.ones_like(response_mask), logits_of, **options)

    patch.setattr(base_module, "token_statistics", statistics)


def leave_out_the_end(patch: pytest.MonkeyPatch) -> None:
    real = SharedBase.response_ids
    patch.setattr(SharedBase, "response_ids", lambda self, text, *, ended=True: real(self, text, ended=False))
    # The check itself asks for the tokens, so it must go on seeing the real ones.
    patch.setattr(checks, "plain_logprob", lambda *args, **options: with_real_ends(real, *args, **options))


PLAIN = checks.plain_logprob


def with_real_ends(real, base, *args, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedBase, "response_ids", real)
        return PLAIN(base, *args, **options)


def end_what_was_cut_off(patch: pytest.MonkeyPatch) -> None:
    real = SharedBase.encode
    patch.setattr(SharedBase, "encode", lambda self, *args, ended=None, **options: real(self, *args, **options))


def divide_each_chunk_by_its_own_total(patch: pytest.MonkeyPatch) -> None:
    real = trainer_module.length_chunks

    def judge(self, batch, *, learn):
        total = self.objective.total([one.group for one in batch], [one.lengths for one in batch])
        chunks = [[batch[i] for i in numbers] for numbers in real([one.extent for one in batch])]
        if len(chunks) < 2:
            return whole(self, batch, learn=learn)
        rows = [whole(self, chunk, learn=learn) for chunk in chunks]
        assert total > 0
        return {**rows[0], "loss": sum(row["loss"] for row in rows) / len(rows)}

    whole = OfflineTrainer._judge
    patch.setattr(OfflineTrainer, "_judge", judge)


def leave_dropout_on(patch: pytest.MonkeyPatch) -> None:
    real = OfflineTrainer._logprobs

    def logprobs(self, chunk):
        value = real(self, chunk)
        return value + torch.randn_like(value) * 0.1

    patch.setattr(OfflineTrainer, "_logprobs", logprobs)


def count_positions_over_padding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(states, "positions", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))


def forget_the_weights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(objectives, "_weights", lambda group: (1.0,) * len(group.texts))


def learn_from_ties(patch: pytest.MonkeyPatch) -> None:
    real = data.pairs
    patch.setattr(data, "pairs", lambda preferences: real(replace(p, tie=False) for p in preferences))


def average_the_tokens(patch: pytest.MonkeyPatch) -> None:
    real = objectives.ipo_loss
    patch.setattr(objectives, "ipo_loss", lambda *four, beta: real(*(x / 5 for x in four), beta=beta))


def sum_the_tokens_of_orpo(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scored, "means", lambda self: self.logprobs)


def drop_the_imitation(patch: pytest.MonkeyPatch) -> None:
    real = objectives.orpo_loss
    patch.setattr(objectives, "orpo_loss", lambda w, r, *, beta: real(w, r, beta=beta) + w)


def forget_the_smoothing(patch: pytest.MonkeyPatch) -> None:
    real = objectives.dpo_loss
    patch.setattr(objectives, "dpo_loss", lambda *four, beta, label_smoothing: real(*four, beta=beta))


def no_reference_point(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer_module, "kto_reference_point", lambda logprobs, ref: torch.tensor(0.0))


def reference_point_of_the_own_responses(patch: pytest.MonkeyPatch) -> None:
    real = OfflineTrainer._reference_point

    def point(self, batch):
        return real(self, [replace(one, others=one) for one in batch if one.others is not None])

    patch.setattr(OfflineTrainer, "_reference_point", point)


def learn_from_the_reference_point(patch: pytest.MonkeyPatch) -> None:
    def judge(self, groups, scored):
        logprobs = scored.logprobs
        moving = scored.reference_point + (logprobs - logprobs.detach()).mean()
        return real(self, groups, replace(scored, reference_point=moving))

    real = objectives.KTO.judge
    patch.setattr(objectives.KTO, "judge", judge)


def swap_the_labels(patch: pytest.MonkeyPatch) -> None:
    real = objectives.kto_loss
    patch.setattr(
        objectives, "kto_loss", lambda p, q, desirable, point, **options: real(p, q, ~desirable, point, **options)
    )


def flip_the_likelihood(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(objectives, "sft_loss", lambda logprobs: logprobs)


def use_a_new_reference_each_step(patch: pytest.MonkeyPatch) -> None:
    real = OfflineTrainer.step

    def step(self):
        with torch.no_grad(), self.base.role("policy"):
            for one in self._batch(self.steps_done):
                one.ref_logprobs = self._logprobs([one])
        return real(self)

    patch.setattr(OfflineTrainer, "step", step)


def go_on_within_the_first_epoch(patch: pytest.MonkeyPatch) -> None:
    real = OfflineTrainer._batch
    patch.setattr(OfflineTrainer, "_batch", lambda self, step: real(self, 0))


def skip_the_warmup(patch: pytest.MonkeyPatch) -> None:
    real = trainer_module.factor
    patch.setattr(trainer_module, "factor", lambda name, step, steps, warmup: real(name, step, steps))


def nothing(patch: pytest.MonkeyPatch) -> None:
    """No fault: every check passes."""


LOSS = checks.check_loss_by_hand
MUTANTS = [
    Mutant("chosen and rejected swapped", swap_the_sides, partial(LOSS, "dpo", beta=0.3)),
    Mutant(
        "chosen and rejected swapped, learning", swap_the_sides, partial(checks.check_learns_what_was_preferred, "dpo")
    ),
    Mutant("no reference in dpo", forget_the_reference, partial(LOSS, "dpo")),
    Mutant("no reference in ipo", forget_the_reference, partial(LOSS, "ipo")),
    Mutant("no reference, start", forget_the_reference, checks.check_start),
    Mutant("the reference is the policy", let_the_reference_follow, checks.check_the_reference_stays),
    Mutant("prompt tokens in the loss of sft", learn_the_prompt_too, partial(LOSS, "sft")),
    Mutant("prompt tokens in the loss of orpo", learn_the_prompt_too, partial(LOSS, "orpo")),
    Mutant("prompt tokens in the loss of dpo", learn_the_prompt_too, checks.check_the_reference_stays),
    *(Mutant(f"padding in the sum of {name}", sum_over_padding, partial(LOSS, name)) for name in checks.ALGORITHMS),
    Mutant("no end token", leave_out_the_end, partial(LOSS, "sft")),
    Mutant("an end for what was cut off", end_what_was_cut_off, checks.check_unfinished_responses_get_no_end_token),
    *(
        Mutant(
            f"a normaliser of each chunk's own in {name}",
            divide_each_chunk_by_its_own_total,
            partial(checks.check_chunks_change_nothing, name),
        )
        for name in checks.ALGORITHMS
    ),
    Mutant("dropout on", leave_dropout_on, checks.check_start),
    Mutant("positions over padding", count_positions_over_padding, partial(LOSS, "dpo", name="gpt2")),
    Mutant("no weights in sft", forget_the_weights, partial(LOSS, "sft", made=checks.uneven())),
    Mutant("ties are pairs", learn_from_ties, checks.check_ties_are_left_out),
    Mutant("ipo of averages", average_the_tokens, partial(LOSS, "ipo")),
    Mutant("orpo of sums", sum_the_tokens_of_orpo, partial(LOSS, "orpo")),
    Mutant("orpo without imitation", drop_the_imitation, partial(LOSS, "orpo")),
    Mutant("no label smoothing", forget_the_smoothing, partial(LOSS, "dpo", label_smoothing=0.2)),
    Mutant("no reference point", no_reference_point, partial(LOSS, "kto")),
    Mutant("reference point of the own responses", reference_point_of_the_own_responses, partial(LOSS, "kto")),
    Mutant(
        "reference point learnt from",
        learn_from_the_reference_point,
        checks.check_the_reference_point_is_not_learnt_from,
    ),
    Mutant("labels swapped", swap_the_labels, partial(checks.check_learns_what_was_preferred, "kto")),
    Mutant("labels swapped, start", swap_the_labels, partial(LOSS, "kto", desirable_weight=2.0)),
    Mutant("sign of sft", flip_the_likelihood, partial(checks.check_learns_what_was_preferred, "sft")),
    Mutant("a new reference each step", use_a_new_reference_each_step, checks.check_the_reference_stays),
    Mutant("the first batch again and again", go_on_within_the_first_epoch, checks.check_one_step_a_batch),
    Mutant("no warm-up", skip_the_warmup, checks.check_one_step_a_batch),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        mutant.plant(patch)
        with pytest.raises(AssertionError):
            mutant.check()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_without_the_fault_the_check_passes(mutant: Mutant) -> None:
    mutant.check()


def test_the_tiny_models_stay_tiny() -> None:
    assert sum(p.numel() for p in tiny.shared_base().model.parameters()) < 20_000
