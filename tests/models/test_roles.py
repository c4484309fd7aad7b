"""Roles on one base: adapters that switch, stay apart and load elsewhere."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from models import tiny

from humanward.config import LoraConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase


@torch.no_grad()
def logprobs(base: SharedBase, role: str) -> torch.Tensor:
    with base.role(role):
        return base.logprobs(tiny.tokens())[0]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "t5-tied", "bart"])
def test_a_new_policy_is_the_reference_bitwise(name: str) -> None:
    plain = tiny.shared_base(name)
    with torch.no_grad():
        before = plain.logprobs(tiny.tokens())[0]
    base = tiny.with_policy(plain)
    assert torch.equal(logprobs(base, "policy"), logprobs(base, "reference"))
    assert torch.equal(logprobs(base, "reference"), before)


def test_a_moved_policy_differs_and_the_reference_stays() -> None:
    base = tiny.shared_base()
    with torch.no_grad():
        before = base.logprobs(tiny.tokens())[0]
    tiny.with_policy(base, moved=0.3)
    assert float((logprobs(base, "policy") - before).abs().max()) > 0.01
    assert torch.equal(logprobs(base, "reference"), before)


def test_a_role_ends_with_its_block_whatever_happens() -> None:
    base = tiny.with_policy(tiny.shared_base(), moved=0.3)
    outside = logprobs(base, "reference")

    def fail() -> None:
        with base.role("policy"), base.role("reference"):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert base._role == "reference"
    with torch.no_grad():
        assert torch.equal(base.logprobs(tiny.tokens())[0], outside)
        with base.role("policy"):
            policy = base.logprobs(tiny.tokens())[0]
            with base.role("reference"):
                assert torch.equal(base.logprobs(tiny.tokens())[0], outside)
            assert torch.equal(base.logprobs(tiny.tokens())[0], policy)
    with pytest.raises(KeyError, match="no role 'critic'; there are policy, reference"), base.role("critic"):
        pass


def test_parameters_of_roles_do_not_overlap() -> None:
    base = tiny.shared_base()
    for role in ("policy", "policy2", "reward"):
        tiny.with_policy(base, role=role)
    sets = {role: {id(p) for p in base.role_parameters(role)} for role in ("policy", "policy2", "reward")}
    assert {len(s) for s in sets.values()} == {28}  # 2 layers x 7 matrices x (A, B)
    assert len(set.union(*sets.values())) == 3 * 28
    assert base.role_parameters("reference") == []
    lora = [p for n, p in base.model.named_parameters() if "lora_" in n]
    assert len(lora) == 3 * 28


def test_adapters_on_embeddings_are_parameters_of_the_role() -> None:
    base = tiny.shared_base("llama")
    base.add_role("policy", LoraConfig(rank=2, target_modules=("embed_tokens", "q_proj")))
    assert len(base.role_parameters("policy")) == 2 + 2 * 2


def test_training_the_policy_changes_no_other_role() -> None:
    base = tiny.shared_base()
    for role in ("policy", "policy2", "reward"):
        tiny.with_policy(base, role=role, moved=0.1)
    ours = {id(p) for p in base.role_parameters("policy")}
    others = [p for p in base.model.parameters() if id(p) not in ours]
    before, reference = tiny.weights(others), logprobs(base, "reference")
    mine = tiny.weights(base.role_parameters("policy"))
    optimizer = torch.optim.Adam(base.model.parameters(), lr=0.1)
    with base.role("policy"):
        base.logprobs(tiny.tokens())[0].sum().backward()
        with base.role("reference"), torch.no_grad():
            base.logprobs(tiny.tokens())
        optimizer.step()
    assert tiny.same(tiny.weights(others), before)
    assert all(not torch.equal(a, b) for a, b in zip(base.role_parameters("policy"), mine, strict=True))
    assert torch.equal(logprobs(base, "reference"), reference)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5-untied"])
def test_a_saved_adapter_loads_in_plain_peft(name: str, tmp_path: Path) -> None:
    base = tiny.with_policy(tiny.shared_base(name), moved=0.3)
    base.save_role("policy", tmp_path)
    plain = peft.PeftModel.from_pretrained(tiny.model(name).eval(), str(tmp_path))
    ids = torch.tensor([[1, 2, 3, 4]])
    extra = {"decoder_input_ids": ids} if base.model.config.is_encoder_decoder else {}
    with torch.no_grad(), base.role("policy"):
        torch.testing.assert_close(plain(input_ids=ids, **extra).logits, base.model(input_ids=ids, **extra).logits)
    with torch.no_grad(), base.role("reference"):
        difference = plain(input_ids=ids, **extra).logits - base.model(input_ids=ids, **extra).logits
    assert float(difference.abs().max()) > 0.01


def test_a_saved_adapter_comes_back(tmp_path: Path) -> None:
    base = tiny.with_policy(tiny.shared_base(), moved=0.3)
    wanted = logprobs(base, "policy")
    base.save_role("policy", tmp_path)
    base.save_role("policy", tmp_path)
    other = tiny.shared_base()
    other.load_role("policy", tmp_path)
    assert torch.equal(logprobs(other, "policy"), wanted)
    third = tiny.with_policy(tiny.shared_base(), seed=5)
    third.replace_role("policy", tmp_path)
    assert torch.equal(logprobs(third, "policy"), wanted)
    assert torch.equal(logprobs(third, "reference"), logprobs(base, "reference"))


def test_starting_from_an_sft_adapter_makes_it_the_reference(tmp_path: Path) -> None:
    sft = tiny.with_policy(tiny.shared_base(), moved=0.3)
    sft.save_role("policy", tmp_path)
    raw, tuned = logprobs(sft, "reference"), logprobs(sft, "policy")
    base = tiny.shared_base()
    base.start_from(tmp_path)
    assert set(base.roles) == {"reference", "policy"}
    assert torch.equal(logprobs(base, "reference"), tuned)
    assert torch.equal(logprobs(base, "policy"), tuned)
    assert not torch.equal(tuned, raw)
    frozen = tiny.weights(base.role_parameters("reference"))
    optimizer = torch.optim.Adam(base.role_parameters("policy"), lr=0.1)
    with base.role("policy"):
        assert all(p.requires_grad for p in base.role_parameters("policy"))
        base.logprobs(tiny.tokens())[0].sum().backward()
        with base.role("reference"):
            assert not any(p.requires_grad for p in base.role_parameters("reference"))
        optimizer.step()
    assert tiny.same(tiny.weights(base.role_parameters("reference")), frozen)
    assert torch.equal(logprobs(base, "reference"), tuned)
    assert not torch.equal(logprobs(base, "policy"), tuned)


def test_an_sft_adapter_with_dropout_is_loaded_without_it(tmp_path: Path) -> None:
    model = tiny.model("llama")
    config = peft.LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    wrapped.save_pretrained(tmp_path)
    base = tiny.shared_base()
    base.start_from(tmp_path)
    assert torch.equal(logprobs(base, "policy"), logprobs(base, "policy"))
    assert torch.equal(logprobs(base, "policy"), logprobs(base, "reference"))


def test_an_sft_adapter_on_the_output_matrix_counts(tmp_path: Path) -> None:
    """Its log-probabilities must be those that plain PEFT computes, output matrix included."""
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(tiny.model("llama"), config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    with tiny.quiet("Setting `save_embedding_layers`"):
        wrapped.save_pretrained(tmp_path)
    base = tiny.shared_base()
    base.start_from(tmp_path)
    prompt, response = tiny.PROMPTS[0], tiny.RESPONSES[0]
    with torch.no_grad():
        labels = torch.tensor([[-100] * len(prompt) + response])
        loss = wrapped(input_ids=torch.tensor([prompt + response]), labels=labels).loss
    assert -float(logprobs(base, "policy")[0].sum()) / len(response) == pytest.approx(float(loss), rel=1e-5)


def test_whole_matrices_of_an_sft_adapter_count_and_stay_as_they_are(tmp_path: Path) -> None:
    """DoRA on one matrix and a whole output matrix and embedding of its own, as after adding chat tokens."""
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj"],
        modules_to_save=["lm_head", "embed_tokens"],
        use_dora=True,
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(tiny.model("llama"), config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    wrapped.save_pretrained(tmp_path)
    base = tiny.shared_base()
    base.start_from(tmp_path)
    prompt, response = tiny.PROMPTS[0], tiny.RESPONSES[0]
    with torch.no_grad():
        labels = torch.tensor([[-100] * len(prompt) + response])
        loss = float(wrapped(input_ids=torch.tensor([prompt + response]), labels=labels).loss)
    for role in ("policy", "reference"):
        assert -float(logprobs(base, role)[0].sum()) / len(response) == pytest.approx(loss, rel=1e-5)
    with base.role("policy"):
        base.logprobs(tiny.tokens())[0].sum().backward()
        ours = {id(p) for p in base.role_parameters("policy")}
        assert ours == {id(p) for p in base.model.parameters() if p.requires_grad}
        assert ours == {id(p) for p in base.model.parameters() if p.grad is not None}
    base.save_role("policy", tmp_path / "again")
    plain = peft.PeftModel.from_pretrained(tiny.model("llama").eval(), str(tmp_path / "again"))
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad(), base.role("policy"):
        torch.testing.assert_close(plain(input_ids=ids).logits, base.model(input_ids=ids).logits)


def test_errors_are_one_line_and_name_the_thing(tmp_path: Path) -> None:
    base = tiny.shared_base()
    with pytest.raises(InputError, match=r"lora.target_modules = \('nowhere',\): matches nothing in tiny-llama"):
        base.add_role("policy", LoraConfig(target_modules=("nowhere",)))
    base = tiny.shared_base()
    with pytest.raises(InputError, match=r"holds no adapter_model.safetensors"):
        base.load_role("policy", tmp_path)
    tiny.with_policy(tiny.shared_base("llama", hidden_size=32)).save_role("policy", tmp_path / "wide")
    with pytest.raises(InputError, match="does not fit tiny-llama") as caught:
        base.load_role("policy", tmp_path / "wide")
    assert "\n" not in str(caught.value)
    base = tiny.with_policy(tiny.shared_base(), role="reward")
    with pytest.raises(InputError, match=r"holds no adapter_model.safetensors; run the align stage first"):
        base.replace_role("reward", tmp_path)
    with pytest.raises(KeyError, match="no adapter"):
        base.save_role("critic", tmp_path / "critic")


def test_a_replaced_adapter_must_fit(tmp_path: Path) -> None:
    tiny.with_policy(tiny.shared_base("llama", hidden_size=32)).save_role("policy", tmp_path)
    base = tiny.with_policy(tiny.shared_base())
    with pytest.raises(InputError, match="does not fit tiny-llama"):
        base.replace_role("policy", tmp_path)


def test_a_role_is_drawn_from_its_seed_alone() -> None:
    first, second, third = (tiny.with_policy(tiny.shared_base(), seed=s) for s in (3, 3, 4))
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    tiny.with_policy(tiny.shared_base(), seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    a, b, c = (tiny.weights(x.role_parameters("policy")) for x in (first, second, third))
    assert tiny.same(a, b)
    assert not tiny.same(a, c)
