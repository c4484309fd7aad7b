"""Kinds of roles: a critic of its own, a whole copy, DoRA, 4-bit bases, checkpointed layers; none moves another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import tiny
from peft.tuners.lora import LoraLayer

from humanward.config import LoraConfig, ModelConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.loading import load_model

WIDE = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}


def learn(base: SharedBase, role: str, rate: float = 0.1) -> torch.Tensor:
    """One step of Adam on a role's log-probabilities; these before it."""
    parameters = base.role_parameters(role)
    optimizer = torch.optim.Adam(parameters, lr=rate)
    with base.role(role):
        logprobs, _, _ = base.logprobs(tiny.tokens())
        logprobs.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return logprobs.detach()


def test_training_one_role_moves_no_other_bitwise() -> None:
    base = tiny.shared_base()
    frozen = tiny.weights(base.model.parameters())
    for seed, role in enumerate(("policy", "critic", "reward")):
        base.add_role(role, LoraConfig(rank=2), seed=seed)
    for trained in ("policy", "critic", "reward"):
        before = {role: tiny.weights(base.role_parameters(role)) for role in base.roles}
        learn(base, trained)
        for role, weights in before.items():
            assert tiny.same(tiny.weights(base.role_parameters(role)), weights) == (role != trained or not weights)
    with base.role("reference"):
        kept = [p for n, p in base.model.named_parameters() if "lora_" not in n]
    assert tiny.same(tiny.weights(kept), frozen)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_backward_pass_in_another_role_is_refused(checkpointing: bool) -> None:
    base = SharedBase(tiny.loaded("llama"), gradient_checkpointing=checkpointing)
    base.add_role("policy", LoraConfig(rank=2))
    base.add_role("critic", LoraConfig(rank=2))
    with base.role("policy"):
        logprobs, _, _ = base.logprobs(tiny.tokens())
    with base.role("critic"), pytest.raises(RuntimeError, match="of role 'policy' goes backward under role 'critic'"):
        logprobs.sum().backward()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "t5-untied", "bart"])
def test_checkpointed_layers_give_the_same_gradients(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        base = SharedBase(tiny.loaded(name), gradient_checkpointing=checkpointing)
        base.add_role("critic", LoraConfig(rank=2), seed=1)
        tiny.with_policy(base, moved=0.2)
        with base.role("policy"):
            logprobs, _, hidden = base.logprobs(tiny.tokens())
            (logprobs.sum() + hidden.sum()).backward()
        gradients.append([p.grad for p in base.role_parameters("policy")])
        assert all(p.grad is None for p in base.role_parameters("critic"))
    for plain, again in zip(*gradients, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-5)
    assert sum(float(g.abs().sum()) for g in gradients[0] if g is not None) > 0


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5-tied"])
@pytest.mark.parametrize("options", [{"variant": "dora"}, {"rslora": True, "rank": 4}])
def test_dora_and_rslora_start_at_the_reference_and_learn(name: str, options: dict[str, object]) -> None:
    base = tiny.shared_base(name)
    base.add_role("policy", LoraConfig(**{"rank": 2, **options}))
    before = learn(base, "policy")
    with torch.no_grad(), base.role("reference"):
        torch.testing.assert_close(base.logprobs(tiny.tokens())[0], before, rtol=1e-5, atol=1e-5)
    with torch.no_grad(), base.role("policy"):
        assert float((base.logprobs(tiny.tokens())[0] - before).abs().max()) > 1e-3


def test_dora_starts_at_a_bfloat16_reference() -> None:
    """PEFT's own start is off by a mean of .02 nats a token on the demo policy."""
    base = tiny.shared_base(dtype="bfloat16")
    base.add_role("policy", LoraConfig(rank=2, variant="dora"))
    with torch.no_grad():
        reference = base.logprobs(tiny.tokens())[0]
        with base.role("policy"):
            difference = (base.logprobs(tiny.tokens())[0] - reference).abs()
    assert float(difference.mean()) < 1e-3


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    """alpha 8, rank 4: 8 / 2 = 4, against LoRA's 8 / 4 = 2."""
    scales = []
    for rslora in (True, False):
        base = tiny.shared_base()
        base.add_role("policy", LoraConfig(rank=4, alpha=8, rslora=rslora))
        scales.append({m.scaling["policy"] for m in base.model.modules() if isinstance(m, LoraLayer)})
    assert scales == [{4.0}, {2.0}]


def test_a_copied_role_says_the_same_and_goes_its_own_way() -> None:
    base = tiny.shared_base()
    base.add_role("reward", LoraConfig(rank=2))
    learn(base, "reward")
    base.copy_role("critic", "reward")
    assert tiny.same(tiny.weights(base.role_parameters("critic")), tiny.weights(base.role_parameters("reward")))
    before = tiny.weights(base.role_parameters("reward"))
    learn(base, "critic")
    assert tiny.same(tiny.weights(base.role_parameters("reward")), before)
    with pytest.raises(KeyError, match="no adapter 'nothing'"):
        base.copy_role("other", "nothing")


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5-tied", "bart"])
def test_a_whole_role_learns_with_all_weights_and_the_reference_stays(name: str, tmp_path: Path) -> None:
    base = tiny.shared_base(name)
    base.add_whole_role("policy")
    base.add_role("reward", LoraConfig(rank=2))
    with torch.no_grad():
        before = base.logprobs(tiny.tokens())[0]
    torch.testing.assert_close(learn(base, "policy", rate=0.01), before, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(base.logprobs(tiny.tokens())[0], before)
        with base.role("policy"):
            moved = base.logprobs(tiny.tokens())[0]
        with base.role("reward"):
            assert torch.equal(base.logprobs(tiny.tokens())[0], before)
    assert float((moved - before).abs().max()) > 1e-3
    base.save_role("policy", tmp_path)
    other = SharedBase(load_model(ModelConfig(policy=str(tmp_path), dtype="float32")))
    with torch.no_grad():
        torch.testing.assert_close(other.logprobs(tiny.tokens())[0], moved, rtol=1e-5, atol=1e-5)
    third = tiny.shared_base(name)
    third.add_whole_role("policy")
    third.replace_role("policy", tmp_path)
    with torch.no_grad(), third.role("policy"):
        assert torch.equal(third.logprobs(tiny.tokens())[0], moved)


def test_a_whole_role_starts_from_an_sft_adapter_which_is_the_reference(tmp_path: Path) -> None:
    sft = tiny.with_policy(tiny.shared_base(), moved=0.3)
    sft.save_role("policy", tmp_path)
    with torch.no_grad(), sft.role("policy"):
        expected = sft.logprobs(tiny.tokens())[0]
    base = tiny.shared_base()
    base.add_whole_role("policy", tmp_path)
    base.start_from(tmp_path)
    for role in ("policy", "reference"):
        with torch.no_grad(), base.role(role):
            torch.testing.assert_close(base.logprobs(tiny.tokens())[0], expected, rtol=1e-5, atol=1e-5)


def test_a_whole_role_comes_first_and_never_on_four_bits() -> None:
    with pytest.raises(ValueError, match="comes before the first adapter"):
        tiny.with_policy(tiny.shared_base()).add_whole_role("critic")
    with pytest.raises(ValueError, match="4-bit weights cannot be trained themselves"):
        ModelConfig(train="full", quantization="nf4")


@pytest.mark.parametrize(("dtype", "name"), [("float32", "llama"), ("bfloat16", "llama"), ("float32", "t5-tied")])
def test_four_bit_bases_carry_roles(dtype: str, name: str, tmp_path: Path) -> None:
    """Weights in four bits; policy equals reference at the start, learns, and is found again after saving."""
    pytest.importorskip("bitsandbytes")
    sizes = WIDE if name == "llama" else {"d_model": 64, "d_kv": 32, "d_ff": 64}
    config = ModelConfig(policy=str(tiny.save(tmp_path / "base", name, **sizes)), dtype=dtype, quantization="nf4")
    base = SharedBase(load_model(config))
    base.add_role("policy", LoraConfig(rank=2))
    packed = {p.dtype for n, p in base.model.named_parameters() if n.endswith("base_layer.weight")}
    # transformers leaves T5's output projection of the feed-forward layers in float32.
    assert packed == ({torch.uint8} if name == "llama" else {torch.uint8, torch.float32})
    assert base.precision["base"] == "nf4, double quantisation"
    assert (base.precision["compute"], base.precision["adapters"]) == (dtype, "float32")
    before = learn(base, "policy")
    with torch.no_grad():
        assert torch.equal(base.logprobs(tiny.tokens())[0], before)
        with base.role("policy"):
            moved = base.logprobs(tiny.tokens())[0]
    assert float((moved - before).abs().max()) > 1e-2
    base.save_role("policy", tmp_path / "adapter")
    other = SharedBase(load_model(config))
    other.load_role("policy", tmp_path / "adapter")
    with torch.no_grad(), other.role("policy"):
        assert torch.equal(other.logprobs(tiny.tokens())[0], moved)


def test_double_quantisation_survives_forwards_without_gradients(tmp_path: Path) -> None:
    """bitsandbytes would repack for AVX-512 at the first one, and then compute other numbers than when learning."""
    pytest.importorskip("bitsandbytes")
    base = SharedBase(
        load_model(ModelConfig(policy=str(tiny.save(tmp_path, **WIDE)), quantization="nf4", dtype="bfloat16"))
    )
    with torch.no_grad():
        first = base.logprobs(tiny.tokens())[0]
        assert torch.equal(base.logprobs(tiny.tokens())[0], first)
    states = [p.quant_state for p in base.model.parameters() if hasattr(p, "quant_state")]
    assert states
    assert all(state.nested for state in states)


def test_a_missing_bitsandbytes_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humanward.models.quantization.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"bitsandbytes is not installed; pip install 'humanward\[qlora\]'"):
        load_model(ModelConfig(policy=str(tiny.save(tmp_path)), quantization="nf4"))


def test_an_adapter_for_another_base_names_both(tmp_path: Path) -> None:
    tiny.with_policy(tiny.shared_base("llama", hidden_size=32, num_attention_heads=4)).save_role("policy", tmp_path)
    with pytest.raises(InputError, match=r"was trained on .* and does not fit"):
        tiny.shared_base("llama").load_role("policy", tmp_path)
