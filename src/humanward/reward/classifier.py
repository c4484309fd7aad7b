"""Ready-made text classifiers, and regression models with one output, as a reward or a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from humanward.errors import InputError
from humanward.models import attention
from humanward.models.loading import (
    hub_is_unreachable,
    pick_device,
    pick_dtype,
    readable_errors,
    refuse_missing_weights,
    resolve,
)
from humanward.records import Prompt

NO_LIMIT = 100_000_000
"""Tokenizers without a limit say a number far above this."""
DEFAULT_LIMIT = 512
"""Tokens, where neither the model nor its tokenizer says how many it takes."""

Text = str | tuple[str, str]
Row = dict[str, list[int]]


class Classifier:
    """A ready-made text classifier with its own tokenizer.

    ``label`` is a name or an index; None takes the only output of a model that has one, -1 the last. ``output`` is its
    raw ``logit`` (unbounded, the usual reward) or its ``probability`` (for judging). ``text`` and ``template`` say what
    the classifier reads. Texts longer than ``max_tokens`` lose tokens on the side of ``truncation`` and are counted in
    ``truncated``.
    """

    def __init__(
        self,
        name: str,
        label: str | int | None = None,
        *,
        output: str = "logit",
        text: str = "response",
        template: str = "plain",
        tokenizer: str | None = None,
        max_tokens: int | None = None,
        truncation: str = "right",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int = 64,
    ) -> None:
        self.name, self.output, self.text, self.template, self.batch_size = name, output, text, template, batch_size
        chosen = pick_device(device)
        self.model, self.tokenizer = _load(name, tokenizer, revision, pick_dtype(dtype, chosen))
        self.tokenizer.truncation_side = truncation
        self.model.to(chosen).eval().requires_grad_(False)
        attention.install(self.model)
        if template == "chat" and self.tokenizer.chat_template is None:
            raise InputError(f"{name}: its tokenizer has no chat template; set template = 'plain'")
        self.label = self._find_label(label)
        self.max_tokens = self._limit(max_tokens)
        self.truncated = 0
        pad = self.tokenizer.pad_token_id
        if pad is None:
            pad = self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else 0
        self._pad = int(pad)
        if self.model.config.pad_token_id is None:
            self.model.config.pad_token_id = self._pad
        self._pads = True
        self._pads = self._padding_changes_nothing()

    # --- what is found out when it is loaded ---------------------------------------------------------------------

    def _find_label(self, label: str | int | None) -> int:
        outputs = int(self.model.config.num_labels)
        given = self.model.config.id2label or {}
        names = {i: str(given.get(i, f"LABEL_{i}")) for i in range(outputs)}
        if label == -1 or (label is None and outputs == 1):
            return max(names)
        listed = ", ".join(names.values())
        if label is None:
            raise InputError(f"{self.name}: has {outputs} labels, {listed}; say with label which of them counts")
        if isinstance(label, int) and label in names:
            return label
        for index, name in names.items():
            if str(label).casefold() == name.casefold():
                return index
        if isinstance(label, str) and label.isdecimal() and int(label) in names:
            return int(label)
        remedy = f"its labels are {listed}" if outputs > 1 else f"its only output is {listed}: set label = 0"
        raise InputError(f"{self.name}: has no label {label!r}; {remedy}")

    def _limit(self, wanted: int | None) -> int:
        """The most tokens that a text may have, special tokens included."""
        config = self.model.config.get_text_config()
        positions = int(getattr(config, "max_position_embeddings", 0) or 0)
        if positions > 0:
            # RoBERTa and its kin count positions from behind their padding index.
            offsets = [
                module.padding_idx + 1
                for name, module in self.model.named_modules()
                if name.endswith("position_embeddings")
                and isinstance(module, nn.Embedding)
                and module.padding_idx is not None
            ]
            positions -= max(offsets, default=0)
        known = [n for n in (positions, int(self.tokenizer.model_max_length)) if 0 < n < NO_LIMIT]
        if wanted is not None and known and wanted > min(known):
            raise InputError(f"{self.name}: max_tokens = {wanted}: it reads {min(known)} tokens at most; lower it")
        limit = wanted or min(known, default=DEFAULT_LIMIT)
        special = 0 if self.template == "chat" else self.tokenizer.num_special_tokens_to_add(self.template == "pair")
        if limit <= special:
            raise InputError(
                f"{self.name}: max_tokens = {limit} leaves no room beside the {special} tokens that its tokenizer "
                "adds; raise it"
            )
        return limit

    def _padding_changes_nothing(self) -> bool:
        """Whether a text scores the same beside a longer one; otherwise batches hold texts of one length."""
        short, long = ({"input_ids": list(self.tokenizer(text)["input_ids"])} for text in ("a", "a b a b a b"))
        if not short["input_ids"] or len(long["input_ids"]) > self.max_tokens:
            return False
        alone, beside = self._forward([short])[0], self._forward([short, long])[0]
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.05
        return bool((alone - beside).abs().max() <= tolerance * alone.abs().max().clamp_min(1))

    # --- scores --------------------------------------------------------------------------------------------------

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) the label's logit or probability for each response, with its prompt where ``text`` says so."""
        if self.template == "chat":
            return self._score([self._chat(p, r) for p, r in zip(prompts, responses, strict=True)], special=False)
        if self.text == "response":
            return self.score_texts(responses)
        questions = [prompt.as_messages()[-1].content for prompt in prompts]
        if self.template == "pair":
            return self._score(list(zip(questions, responses, strict=True)))
        return self.score_texts([f"{q}\n{r}" for q, r in zip(questions, responses, strict=True)])

    def score_texts(self, texts: Sequence[str], progress: Callable[[int], None] = lambda done: None) -> torch.Tensor:
        """(B,) the label's logit or probability for each text as it is, batched by length."""
        return self._score(texts, progress=progress)

    def _chat(self, prompt: Prompt, response: str) -> str:
        turns = [{"role": "user", "content": response}]
        if self.text == "prompt+response":
            turns = [{"role": m.role, "content": m.content} for m in prompt.as_messages()]
            turns.append({"role": "assistant", "content": response})
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        except TemplateError as error:
            raise InputError(
                f"{self.name}: its chat template refuses the turns {', '.join(t['role'] for t in turns)} ({error}); "
                "set template = 'plain'"
            ) from error

    @torch.no_grad()
    def _score(
        self,
        texts: Sequence[Text],
        *,
        special: bool = True,
        progress: Callable[[int], None] = lambda done: None,
    ) -> torch.Tensor:
        rows = [self._row(text, special) for text in texts]
        scores = torch.empty(len(rows))
        done = 0
        for batch in self._batches([len(row["input_ids"]) for row in rows]):
            logits = self._forward([rows[i] for i in batch])
            scores[batch] = logits[:, self.label] if self.output == "logit" else self._probability(logits)
            done += len(batch)
            progress(done)
        return scores

    def _row(self, text: Text, special: bool) -> Row:
        """One text as its tokenizer encodes it, truncated and counted where it is too long."""
        parts = text if isinstance(text, tuple) else (text,)
        # Elsewhere they are nothing to the model, or (GPT-2) something else than the tokenizer means by them.
        segments = isinstance(text, tuple) and getattr(self.model.config, "type_vocab_size", 0) > 1
        options = {"add_special_tokens": special, "return_token_type_ids": segments}
        row = self.tokenizer(*parts, **options)
        if len(row["input_ids"]) > self.max_tokens:
            # The tokenizer cuts, so that the tokens which open and close a text stay where the classifier expects them.
            row = self.tokenizer(*parts, **options, truncation=True, max_length=self.max_tokens)
            self.truncated += 1
        kept = {"input_ids": list(row["input_ids"]) or [self._pad]}
        if segments:
            kept["token_type_ids"] = list(row["token_type_ids"])
        return kept

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places of the rows in batches of similar length, or of equal length where padding would change scores."""
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        batches: list[list[int]] = []
        for i in order:
            last = batches[-1] if batches else None
            full = last is None or len(last) == self.batch_size
            if full or (not self._pads and lengths[batches[-1][0]] != lengths[i]):
                batches.append([i])
            else:
                batches[-1].append(i)
        return batches

    @torch.no_grad()
    def _forward(self, rows: Sequence[Row]) -> torch.Tensor:
        """(B, labels) logits in float32 on the CPU."""
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self._pad, "token_type_ids": 0}
        inputs = {
            key: torch.tensor([row[key] + [fill[key]] * (width - len(row[key])) for row in rows]) for key in rows[0]
        }
        inputs["attention_mask"] = torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
        )
        device = self.model.device
        return self.model(**{key: value.to(device) for key, value in inputs.items()}).logits.float().cpu()

    def _probability(self, logits: torch.Tensor) -> torch.Tensor:
        independent = self.model.config.problem_type in ("multi_label_classification", "regression")
        if logits.shape[1] == 1 or independent:
            return logits[:, self.label].sigmoid()
        return logits.softmax(-1)[:, self.label]


def _load(name: str, tokenizer: str | None, revision: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    """(model, tokenizer) from safetensors; InputError for what cannot be loaded."""
    path, options = _place(name, revision)
    with readable_errors(name, "classifier"):
        config = AutoConfig.from_pretrained(path, **options)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, use_safetensors=True, config=config, output_loading_info=True, **options
        )
    refuse_missing_weights(name, info, "name a model that was trained to classify texts")
    if tokenizer is not None:
        path, options = _place(tokenizer, None)
    with readable_errors(tokenizer or name, "classifier's tokenizer"):
        loaded = AutoTokenizer.from_pretrained(path, **options)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if len(loaded) > vocabulary and tokenizer is not None:
        raise InputError(
            f"{tokenizer}: has {len(loaded)} tokens and {name} only {vocabulary} embeddings; use the tokenizer that "
            "the classifier was trained with"
        )
    return model, loaded


def _place(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """(path or hub id, options for transformers)."""
    path = resolve(name)
    options: dict[str, Any] = {"revision": revision} if path == name else {"local_files_only": True}
    if not Path(path).exists() and hub_is_unreachable():
        options["local_files_only"] = True
    return path, options
