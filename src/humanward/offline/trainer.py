"""The off-policy trainer: one loop for sft, dpo, ipo, orpo and kto, on a role of the shared base."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from humanward.alarm import Alarm
from humanward.algorithm_config import OfflineConfig
from humanward.models.base import SharedBase
from humanward.models.chunks import ChunkBudget, extent, length_chunks
from humanward.offline import alarms
from humanward.offline.data import Group, Labelled
from humanward.offline.losses import kto_reference_point
from humanward.offline.objectives import NAMES, OBJECTIVES, Objective, Scored
from humanward.schedules import factor

Metrics = dict[str, float]

VALIDATIONS = 5
"""How often a training looks at the held-out prompts, besides once before the first step."""

NAN = float("nan")


class NonFiniteError(RuntimeError):
    """A log-probability, loss or gradient is not finite; raised before the optimizer step that would have spread it."""


@dataclass
class Held:
    """A group with what is known of it: tokens a response, its extent, and what the reference says, once it has."""

    group: Group
    lengths: list[int]
    extent: tuple[int, int]
    others: Held | None = None
    ref_logprobs: torch.Tensor | None = None


class OfflineTrainer:
    """Trains the ``policy`` role of a base on groups; ``step()`` is one optimizer step on ``batch_size`` of them.

    ``groups`` and ``validation`` are of the kind that the algorithm learns from (humanward.offline.data). ``on_alarm``
    receives each alarm once, ``on_notice`` what is no alarm. Every random choice comes from ``seed``.
    """

    def __init__(
        self,
        base: SharedBase,
        algorithm: str,
        config: OfflineConfig,
        groups: Sequence[Group],
        validation: Sequence[Group] = (),
        *,
        seed: int,
        on_alarm: Callable[[Alarm], None] = lambda alarm: None,
        on_notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        if not groups:
            raise ValueError("there is nothing to learn from")
        self.base, self.config, self._on_alarm = base, config, on_alarm
        self._budget = ChunkBudget(on_notice)
        self.objective: Objective = OBJECTIVES[algorithm](config)
        self.cut = 0
        self.training = [self._hold(group) for group in groups]
        self.validation = [self._hold(group) for group in validation]
        self.batches = -(-len(groups) // config.batch_size)
        self.steps, self.steps_done = self.batches * config.epochs, 0
        self.warmup_steps = min(self.steps - 1, round(config.warmup_fraction * self.steps))
        self.parameters: list[nn.Parameter] = base.role_parameters("policy")
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        generator = torch.Generator().manual_seed(seed)
        self.orders = [torch.randperm(len(groups), generator=generator).tolist() for _ in range(config.epochs)]
        self.history: list[Metrics] = []
        self._sounded: set[str] = set()
        self.kl_at_start = NAN

    # --- before the first step ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def judge_reference(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """The reference's log-probability of every response, once for the whole training, where the objective asks.

        The responses are packed as in the first epoch, so that policy and reference agree bitwise before the first
        step. ``progress`` receives the number of prompts done. Raises NonFiniteError.
        """
        if not self.objective.needs_reference:
            return
        done = 0
        with self.base.role("reference"):
            for batch in (*(self._batch(step) for step in range(self.batches)), self.validation):
                for held in (batch, [one.others for one in batch if one.others is not None]):
                    self._budget.retry(lambda held=held: self._judge_reference(held), _extents(held))  # type: ignore[misc]
                done += len(batch)
                progress(done)

    def _judge_reference(self, held: Sequence[Held]) -> None:
        for chunk in self._chunks(held):
            logprobs = self._logprobs(chunk)
            self._refuse_non_finite(logprobs, "reference log-probability", chunk)
            for one, part in zip(chunk, logprobs.split([len(c.lengths) for c in chunk]), strict=True):
                one.ref_logprobs = part

    @torch.no_grad()
    def start(self) -> Metrics:
        """Metrics of step 0: the held-out prompts before any training. Sets ``kl_at_start`` from the first batch.

        ``kl_at_start`` is the mean of |log p(y|x) - log q(y|x)| over the first batch's responses, nats a response.
        """
        batch = self._batch(0)
        policy, reference = [], []
        for chunk in self._chunks(batch):
            with self.base.role("policy"):
                policy.append(self._logprobs(chunk))
            if self.objective.needs_reference:
                reference.append(_joined(chunk))
            else:
                with self.base.role("reference"):
                    reference.append(self._logprobs(chunk))
        lengths = torch.tensor([n for chunk in self._chunks(batch) for one in chunk for n in one.lengths])
        ratios = (torch.cat(policy) - torch.cat(reference)).cpu()
        self.kl_at_start = float(ratios.abs().mean())
        self._sound(alarms.log_ratios_at_start(ratios, lengths, self.base.compute_dtype))
        metrics = {**_nothing_measured(), "offline/step": 0.0, **self._validate()}
        self.history.append(metrics)
        return metrics

    # --- one step ----------------------------------------------------------------------------------------------------

    def step(self) -> Metrics:
        """One optimizer step; its metrics (docs/metrics.md), measured before it, the held-out ones after it.

        1. the batch  2. its loss and gradient, chunk by chunk  3. refuse what is not finite  4. learn  5. validate
        """
        started = time.perf_counter()
        batch = self._batch(self.steps_done)
        rate = self.config.learning_rate * factor(self.config.schedule, self.steps_done, self.steps, self.warmup_steps)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        with self.base.role("policy"):
            measured = self._budget.retry(lambda: self._learn(batch), _extents(batch))
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient_norm))
        if not math.isfinite(norm):
            raise self._not_finite("gradient", batch)
        self.optimizer.step()
        self.steps_done += 1
        metrics = {**_nothing_measured(), "offline/step": float(self.steps_done)}
        metrics |= {f"offline/{name}": value for name, value in measured.items()}
        metrics |= {"offline/gradient_norm": norm, "offline/learning_rate": rate}
        if self.steps_done % -(-self.steps // VALIDATIONS) == 0 or self.steps_done == self.steps:
            metrics |= self._validate()
        metrics["offline/seconds"] = time.perf_counter() - started
        self.history.append(metrics)
        if math.isfinite(metrics["offline/validation_loss"]):
            self._sound(alarms.displaced(self.history))
        return metrics

    def _learn(self, batch: Sequence[Held]) -> Metrics:
        """The batch's gradient, from zero; its loss and metrics."""
        self.optimizer.zero_grad(set_to_none=True)
        return self._judge(batch, learn=True)

    def _batch(self, step: int) -> list[Held]:
        """The groups of an optimizer step: each epoch goes once through all of them, in an order of its own."""
        epoch, number = divmod(step, self.batches)
        size = self.config.batch_size
        return [self.training[i] for i in self.orders[epoch][number * size : (number + 1) * size]]

    def _judge(self, batch: Sequence[Held], *, learn: bool) -> Metrics:
        """Loss and metrics of a batch under the present role; with ``learn`` its gradient is added to the parameters'.

        Chunks are summed up and divided by the total of the whole batch, so they change neither loss nor gradient.
        """
        total = self.objective.total([one.group for one in batch], [one.lengths for one in batch])
        point = self._reference_point(batch)
        loss, items = 0.0, []
        for chunk in self._chunks(batch):
            with torch.set_grad_enabled(learn):
                logprobs = self._logprobs(chunk)
                self._refuse_non_finite(logprobs.detach(), "log-probability", chunk)
                lengths = torch.tensor([n for one in chunk for n in one.lengths], device=logprobs.device)
                reference = _joined(chunk) if self.objective.needs_reference else None
                judged = self.objective.judge([one.group for one in chunk], Scored(logprobs, lengths, reference, point))
            if not bool(torch.isfinite(judged.loss)):
                raise self._not_finite("loss", chunk)
            if learn:
                (judged.loss / total).backward()
            loss += float(judged.loss.detach()) / total
            items.append(judged.items)
        metrics = {"loss": loss, **self.objective.describe(torch.cat(items))}
        return metrics if point is None else {**metrics, "reference_point": float(point)}

    @torch.no_grad()
    def _reference_point(self, batch: Sequence[Held]) -> torch.Tensor | None:
        """KTO's, from the batch's prompts with responses to other prompts; None where there are none."""
        others = [one.others for one in batch if one.others is not None]
        if not others:
            return None
        parts = [(self._logprobs(chunk), _joined(chunk)) for chunk in self._chunks(others)]
        for (logprobs, _), chunk in zip(parts, self._chunks(others), strict=True):
            self._refuse_non_finite(logprobs, "log-probability", chunk)
        return kto_reference_point(*(torch.cat(side) for side in zip(*parts, strict=True)))

    def _chunks(self, held: Sequence[Held]) -> list[list[Held]]:
        if not held:
            return []
        return [[held[i] for i in numbers] for numbers in length_chunks(_extents(held), *self._budget.arguments)]

    def _logprobs(self, chunk: Sequence[Held]) -> torch.Tensor:
        """(N,) summed log-probabilities of a chunk's responses under the present role, in one forward."""
        groups = [one.group for one in chunk]
        tokens = self.base.encode(
            [group.prompt for group in groups for _ in group.texts],
            [text for group in groups for text in group.texts],
            ended=[ended for group in groups for ended in group.ended],
            limit=self.config.max_tokens,
        )
        return self.base.logprobs(tokens)[0].sum(1)

    @torch.no_grad()
    def _validate(self) -> Metrics:
        """The held-out metrics; nothing where no prompt is held out."""
        if not self.validation:
            return {}
        with self.base.role("policy"):
            measured = self._budget.retry(lambda: self._judge(self.validation, learn=False), _extents(self.validation))
        return {f"offline/validation_{name}": measured[name] for name in VALIDATION_NAMES}

    # --- telling -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Sound the alarms that only a whole training shows."""
        prompts = {one.group.prompt.id for one in self.validation}
        ending = alarms.at_the_end(self.history, len(prompts), against_reference=self.objective.needs_reference)
        for alarm in (alarms.displaced(self.history), *ending):
            self._sound(alarm)

    def _sound(self, alarm: Alarm | None) -> None:
        if alarm is not None and alarm.name not in self._sounded:
            self._sounded.add(alarm.name)
            self._on_alarm(alarm)

    def _hold(self, group: Group) -> Held:
        prompts = [group.prompt] * len(group.texts)
        limit = min(self.config.max_tokens, self.base.context)
        tokens = self.base.encode(prompts, group.texts, ended=group.ended, limit=limit)
        lengths = tokens.response_mask.sum(1).tolist()
        whole = [len(self.base.response_ids(t, ended=e)) for t, e in zip(group.texts, group.ended, strict=True)]
        self.cut += sum(full > kept for full, kept in zip(whole, lengths, strict=True))
        others = self._hold(group.others) if isinstance(group, Labelled) else None
        return Held(group, lengths, extent(tokens), others)

    def _refuse_non_finite(self, logprobs: torch.Tensor, name: str, chunk: Sequence[Held]) -> None:
        finite = torch.isfinite(logprobs).split([len(one.lengths) for one in chunk])
        if bad := [one for one, good in zip(chunk, finite, strict=True) if not bool(good.all())]:
            raise self._not_finite(name, bad)

    def _not_finite(self, thing: str, held: Sequence[Held]) -> NonFiniteError:
        self.optimizer.zero_grad(set_to_none=True)
        ids = list(dict.fromkeys(one.group.prompt.id for one in held))
        prompts = f"prompts {', '.join(ids[:8])}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        remedy = "lower offline.learning_rate" if self.steps_done else "look at the model's weights and its dtype"
        return NonFiniteError(
            f"a {thing} is not finite at step {self.steps_done + 1} ({prompts}); this step changed no weight: {remedy}"
        )


VALIDATION_NAMES = ("loss", "accuracy", "margin", "chosen_logprob")


def _nothing_measured() -> Metrics:
    """Every metric of a step, not measured."""
    names = ["loss", *NAMES, "reference_point", "gradient_norm", "learning_rate", "seconds"]
    return {f"offline/{name}": NAN for name in [*names, *(f"validation_{name}" for name in VALIDATION_NAMES)]}


def _extents(held: Sequence[Held]) -> list[tuple[int, int]]:
    return [one.extent for one in held]


def _joined(chunk: Sequence[Held]) -> torch.Tensor:
    """(N,) the reference's log-probabilities of a chunk."""
    known = [one.ref_logprobs for one in chunk]
    if any(part is None for part in known):
        raise RuntimeError("the reference has not judged these responses; call judge_reference first")
    return torch.cat([part for part in known if part is not None])
