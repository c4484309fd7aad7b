"""The on-policy loop: sample, judge under policy and reference, score, reward, learn, update the KL coefficient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from humanward.algorithm_config import PPOConfig
from humanward.config import SamplingConfig
from humanward.distributed import all_reduce_sum
from humanward.models.base import SharedBase
from humanward.models.heads import ValueHead
from humanward.models.machine import give_back
from humanward.models.micro_batches import MicroBatches
from humanward.models.tokens import Tokens
from humanward.records import Prompt
from humanward.rl import alarms
from humanward.rl.alarms import Alarm
from humanward.rl.kl import AdaptiveKL, FixedKL, k3
from humanward.rl.losses import policy_loss_sum, value_loss_sum
from humanward.rl.ops import masked_mean, masked_sum, masked_variance
from humanward.rl.phases import Phases, Spent
from humanward.rl.rollouts import Rollout, Scorer, build_rollout, judge_tokens, judge_values, respond
from humanward.schedules import factor

Metrics = dict[str, float]

PHASES = ("sample", "policy", "reference", "reward", "learn")
"""The parts of a step whose seconds are in its metrics, in their order."""


class NonFiniteError(RuntimeError):
    """A rollout, loss or gradient is not finite; raised before the optimizer step that would have spread it."""


class OnPolicyTrainer:
    """Trains the ``policy`` role of a base against ``scorer``; ``step()`` is one rollout learnt from.

    ``algorithm`` (ppo, rloo, grpo, reinforce++) chooses the advantage estimator; PPO alone has a critic: a head on the
    policy's trunk, or on the base's role ``critic`` where ``config.critic`` is "adapter"; ``value_head`` is one to
    begin with. Without ``from_reference`` the policy has moved before, and KL need not start at 0. ``on_alarm``
    receives each kind of alarm once; ``alarms`` holds those of the last step; ``on_notice`` receives what is no alarm.
    Every random choice comes from ``seed``.
    """

    def __init__(
        self,
        base: SharedBase,
        config: PPOConfig,
        sampling: SamplingConfig,
        prompts: Sequence[Prompt],
        scorer: Scorer,
        *,
        seed: int,
        algorithm: str = "ppo",
        value_head: ValueHead | None = None,
        from_reference: bool = True,
        on_alarm: Callable[[Alarm], None] = lambda alarm: None,
        on_notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        if not prompts:
            raise ValueError("there are no prompts to train on")
        self.base, self.config, self.sampling, self.prompts, self.scorer = base, config, sampling, prompts, scorer
        self.seed, self.algorithm, self.steps_done, self.from_reference = seed, algorithm, 0, from_reference
        self.value_head = (value_head or ValueHead(base.width)).to(base.device) if algorithm == "ppo" else None
        self.own_critic = algorithm == "ppo" and config.critic == "adapter"
        head = [] if self.value_head is None else list(self.value_head.parameters())
        critic = base.role_parameters("critic") if self.own_critic else []
        self.policy_parameters = base.role_parameters("policy")
        self.critic_parameters: list[nn.Parameter] = [*critic, *head]
        self.parameters: list[nn.Parameter] = [*self.policy_parameters, *self.critic_parameters]
        rates = [{"params": [*self.policy_parameters, *critic], "lr": config.learning_rate}]
        if head:
            rates.append({"params": head, "lr": config.critic_learning_rate})
        self.optimizer = torch.optim.Adam(rates, eps=config.adam_epsilon, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: factor(config.schedule, step, config.steps)
        )
        adaptive = config.kl_controller == "adaptive"
        self.kl = (
            AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon) if adaptive else FixedKL(config.kl_coef)
        )
        self.micro_batches = MicroBatches(config.micro_batch_size, config.micro_batch_tokens, on_notice)
        self.generator = torch.Generator().manual_seed(seed)
        self.phases = Phases(base.device)
        self.spent: dict[str, Spent] = {}
        self._queue: list[int] = []
        self._asked: list[str] = []
        self.alarms: list[Alarm] = []
        self._history: list[Metrics] = []
        self._known_alarms: set[str] = set()
        self._on_alarm = on_alarm

    # --- one step ------------------------------------------------------------------------------------------------

    def step(self) -> Metrics:
        """One rollout, learnt from ``epochs`` times; returns its metrics (docs/metrics.md).

        1. sample  2. judge under the policy  3. under the reference  4. score  5. build the rollout
        6. learn  7. update the KL coefficient
        """
        config, phases = self.config, self.phases
        self.alarms = []
        with self.base.role("policy"):
            prompts = self._next_prompts()
            self._asked = list(dict.fromkeys(prompt.id for prompt in prompts))
            with phases("sample"):
                episodes, texts = respond(self.base, prompts, self.sampling, seed=self.seed, step=self.steps_done)
            logprobs, entropies, values, ref_logprobs = self._judge(episodes.tokens)
            with phases("reward"):
                scores = self.scorer(prompts, texts, episodes.tokens)
            rollout = build_rollout(
                episodes,
                scores,
                logprobs,
                ref_logprobs,
                values,
                config,
                kl_coef=self.kl.coef,
                algorithm=self.algorithm,
            )
            self._refuse_non_finite(rollout)
            metrics = self._describe(rollout, entropies)
            give_back()
            with phases("learn"):
                metrics |= self._learn(rollout)
        give_back()
        metrics["ppo/kl_coef"] = self.kl.coef
        self.kl.update(metrics["ppo/sequence_kl"], len(rollout))
        self._history.append(metrics)
        for alarm in alarms.during(self._history, warmup_steps=self._warmup_steps):
            self._sound(alarm)
        self.steps_done += 1
        self.schedule.step()
        self.spent = phases.take()
        metrics |= {f"ppo/seconds_{name}": self.spent[name].seconds for name in PHASES}
        return metrics

    def _judge(self, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(log-probabilities, entropies, values, the reference's log-probabilities), all (B, R)."""
        temperature, micro_batches = self.sampling.temperature, self.micro_batches
        with self.phases("policy"):
            on_trunk = None if self.own_critic else self.value_head
            logprobs, entropies, values = judge_tokens(
                self.base, tokens, on_trunk, temperature=temperature, micro_batches=micro_batches
            )
            if self.own_critic and self.value_head is not None:
                with self.base.role("critic"):
                    values = judge_values(self.base, tokens, self.value_head, micro_batches=micro_batches)
        with self.phases("reference"), self.base.role("reference"):
            ref_logprobs, _, _ = judge_tokens(
                self.base, tokens, None, temperature=temperature, micro_batches=micro_batches
            )
        return logprobs, entropies, values, ref_logprobs

    def _next_prompts(self) -> list[Prompt]:
        """The next rollout's prompts, each ``samples_per_prompt`` times; every pass over all has its own order."""
        count = self.config.rollout_size // self.config.samples_per_prompt
        while len(self._queue) < count:
            self._queue += torch.randperm(len(self.prompts), generator=self.generator).tolist()
        chosen, self._queue = self._queue[:count], self._queue[count:]
        return [self.prompts[i] for i in chosen for _ in range(self.config.samples_per_prompt)]

    @property
    def _warmup_steps(self) -> int:
        return self.config.critic_warmup_steps if self.value_head is not None else 0

    # --- learning ------------------------------------------------------------------------------------------------

    def _learn(self, rollout: Rollout) -> Metrics:
        """All epochs over a rollout, one optimizer step for each minibatch; fewer when the policy moves too far."""
        config, warmup = self.config, self.steps_done < self._warmup_steps
        updates: list[Metrics] = []
        for _epoch in range(config.epochs):
            order = torch.randperm(len(rollout), generator=self.generator)
            for rows in order.split(config.minibatch_size):
                updates.append(self._update(rollout[rows.to(self.base.device)], warmup=warmup, first=not updates))
            moved = updates[-1]["ppo/update_kl"]
            if moved > 1.5 * config.target_update_kl:
                break
        metrics = {name: sum(u[name] for u in updates) / len(updates) for name in updates[0]}
        metrics["ppo/update_kl"] = updates[-1]["ppo/update_kl"]
        metrics["ppo/optimizer_steps"] = float(len(updates))
        metrics["ppo/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        return metrics

    def _update(self, batch: Rollout, *, warmup: bool, first: bool) -> Metrics:
        """One optimizer step on one minibatch, its gradient summed over micro-batches."""
        count = all_reduce_sum(batch.tokens.response_mask.sum())
        totals = self.micro_batches.retry(
            lambda: self._add_gradients(batch, count, warmup=warmup, first=first), batch.tokens
        )
        with self.phases.detail("learn: optimizer"):
            return self._take_step(batch, totals, count, warmup=warmup)

    def _take_step(
        self, batch: Rollout, totals: dict[str, torch.Tensor], count: torch.Tensor, *, warmup: bool
    ) -> Metrics:
        """Clip the gradient and move the weights; returns the minibatch's metrics."""
        norm = self._clip_gradients(warmup=warmup)
        if not bool(torch.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(self._what_is_not_finite("gradient", batch))
        self.optimizer.step()
        means = (all_reduce_sum(torch.stack(list(totals.values()))) / count).tolist()
        return {**dict(zip(totals, means, strict=True)), "ppo/gradient_norm": float(norm)}

    def _add_gradients(
        self, batch: Rollout, count: torch.Tensor, *, warmup: bool, first: bool
    ) -> dict[str, torch.Tensor]:
        """The minibatch's gradient, micro-batch by micro-batch, from zero; returns its metrics summed over tokens."""
        totals: dict[str, torch.Tensor] = {}
        ratios: list[torch.Tensor] = []
        self.optimizer.zero_grad(set_to_none=True)
        for rows in self.micro_batches.split(batch.tokens):
            micro = batch[rows]
            with self.phases.detail("learn: forward"):
                loss, sums, log_ratios = self._losses(micro, warmup=warmup)
            ratios.append(log_ratios)
            with self.phases.detail("learn: backward"):
                self._backward(loss, count, micro)
            if self.own_critic:
                # In a role of its own: a backward pass has to happen in the role of its forward.
                with self.base.role("critic"):
                    loss, of_value = self._value_loss(micro, self.base.states(micro.tokens.trimmed()))
                    self._backward(self.config.value_coef * loss, count, micro)
                sums |= of_value
            totals = {name: value + totals.get(name, 0.0) for name, value in sums.items()}
        if first and (alarm := alarms.ratio_at_start(torch.cat(ratios), self.base.compute_dtype)):
            self._sound(alarm)
        return totals

    def _backward(self, loss: torch.Tensor, count: torch.Tensor, micro: Rollout) -> None:
        """Add the gradient of ``loss`` / ``count``; a loss without one is a policy at rest."""
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(self._what_is_not_finite("loss", micro))
        if loss.requires_grad:
            (loss / count).backward()

    def _clip_gradients(self, *, warmup: bool) -> torch.Tensor:
        """The gradient's norm before clipping; a critic with weights of its own is clipped by itself."""
        limit = self.config.max_gradient_norm
        if self.own_critic:
            norms = [nn.utils.clip_grad_norm_(self.critic_parameters, limit)]
            if not warmup:
                norms.append(nn.utils.clip_grad_norm_(self.policy_parameters, limit))
            return torch.stack(norms).norm()
        return nn.utils.clip_grad_norm_(self.critic_parameters if warmup else self.parameters, limit)

    def _losses(self, micro: Rollout, *, warmup: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """(the loss, its metrics, each summed over the micro-batch's real tokens; those tokens' log-ratios).

        policy loss + value_coef * value loss + kl_coef * k3: the second where the critic is on the policy's trunk, the
        last where the KL penalty's place is the loss; during warm-up the value loss alone.
        """
        config = self.config
        tokens = micro.tokens.trimmed()
        short = slice(0, tokens.response_ids.shape[1])
        mask = tokens.response_mask
        with torch.set_grad_enabled(not warmup):
            new_logprobs, _, hidden = self.base.logprobs(tokens, temperature=self.sampling.temperature)
        logprobs = micro.logprobs[:, short]
        loss, clipped = policy_loss_sum(
            new_logprobs, logprobs, micro.advantages[:, short], mask, clip_range=config.clip_range
        )
        moved = torch.where(mask, k3(logprobs, new_logprobs.detach()), 0.0).sum()
        sums = {"ppo/policy_loss": loss, "ppo/clip_fraction": clipped, "ppo/update_kl": moved}
        if config.kl_place == "loss":
            penalty = torch.where(mask, k3(new_logprobs, micro.ref_logprobs[:, short]), 0.0).sum()
            loss, sums["ppo/kl_loss"] = loss + self.kl.coef * penalty, penalty
        if self.value_head is not None and not self.own_critic:
            value_loss, of_value = self._value_loss(micro, hidden)
            loss = value_loss if warmup else loss + config.value_coef * value_loss
            sums |= of_value
        metrics = {name: value.detach().float() for name, value in sums.items()}
        return loss, metrics, (new_logprobs.detach() - logprobs)[mask]

    def _value_loss(self, micro: Rollout, hidden: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(the clipped value loss, its metrics), summed over real tokens, from the critic's states (B, R + 1, D)."""
        assert self.value_head is not None
        short = slice(0, hidden.shape[1] - 1)
        loss, clipped = value_loss_sum(
            self.value_head(hidden[:, :-1]),
            micro.values[:, short],
            micro.returns[:, short],
            micro.tokens.response_mask[:, short],
            clip_range=self.config.value_clip_range,
        )
        return loss, {"ppo/value_loss": loss.detach().float(), "ppo/value_clip_fraction": clipped.float()}

    # --- telling -------------------------------------------------------------------------------------------------

    def _describe(self, rollout: Rollout, entropies: torch.Tensor) -> Metrics:
        """Metrics of the rollout itself, before learning from it."""
        mask = rollout.tokens.response_mask
        kl = rollout.logprobs - rollout.ref_logprobs
        alarm = alarms.kl_at_start(rollout.logprobs, rollout.ref_logprobs, mask, self.base.compute_dtype)
        if self.steps_done == 0 and self.from_reference and alarm:
            self._sound(alarm)
        episodes = all_reduce_sum(torch.tensor(float(len(rollout)), device=mask.device))
        one = torch.ones_like(rollout.ended)
        metrics = {
            "ppo/step": float(self.steps_done + 1),
            "ppo/score_mean": float(masked_mean(rollout.scores, one)),
            "ppo/score_std": float(masked_variance(rollout.scores, one).sqrt()),
            "ppo/reward_mean": float(masked_sum(rollout.rewards, mask) / episodes),
            "ppo/kl": float(masked_mean(kl, mask)),
            "ppo/sequence_kl": float(masked_sum(kl, mask) / episodes),
            "ppo/entropy": float(masked_mean(entropies, mask)),
            "ppo/response_length": float(all_reduce_sum(mask.sum()) / episodes),
            "ppo/ended": float(masked_mean(rollout.ended.float(), one)),
        }
        if self.value_head is not None:
            unexplained = masked_variance(rollout.returns - rollout.values, mask)
            metrics["ppo/explained_variance"] = float(
                1 - unexplained / masked_variance(rollout.returns, mask).clamp_min(1e-12)
            )
        return metrics

    def _sound(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)
        if alarm.name not in self._known_alarms:
            self._known_alarms.add(alarm.name)
            self._on_alarm(alarm)

    def _refuse_non_finite(self, rollout: Rollout) -> None:
        """Before anything is learnt: one score that is not finite would reach every advantage through whitening."""
        inputs = {"score": rollout.scores[:, None], "log-probability": rollout.logprobs, "value": rollout.values}
        inputs["reference log-probability"] = rollout.ref_logprobs
        for name, x in inputs.items():
            rows = (~torch.isfinite(x)).any(1)
            if bool(rows.any()):
                raise NonFiniteError(
                    f"a {name} is not finite at step {self.steps_done + 1} ({self._prompts_of(rollout[rows])}); "
                    "no weight was changed in this step"
                )

    def _what_is_not_finite(self, thing: str, batch: Rollout) -> str:
        return (
            f"the {thing} is not finite at step {self.steps_done + 1} ({self._prompts_of(batch)}); "
            "this minibatch changed no weight: lower ppo.learning_rate"
        )

    def _prompts_of(self, batch: Rollout) -> str:
        ids = [self._asked[group] if self._asked else str(group) for group in sorted(set(batch.group.tolist()))]
        return f"prompts {', '.join(ids[:8])}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A copy of everything trained, by number; ``restore`` puts it back."""
        return {str(i): p.detach().clone() for i, p in enumerate(self.parameters)}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, torch.Tensor]) -> None:
        """Put the weights of a snapshot back."""
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(snapshot[str(i)])
