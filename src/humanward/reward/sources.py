"""Reward sources: anything that scores a response to a prompt.

A source speaks text: ``score(prompts, responses) -> (B,)``, higher is better. To add one, write a class with ``name``
and ``score`` here or anywhere, and give it a branch in humanward.stages.scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from humanward.errors import InputError
from humanward.models.loading import (
    hub_is_unreachable,
    pick_device,
    readable_errors,
    refuse_missing_weights,
    resolve,
)
from humanward.records import Prompt


class RewardSource(Protocol):
    """What the trainer and the evaluation accept as a reward."""

    name: str

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) scores in float32 on the CPU, higher is better, NaN where a text cannot be scored."""
        ...


class Gold:
    """What simulated annotators follow: a classifier's score, less ``short_penalty`` for answers of too few words.

    Without the penalty "yes" is as good an answer as any, and a policy learns to say little else.
    """

    def __init__(self, classifier: RewardSource, short_words: int, short_penalty: float) -> None:
        self.classifier, self.short_words, self.short_penalty = classifier, short_words, short_penalty
        self.name = classifier.name

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) the classifier's scores, lower by the penalty where a response has fewer than ``short_words`` words."""
        short = torch.tensor([len(response.split()) < self.short_words for response in responses])
        return self.classifier.score(prompts, responses) - self.short_penalty * short


class Classifier:
    """A ready-made text classifier with its own tokenizer.

    ``label`` is a name or an index. ``output`` is its raw ``logit`` (unbounded, the usual reward) or its
    ``probability`` (for judging). ``text`` says what the classifier reads. Texts longer than ``max_tokens`` are cut
    on the right and counted in ``truncated``.
    """

    def __init__(
        self,
        name: str,
        label: str | int,
        *,
        output: str = "logit",
        text: str = "response",
        max_tokens: int | None = None,
        revision: str | None = None,
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        self.name, self.output, self.text, self.batch_size = name, output, text, batch_size
        path = resolve(name)
        options: dict[str, Any] = {"revision": revision} if path == name else {"local_files_only": True}
        if not Path(path).exists() and hub_is_unreachable():
            options["local_files_only"] = True
        with readable_errors(name, "classifier"):
            config = AutoConfig.from_pretrained(path, **options)
            self.model, info = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, config=config, output_loading_info=True, **options
            )
            self.tokenizer = AutoTokenizer.from_pretrained(path, **options)
        refuse_missing_weights(name, info, "name a model that was trained to classify texts")
        self.tokenizer.truncation_side = "right"
        self.model.to(pick_device(device)).eval().requires_grad_(False)
        self.label = self._find_label(label)
        self.max_tokens = min(max_tokens or self._limit(), self._limit())
        self.truncated = 0
        pad = self.tokenizer.pad_token_id
        if pad is None:
            pad = self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else 0
        self._pad = int(pad)
        if self.model.config.pad_token_id is None:
            self.model.config.pad_token_id = self._pad

    def _find_label(self, label: str | int) -> int:
        names = {int(i): str(n) for i, n in self.model.config.id2label.items()}
        if label == -1:
            return max(names)
        if isinstance(label, int) and label in names:
            return label
        for index, name in names.items():
            if str(label).casefold() == name.casefold():
                return index
        raise InputError(f"{self.name}: has no label {label!r}; its labels are {', '.join(names.values())}")

    def _limit(self) -> int:
        config = self.model.config
        positions = int(getattr(config, "max_position_embeddings", 0) or 512)
        # RoBERTa's positions begin after its padding index.
        offset = (config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
        return min(positions - offset, int(self.tokenizer.model_max_length))

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) the label's logit or probability for each text."""
        if self.text == "response":
            return self.score_texts(responses)
        return self.score_texts(
            [f"{p.as_messages()[-1].content}\n{r}" for p, r in zip(prompts, responses, strict=True)]
        )

    @torch.no_grad()
    def score_texts(self, texts: Sequence[str], progress: Callable[[int], None] = lambda done: None) -> torch.Tensor:
        """(B,) the label's logit or probability for each text, batched by length."""
        rows = [list(self.tokenizer(text)["input_ids"]) or [self._pad] for text in texts]
        for i, row in enumerate(rows):
            if len(row) > self.max_tokens:
                # The tokenizer cuts, so that the tokens which close a text stay where the classifier expects them.
                rows[i] = list(self.tokenizer(texts[i], truncation=True, max_length=self.max_tokens)["input_ids"])
                self.truncated += 1
        scores = torch.empty(len(rows))
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            width = max(len(rows[i]) for i in batch)
            ids = torch.tensor([rows[i] + [self._pad] * (width - len(rows[i])) for i in batch])
            mask = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in batch])
            device = self.model.device
            logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float().cpu()
            scores[batch] = logits[:, self.label] if self.output == "logit" else self._probability(logits)
            progress(start + len(batch))
        return scores

    def _probability(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[1] == 1 or self.model.config.problem_type == "multi_label_classification":
            return logits[:, self.label].sigmoid()
        return logits.softmax(-1)[:, self.label]
