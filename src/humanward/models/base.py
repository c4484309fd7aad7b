"""One frozen base in memory; policy, reference, critic and reward model are named adapters and heads on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from humanward.config import LoraConfig
from humanward.errors import InputError
from humanward.models import lora_linear, states
from humanward.models.adapters import (
    notice_of_another_base,
    refuse_no_adapter,
    refuse_other_tokenizer,
    refuse_partial_fit,
    trained_on,
)
from humanward.models.checkpointing import checkpoint_layers
from humanward.models.dora import start_magnitudes_exactly
from humanward.models.loading import Loaded
from humanward.models.logprobs import LogitsOf, token_statistics
from humanward.models.output_head import OutputHead
from humanward.models.quantization import is_quantized, let_go_of_the_file
from humanward.models.tokens import Tokens, make_tokens
from humanward.records import Message, Prompt


class SharedBase:
    """A frozen language model with roles.

    ``policy`` is the adapter being trained. ``reference`` is the base with adapters off or, when the run starts from
    an SFT adapter, that adapter, frozen. Further roles (``reward``, ``critic``) are adapters of their own. A role may
    also be a whole copy of the base (full fine-tuning). ``role(name)`` switches and always restores; ``model`` is what
    the present role computes with.
    """

    def __init__(
        self, loaded: Loaded, *, system_prompt: str | None = None, gradient_checkpointing: bool = False
    ) -> None:
        self.name = loaded.name
        self.tokenizer = loaded.tokenizer
        self.stop_ids = loaded.stop_ids
        self.pad_id = loaded.pad_id
        self.context = loaded.context
        self.notices = list(loaded.notices)
        self.system_prompt = system_prompt
        self.model: Any = loaded.model
        if is_quantized(loaded.model):
            let_go_of_the_file(loaded.model)
        self.device = loaded.model.device
        self.compute_dtype: torch.dtype = loaded.model.dtype
        self.vocabulary = loaded.vocabulary
        head = loaded.model.get_output_embeddings()
        if head is None:
            raise InputError(
                f"{self.name}: has no language-model head; name a causal or encoder-decoder language model"
            )
        self.width: int = head.weight.shape[1]
        # Any, because PEFT hands its methods through to the base by __getattr__.
        self._peft: Any = None
        self._frozen = loaded.model
        self._whole: dict[str, Any] = {}
        self._checkpointing = gradient_checkpointing
        self._role = "reference"
        self._reference_adapter: str | None = None
        self._own_head = self._head_is_plain()
        if not self._own_head:
            self.notices.append(
                f"{self.name} scales or caps its logits; its own forward is used, which takes more memory"
            )
        self.samples_by_engine = self._engine_agrees()
        if gradient_checkpointing:
            checkpoint_layers(self.model, self.name)

    # --- roles ---------------------------------------------------------------------------------------------------

    @property
    def roles(self) -> tuple[str, ...]:
        """Adapters and copies present, and the reference, which always is."""
        adapters = () if self._peft is None else tuple(self._peft.peft_config)
        return tuple(dict.fromkeys((*adapters, *self._whole, "reference")))

    def add_role(self, name: str, lora: LoraConfig, seed: int = 0) -> None:
        """A new adapter that changes nothing yet (LoRA's B is 0); its A is drawn from ``seed``."""
        targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
        task = peft.TaskType.SEQ_2_SEQ_LM if self._frozen.config.is_encoder_decoder else peft.TaskType.CAUSAL_LM
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            target_modules=targets,
            use_dora=lora.variant == "dora",
            use_rslora=lora.rslora,
            lora_dropout=0.0,
            bias="none",
            task_type=task,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self._frozen.modules()),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self._inject(name, config, float32=lora.dtype == "float32")
                if lora.variant == "dora":
                    start_magnitudes_exactly(self._frozen, name)
            except ValueError as error:
                raise InputError(
                    f"lora.target_modules = {lora.target_modules!r}: matches nothing in {self.name} "
                    f"({str(error).splitlines()[0][:120]}); use 'all-linear' or names such as q_proj"
                ) from error

    def _inject(self, name: str, config: peft.PeftConfig, *, float32: bool = True) -> None:
        if self._peft is None:
            # The wrapper's random start is the seed's; PEFT makes 16-bit adapters float32 unless told otherwise.
            self._peft = peft.get_peft_model(self._frozen, config, adapter_name=name, autocast_adapter_dtype=float32)
        else:
            self._peft.add_adapter(name, config, autocast_adapter_dtype=float32)
        self._adapters_changed()

    def copy_role(self, name: str, source: str) -> None:
        """A new adapter ``name`` that begins as the adapter ``source``, of the same kind and in the same precision."""
        if self._peft is None or source not in self._peft.peft_config:
            raise KeyError(f"there is no adapter {source!r}")
        config = copy.deepcopy(self._peft.peft_config[source])
        config.inference_mode = False
        precision = {parameter.dtype for parameter in self.role_parameters(source)}
        with torch.random.fork_rng(devices=[]):
            self._inject(name, config, float32=torch.float32 in precision)
        weights = peft.get_peft_model_state_dict(self._peft, adapter_name=source, save_embedding_layers=False)
        peft.set_peft_model_state_dict(self._peft, weights, adapter_name=name)

    def add_whole_role(self, name: str, adapter: str | Path | None = None) -> None:
        """A trainable copy of the base in float32 (full fine-tuning), with ``adapter`` merged into it where given.

        Products are computed in the base's precision; float32 keeps steps that bfloat16 would round away.
        """
        if self._peft is not None:
            raise ValueError("a whole role is copied from the base, so it comes before the first adapter")
        if is_quantized(self._frozen):
            raise InputError(
                f"{self.name}: 4-bit weights cannot be trained themselves; set model.train = 'adapter' (QLoRA), "
                "or model.quantization = 'none'"
            )
        whole = copy.deepcopy(self._frozen).float()
        if adapter is not None:
            refuse_no_adapter(Path(adapter))
            with self._fits(Path(adapter)):
                whole = peft.PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload()
        if self._checkpointing:
            checkpoint_layers(whole, self.name)
        self._whole[name] = whole.requires_grad_(True).eval()

    def load_role(self, name: str, folder: str | Path) -> None:
        """An adapter from a folder in PEFT's format (safetensors)."""
        folder = Path(folder)
        refuse_no_adapter(folder)
        refuse_other_tokenizer(folder, self.name, self.tokenizer)
        with self._fits(folder):
            if self._peft is None:
                self._peft = peft.PeftModel.from_pretrained(self._frozen, str(folder), adapter_name=name)
            else:
                self._peft.load_adapter(str(folder), adapter_name=name)
        places = peft.get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        refuse_partial_fit(folder, self.name, places)
        self._adapters_changed()

    def start_from(self, folder: str | Path) -> None:
        """Start from an SFT adapter: it becomes the frozen reference, and the policy begins as its copy."""
        self.load_role("reference", folder)
        self.notices += notice_of_another_base(Path(folder), self.name)
        self._reference_adapter = "reference"
        if "policy" not in self._whole:
            self.load_role("policy", folder)

    def replace_role(self, name: str, folder: Path) -> None:
        """Put the saved weights in ``folder`` into the present role ``name``; both have the same shapes."""
        if name in self._whole:
            if not (folder / "config.json").exists():
                raise InputError(f"{folder}: holds no config.json; run the align stage first")
            with self._fits(folder):
                saved = type(self._whole[name]).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
                self._whole[name].load_state_dict(saved.state_dict())
            return
        if self._peft is None or name not in self._peft.peft_config:
            raise KeyError(f"there is no adapter {name!r}")
        refuse_no_adapter(folder, "run the align stage first")
        with self._fits(folder):
            weights = load_file(folder / "adapter_model.safetensors")
            peft.set_peft_model_state_dict(self._peft, weights, adapter_name=name)

    @contextmanager
    def _fits(self, folder: Path) -> Iterator[None]:
        """Says which base an adapter was trained on where it does not fit this one."""
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            origin = trained_on(folder)
            raise InputError(
                f"{folder}: {f'was trained on {origin} and ' if origin else ''}does not fit {self.name} "
                f"({str(error).splitlines()[0][:160]}); an adapter belongs to the base that it was trained on"
            ) from error

    def save_role(self, name: str, folder: Path) -> None:
        """Write an adapter as PEFT does, a whole role as transformers does: either loads ``folder`` without us."""
        folder.mkdir(parents=True, exist_ok=True)
        if name in self._whole:
            kept = copy.deepcopy(self._whole[name]).to(self._frozen.dtype)
            kept.save_pretrained(folder, safe_serialization=True)
            self.tokenizer.save_pretrained(folder)
            return
        if self._peft is None or name not in self._peft.peft_config:
            raise KeyError(f"there is no adapter {name!r}")
        config = self._peft.peft_config[name]
        # The base's embeddings are frozen; left to itself PEFT would ask the hub whether they were resized.
        weights = peft.get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        save_file(
            {key: value.contiguous().cpu() for key, value in weights.items()}, folder / "adapter_model.safetensors"
        )
        inference = config.inference_mode
        config.inference_mode = True
        config.base_model_name_or_path = self.name
        config.save_pretrained(str(folder))
        config.inference_mode = inference

    def role_parameters(self, name: str) -> list[nn.Parameter]:
        """The weights of an adapter or of a whole copy, in a stable order."""
        if name in self._whole:
            return list(self._whole[name].parameters())
        return [p for n, p in self._frozen.named_parameters() if f".{name}." in f"{n}." and "lora_" in n]

    @property
    def precision(self) -> dict[str, str]:
        """What is stored and computed in which number format."""
        stored = "nf4, double quantisation" if is_quantized(self._frozen) else _short(self._frozen)
        compute = str(self.compute_dtype).removeprefix("torch.")
        trained = {_short(p) for name in self.roles for p in self.role_parameters(name)}
        return {
            "base": stored,
            "compute": compute,
            "autocast": compute if self.compute_dtype == torch.bfloat16 else "off",
            "adapters": ", ".join(sorted(trained)) or "none",
            "log_probabilities": "float32",
        }

    @contextmanager
    def role(self, name: str) -> Iterator[SharedBase]:
        """Act as ``name`` inside the block, and as before after it, whatever happens."""
        if name not in self.roles:
            raise KeyError(f"no role {name!r}; there are {', '.join(self.roles)}")
        before = self._role
        self._switch(name)
        try:
            yield self
        finally:
            self._switch(before)

    def _adapters_changed(self) -> None:
        # An output matrix with an adapter of its own is no longer the plain matrix that ``logits`` multiplies with.
        if isinstance(self._frozen.get_output_embeddings(), BaseTunerLayer | AuxiliaryTrainingWrapper):
            self._own_head = False
        lora_linear.install(self._frozen)
        self._switch(self._role)

    def _switch(self, name: str) -> None:
        self._role = name
        self.model = self._whole.get(name, self._frozen)
        if self._peft is None or name in self._whole:
            return
        adapter = self._reference_adapter if name == "reference" else name
        if adapter is None:
            self._peft.base_model.disable_adapter_layers()
            return
        self._peft.base_model.enable_adapter_layers()
        self._peft.set_adapter(adapter)
        if self._peft.peft_config[adapter].modules_to_save:
            # Whole matrices that an SFT adapter brings (new embeddings, say) stay as they are: only LoRA is trained.
            for full_name, parameter in self._frozen.named_parameters():
                if ".modules_to_save." in full_name:
                    parameter.requires_grad_(False)
        if name == "reference":
            for parameter in self.role_parameters(adapter):
                parameter.requires_grad_(False)

    def _guard(self, hidden: torch.Tensor) -> torch.Tensor:
        """``hidden``, whose backward pass is refused under any other role: gradients would be lost or another's."""
        if hidden.requires_grad:
            role = self._role

            def check(_gradient: torch.Tensor) -> None:
                if self._role != role:
                    raise RuntimeError(f"a forward of role {role!r} goes backward under role {self._role!r}")

            hidden.register_hook(check)
        return hidden

    # --- forward -------------------------------------------------------------------------------------------------

    def _autocast(self) -> torch.autocast:
        """Adapters stay float32 and multiply in the base's precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.compute_dtype == torch.bfloat16)

    def states(self, tokens: Tokens) -> torch.Tensor:
        """(B, R + 1, D): the present role's states; see humanward.models.states."""
        with self._autocast():
            return self._guard(states.hidden_states(self.model, tokens))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., V) from states (..., D), in float32."""
        return self._head()(hidden)

    def _head(self) -> OutputHead:
        head = self.model.get_output_embeddings()
        return OutputHead(head.weight, getattr(head, "bias", None), self.compute_dtype)

    def logprobs(
        self, tokens: Tokens, *, temperature: float = 1.0, entropy: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(log-probabilities (B, R), entropies (B, R), states (B, R + 1, D)) of the present role, one trunk forward."""
        if self._own_head:
            hidden = self.states(tokens)
            source = hidden[:, :-1]
            logits_of: LogitsOf = self._head()
        else:
            with self._autocast():
                hidden, logits = states.own_logits(self.model, tokens)
            self._guard(hidden)
            source, logits_of = logits[:, :-1], lambda chunk: chunk
        logprobs, entropies = token_statistics(
            source,
            tokens.response_ids,
            tokens.response_mask,
            logits_of,
            temperature=temperature,
            vocabulary=self.vocabulary,
            entropy=entropy,
        )
        return logprobs, entropies, hidden

    def _engine_agrees(self) -> bool:
        """Whether the rollout engine computes what the model does; a notice gives the reason where it does not."""
        # The engine's modules see this one.
        from humanward.models.engine import why_not

        reason = why_not(self)
        if reason is not None and not self.model.config.is_encoder_decoder:
            self.notices.append(f"{self.name} is sampled by the library's forward, which is slower: {reason}")
        return reason is None

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Whether the output matrix on the trunk's state gives the model's own logits: no cap, no scale."""
        ids = torch.arange(min(8, self.vocabulary), device=self.device)[None]
        tokens = Tokens(ids[:, :4], torch.ones_like(ids[:, :4]).bool(), ids[:, 4:], torch.ones_like(ids[:, 4:]).bool())
        with self._autocast():
            hidden = states.hidden_states(self.model, tokens)
            _, own = states.own_logits(self.model, tokens)
        tolerance = 1e-4 if self.compute_dtype == torch.float32 else 0.05
        ours = self.logits(hidden)
        return bool((ours - own.float()).abs().max() <= tolerance * own.float().abs().max().clamp_min(1))

    # --- text ----------------------------------------------------------------------------------------------------

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt as the model reads it: through its chat template, or as plain text where it has none."""
        messages = list(prompt.as_messages())
        if self.system_prompt is not None and messages[0].role != "system":
            messages.insert(0, Message("system", self.system_prompt))
        if self.tokenizer.chat_template is not None:
            chat = [{"role": m.role, "content": m.content} for m in messages]
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(messages) == 1:
            text = messages[0].content
        else:
            titles = {"user": "Human", "assistant": "Assistant", "system": "System"}
            text = "\n\n".join(f"{titles.get(m.role, m.role)}: {m.content}" for m in messages) + "\n\nAssistant:"
        ids = list(self.tokenizer(text)["input_ids"])
        # Encoder tokenizers (and some others) close what they encode; a prompt to be continued must stay open.
        if not self.model.config.is_encoder_decoder and ids and ids[-1] in self.stop_ids:
            ids.pop()
        return ids or [self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.stop_ids[0]]

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """A response's tokens, closed by the end token when ``ended``."""
        if self.model.config.is_encoder_decoder:
            prefix = states.decoder_prefix(self.model)
            ids = states.target_ids(self.tokenizer, text, prefix, self.stop_ids)
        else:
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, self.stop_ids[0]] if ended else ids

    def response_text(self, ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The text of response tokens up to the first of the ``stop`` texts, without special tokens and outer space."""
        text = self.tokenizer.decode([i for i in ids if i not in self.stop_ids], skip_special_tokens=True)
        for mark in stop:
            text = text.partition(mark)[0]
        return text.strip()

    def encode(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        ended: Sequence[bool] | None = None,
        limit: int | None = None,
    ) -> Tokens:
        """Prompts and responses as a padded batch on the base's device.

        Where prompt + response exceed ``limit`` (by default the context), the prompt loses its beginning; a response
        that alone is longer is cut at its end.
        """
        limit = min(limit or self.context, self.context)
        rows, answers = [], []
        for index, (prompt, text) in enumerate(zip(prompts, responses, strict=True)):
            answer = self.response_ids(text, ended=True if ended is None else ended[index])[: limit - 1]
            rows.append(self.prompt_ids(prompt)[-max(1, limit - len(answer)) :])
            answers.append(answer)
        return make_tokens(rows, answers, self.pad_id).to(self.device)


def _short(tensor_or_model: Any) -> str:
    return str(tensor_or_model.dtype).removeprefix("torch.")
