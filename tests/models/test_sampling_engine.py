"""The rollout engine equals the library's forward, however it arranges its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from models import tiny

from humanward.config import LoraConfig
from humanward.errors import InputError
from humanward.models import engine as engine_module
from humanward.models import projections
from humanward.models.base import SharedBase
from humanward.models.engine import Engine, teacher_forced
from humanward.models.loading import finish_loading
from humanward.models.sampling import Response, as_tokens, choose, sample, uniforms

FAMILIES = ("llama", "qwen2", "qwen3", "mistral-wide", "gpt2", "neox")
OTHERS = ("mistral", "opt", "gptj", "bloom", "lfm2", *tiny.CAPPED, *tiny.ENCODER_DECODER)

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3], [11, 2] * 9, [1, 2, 3], [0, 17], [1, 2, 3], [3]]
ANSWERS = [
    [5, 6, 7, 8, 1],
    [9, 9, 2, 1, 0],
    [0, 1, 2, 3, 4],
    [7, 3, 7, 3, 7],
    [1] * 5,
    [8, 0, 8, 0, 8],
    [2] * 5,
    [6] * 5,
]


def keys(count: int) -> list[str]:
    return [f"key {i}" for i in range(count)]


@torch.no_grad()
def own_logits(base: SharedBase, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """(R, V) logits before each token of the answer by the model's own forward on the bare text."""
    logits = base.model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits[:, : base.vocabulary].float()


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest) -> SharedBase:
    return tiny.with_policy(tiny.shared_base(request.param), moved=0.2)


def test_which_models_the_engine_samples() -> None:
    for name in FAMILIES:
        one = tiny.shared_base(name)
        assert one.samples_by_engine
        assert not [line for line in one.notices if "is sampled by" in line]
    for name in OTHERS:
        one = tiny.shared_base(name)
        assert not one.samples_by_engine
        said = [line for line in one.notices if "is sampled by the library's forward" in line]
        assert len(said) == (0 if one.model.config.is_encoder_decoder else 1)


@pytest.mark.parametrize("role", ["policy", "reference"])
def test_log_probabilities_equal_the_models_own(base: SharedBase, role: str) -> None:
    with base.role(role), torch.no_grad():
        ours = teacher_forced(base, PROMPTS, ANSWERS).log_softmax(-1)
        for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
            theirs = own_logits(base, prompt, answer).log_softmax(-1)
            torch.testing.assert_close(ours[row], theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_in_bfloat16_keep_their_bound(name: str) -> None:
    """Of logits up to 20: a mean difference of .02 nats, at most .2, from bfloat16's own forward."""
    base = tiny.with_policy(tiny.shared_base(name, dtype="bfloat16"), moved=0.05)
    with base.role("policy"), torch.no_grad(), base._autocast():
        ours = teacher_forced(base, PROMPTS, ANSWERS).log_softmax(-1)
        theirs = torch.stack([own_logits(base, p, a).log_softmax(-1) for p, a in zip(PROMPTS, ANSWERS, strict=True)])
    difference = (ours - theirs).abs()
    assert float(difference.mean()) < 0.02
    assert float(difference.max()) < 0.2


@pytest.mark.parametrize(
    "changes", [{"variant": "dora"}, {"rslora": True}, {"target_modules": ["q_proj", "down_proj"]}]
)
def test_every_kind_of_adapter(changes: dict) -> None:
    base = tiny.shared_base("llama")
    base.add_role("policy", LoraConfig(rank=4, alpha=8.0, **changes))
    generator = torch.Generator().manual_seed(0)
    with base.role("policy"), torch.no_grad():
        for parameter in base.role_parameters("policy"):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        ours = teacher_forced(base, PROMPTS, ANSWERS)
        for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
            torch.testing.assert_close(ours[row], own_logits(base, prompt, answer), rtol=1e-5, atol=1e-4)


def test_weights_are_read_anew_for_every_call() -> None:
    base = tiny.shared_base("llama")
    base.add_whole_role("policy")
    with base.role("policy"), torch.no_grad():
        before = teacher_forced(base, PROMPTS, ANSWERS)
        for parameter in base.role_parameters("policy"):
            parameter.mul_(1.1)
        after = teacher_forced(base, PROMPTS, ANSWERS)
        torch.testing.assert_close(after[0], own_logits(base, PROMPTS[0], ANSWERS[0]), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(before, after, atol=1e-2)


def test_modules_side_by_side_or_each_by_itself(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    with base.role("policy"), torch.no_grad():
        joined = teacher_forced(base, PROMPTS, ANSWERS)
        monkeypatch.setattr(projections, "FUSE_LIMIT", 0)
        torch.testing.assert_close(teacher_forced(base, PROMPTS, ANSWERS), joined, rtol=1e-5, atol=1e-5)


def test_a_matrix_in_the_processors_order_multiplies_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(48, 80).to(torch.bfloat16)
    x = torch.randn(9, 48, generator=generator).to(torch.bfloat16)
    (ours,) = projections.Projection([linear], [80], torch.bfloat16, torch.no_grad)(x)
    with torch.no_grad():
        torch.testing.assert_close(ours, linear(x), rtol=2**-7, atol=2**-7)


# --- rows ----------------------------------------------------------------------------------------------------------


def run(base: SharedBase, prompts: Sequence[Sequence[int]], tokens: int = 12, **options) -> list[Response]:
    """The engine's responses at a high temperature, so that they end at different lengths."""
    noise = torch.from_numpy(np.stack([uniforms(5, key, tokens) for key in keys(len(prompts))]))

    def draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        return choose(logits, uniform, temperature=20.0)

    found = Engine(base, prompts, noise, draw, **{"rows": 64, **options}).run()
    return [Response(tuple(ids), ended) for ids, ended in found]


def test_rows_come_and_go_and_change_nothing(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row, a few that are filled again, all at once; looks every step or every fifth; caches of either kind."""
    prompts = PROMPTS * 6
    with base.role("policy"):
        plain = run(base, prompts)
        assert len({len(response.ids) for response in plain}) > 6
        for rows in (1, 3, 16):
            assert run(base, prompts, rows=rows) == plain
        assert run(base, prompts, rows=7, check_every=5) == plain
        assert run(base, prompts, rows=7, grows=False, check_every=8) == plain
        monkeypatch.setattr(engine_module, "STEP", 3)
        monkeypatch.setattr(engine_module, "PREFILL_TOKENS", 4)
        assert run(base, prompts, rows=9) == plain
        base.samples_by_engine = False
        library = sample(base, prompts, keys(len(prompts)), tiny.sampling(max_new_tokens=12, temperature=20.0), seed=5)
        base.samples_by_engine = True
        assert library == plain


def test_the_order_of_prompts_changes_nothing(base: SharedBase) -> None:
    config = tiny.sampling(max_new_tokens=10, temperature=5.0, batch_size=5)
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    names = keys(len(PROMPTS))
    plain = sample(base, PROMPTS, names, config, seed=2)
    mixed = sample(base, [PROMPTS[i] for i in order], [names[i] for i in order], config, seed=2)
    assert mixed == [plain[i] for i in order]


def test_free_rows_are_filled_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 8 rows for 64 prompts every row of every step works for a response."""
    base = tiny.shared_base("llama")
    steps: list[tuple[int, int]] = []
    real = Engine._step

    def step(self: Engine) -> None:
        steps.append((len(self.owner), int(self.active.sum()), len(self.waiting)))
        real(self)

    monkeypatch.setattr(Engine, "_step", step)
    drawn = run(base, PROMPTS * 8, rows=8)
    assert all(active == rows == 8 for rows, active, waiting in steps if waiting)
    # Closed up at the end, too: no row without a response is computed. The first token needs no step.
    assert sum(rows for rows, _, _ in steps) == sum(len(response.ids) - 1 for response in drawn)


def test_a_prompt_is_read_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its samples do not fit into the rows at once."""
    base = tiny.shared_base("llama")
    read: list[list[int]] = []
    real = engine_module.Cache.read_prompts

    def read_prompts(self, prompts, rows):  # type: ignore[no-untyped-def]
        read.extend(list(prompt) for prompt in prompts)
        return real(self, prompts, rows)

    monkeypatch.setattr(engine_module.Cache, "read_prompts", read_prompts)
    prompts = [[1, 2, 3], [4, 5], [6]] * 7
    plain = run(base, prompts)
    assert sorted(read) == [[1, 2, 3], [4, 5], [6]]
    read.clear()
    assert run(base, prompts, rows=4) == plain
    assert sorted(read) == [[1, 2, 3], [4, 5], [6]]


def test_stop_texts_end_rows(base: SharedBase) -> None:
    config = tiny.sampling(max_new_tokens=12, temperature=1e6, stop=("w5 w7", "w9"), batch_size=6)
    prompts = [[1, 2, 3]] * 40
    ours = sample(base, prompts, keys(40), config, seed=0)
    base.samples_by_engine = False
    assert sample(base, prompts, keys(40), config, seed=0) == ours
    base.samples_by_engine = True
    assert any(r.ended and r.ids[-1] != tiny.EOS for r in ours)


def test_a_response_of_one_token() -> None:
    base = tiny.shared_base("llama")
    responses = sample(base, PROMPTS, keys(8), tiny.sampling(max_new_tokens=1), seed=0)
    assert all(len(r.ids) == 1 for r in responses)
    assert sample(base, [], [], tiny.sampling(), seed=0) == []


def test_a_context_too_short_is_refused_in_one_line(base: SharedBase) -> None:
    with pytest.raises(InputError, match=r"a prompt of 60 tokens and sampling\.max_new_tokens = 5 exceed") as refused:
        sample(base, [[1], [1] * 60], ["a", "b"], tiny.sampling(max_new_tokens=5), seed=0)
    assert "\n" not in str(refused.value)
    whole = sample(base, [[1] * 59], ["a"], tiny.sampling(max_new_tokens=5, temperature=0.01), seed=0)
    assert len(as_tokens(base, [[1] * 59], whole).response_ids[0]) <= 5


def test_a_model_that_differs_falls_back_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the comparison at loading: a rotation the wrong way round is found out."""
    real = engine_module.Trunk.__init__

    def turned(self, base, length):  # type: ignore[no-untyped-def]
        real(self, base, length)
        self.rotation = self.rotation[0], -self.rotation[1]

    monkeypatch.setattr(engine_module.Trunk, "__init__", turned)
    base = tiny.shared_base("llama")
    assert not base.samples_by_engine
    assert any("its logits would differ from its own forward's by" in line for line in base.notices)


def test_an_adapted_output_matrix_falls_back() -> None:
    base = tiny.shared_base("llama")
    base.add_role("policy", LoraConfig(rank=2, target_modules=["lm_head", "q_proj"]))
    with base.role("policy"):
        drawn = sample(base, PROMPTS, keys(8), tiny.sampling(), seed=0)
    with base.role("reference"):
        assert sample(base, PROMPTS, keys(8), tiny.sampling(), seed=0) == drawn


def test_padding_rows_of_the_vocabulary_are_not_drawn() -> None:
    base = SharedBase(finish_loading(tiny.model("llama", vocab_size=40), tiny.word_tokenizer(), "padded"))
    assert base.samples_by_engine
    drawn = sample(base, [[1]] * 200, keys(200), tiny.sampling(temperature=1e6), seed=0)
    assert max(i for r in drawn for i in r.ids) < 24
