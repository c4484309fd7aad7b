"""Sampling: exact, reproducible, independent of the batch, and equal to a plain forward."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from models import tiny
from scipy import stats

from humanward.models.base import SharedBase
from humanward.models.sampling import Response, as_tokens, choose, sample, uniforms

FALSE_ALARM = 1e-6
"""Each chi-square assertion below would fail by chance this often over seeds; the seeds are fixed."""

KEYS = ["a", "b", "c"]


def chi_square_p(counts: np.ndarray, expected: np.ndarray) -> float:
    """Goodness of fit; cells that expect fewer than 5 are pooled."""
    small = expected < 5
    counts = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    keep = expected > 0
    assert counts[~keep].sum() == 0
    if keep.sum() == 1:
        return 1.0
    return float(stats.chisquare(counts[keep], expected[keep]).pvalue)


def draw(logits: list[float], n: int, **options) -> np.ndarray:
    u = torch.from_numpy(uniforms(0, "chi", n))
    ids = choose(torch.tensor([logits]).expand(n, -1), u, **{"temperature": 1.0, **options})
    return np.bincount(ids.numpy(), minlength=len(logits))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choose_draws_from_the_softmax(temperature: float) -> None:
    logits = [0.0, 1.0, -1.0, 2.0, -4.0]
    weights = np.exp(np.array(logits) / temperature)
    counts = draw(logits, 20_000, temperature=temperature)
    assert chi_square_p(counts, 20_000 * weights / weights.sum()) > FALSE_ALARM
    # The control: counts drawn at another temperature are found out.
    wrong = np.exp(np.array(logits) / (temperature * 1.3))
    assert chi_square_p(counts, 20_000 * wrong / wrong.sum()) < FALSE_ALARM


def test_choose_is_the_inverse_cumulative_distribution() -> None:
    """p = .25, 0, .5, .25: the steps are at .25 (where token 1 with probability 0 is skipped) and .75."""
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25]).log().expand(6, -1)
    u = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53], dtype=torch.float64)
    assert choose(logits, u, temperature=1.0).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_first_token_without_probability_is_never_chosen() -> None:
    logits = torch.tensor([[-torch.inf, 0.0]])
    assert choose(logits, torch.zeros(1, dtype=torch.float64), temperature=1.0).tolist() == [1]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 4}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.8}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.05}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),  # of .444 .333 .222, .444 + .333 reaches .5
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),  # .3 and .4 are at least .6 x .4 = .24
        ({"min_p": 0.4}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"min_p": 0.99}, [1, 0, 0, 0]),
        ({"top_p": 0.8, "min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 1, "min_p": 0.1}, [1, 0, 0, 0]),
    ],
)
def test_filters_keep_the_right_sets(options: dict, kept: list[float]) -> None:
    order = [2, 0, 3, 1]  # the most probable token is not the first
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()[torch.tensor(order).argsort()].tolist()
    counts = draw(logits, 20_000, **options)
    expected = 20_000 * np.array(kept)[np.argsort(order)]
    assert [bool(c) for c in counts] == [bool(e) for e in expected]
    assert chi_square_p(counts, expected) > FALSE_ALARM


@pytest.fixture(scope="module", params=[*tiny.PLAIN, *tiny.CAPPED, *tiny.ENCODER_DECODER])
def base(request: pytest.FixtureRequest) -> SharedBase:
    return tiny.with_policy(tiny.shared_base(request.param), moved=0.2)


@torch.no_grad()
def plain_next_logits(base: SharedBase, prompt: list[int], written: list[int]) -> torch.Tensor:
    """Logits of the next token by one full unpadded forward of the model itself, without any cache."""
    if base.model.config.is_encoder_decoder:
        start = [base.model.config.decoder_start_token_id]
        return base.model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([start + written]), use_cache=False
        ).logits[:, -1]
    return base.model(input_ids=torch.tensor([prompt + written]), use_cache=False).logits[:, -1]


def check_cached_equals_full(base: SharedBase) -> None:
    """Every sampled token is the one that a full forward and the same random number choose."""
    config = tiny.sampling(max_new_tokens=8, temperature=0.8)
    with base.role("policy"):
        responses = sample(base, tiny.PROMPTS, KEYS, config, seed=3)
        for prompt, key, response in zip(tiny.PROMPTS, KEYS, responses, strict=True):
            noise = torch.from_numpy(uniforms(3, key, 8))
            for position, token in enumerate(response.ids):
                logits = plain_next_logits(base, prompt, list(response.ids[:position]))
                assert choose(logits, noise[position : position + 1], temperature=0.8).tolist() == [token]


def test_cached_decoding_equals_the_full_forward(base: SharedBase) -> None:
    check_cached_equals_full(base)


def test_samples_do_not_depend_on_their_companions(base: SharedBase) -> None:
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3], [3], [7, 7]]
    keys = ["a", "b", "c", "d", "e"]
    with base.role("policy"):
        together = sample(base, prompts, keys, tiny.sampling(), seed=1)
        alone = [sample(base, [p], [k], tiny.sampling(), seed=1)[0] for p, k in zip(prompts, keys, strict=True)]
        backwards = sample(base, prompts[::-1], keys[::-1], tiny.sampling(), seed=1)[::-1]
        in_twos = sample(base, prompts, keys, tiny.sampling(batch_size=2), seed=1)
    assert together == alone == backwards == in_twos
    assert together[2] != together[3]  # the same prompt under another key


def test_the_seed_decides(base: SharedBase) -> None:
    prompts, keys = [[1, 2]] * 8, [str(i) for i in range(8)]
    first = sample(base, prompts, keys, tiny.sampling(), seed=1)
    assert first == sample(base, prompts, keys, tiny.sampling(), seed=1)
    assert first != sample(base, prompts, keys, tiny.sampling(), seed=2)


def test_responses_end_or_are_cut(base: SharedBase) -> None:
    prompts, keys = [[1, 2]] * 64, [str(i) for i in range(64)]
    # Uniform logits over 24 tokens: half of the responses end within 16.
    responses = sample(base, prompts, keys, tiny.sampling(max_new_tokens=16, temperature=1e6), seed=0)
    assert {r.ended for r in responses} == {True, False}
    for response in responses:
        assert response.ended == (response.ids[-1] == tiny.EOS)
        assert tiny.EOS not in response.ids[:-1]
        assert len(response.ids) <= 16
        assert response.ended or len(response.ids) == 16


def test_the_trunk_samples_what_log_probabilities_say(base: SharedBase) -> None:
    """1,000 two-token responses to one prompt against the joint distribution that ``logprobs`` gives."""
    count, prompt = 1_000, [1, 2, 3]
    base_role = base.role("policy")
    with base_role:
        responses = sample(
            base, [prompt] * count, [str(i) for i in range(count)], tiny.sampling(max_new_tokens=2), seed=0
        )
        pairs = [[i, j] for i in range(24) if i != tiny.EOS for j in range(24)] + [[tiny.EOS]]
        with torch.no_grad():
            logprobs, _, _ = base.logprobs(
                as_tokens(base, [prompt] * len(pairs), [Response(tuple(p), True) for p in pairs])
            )
    probabilities = logprobs.double().sum(1).exp().numpy()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    index = {tuple(p): i for i, p in enumerate(pairs)}
    counts = np.bincount([index[r.ids] for r in responses], minlength=len(pairs))
    assert chi_square_p(counts, count * probabilities / probabilities.sum()) > FALSE_ALARM


def test_a_second_stop_token_ends_too() -> None:
    """generation_config names one more end than the tokenizer: both stop, and both are part of the response."""
    model = tiny.model("llama")
    model.generation_config.eos_token_id = [5, tiny.EOS]
    base = SharedBase(tiny.finish_loading(model, tiny.word_tokenizer(), "two ends"))
    assert base.stop_ids == (tiny.EOS, 5)
    config = tiny.sampling(max_new_tokens=12, temperature=1e6)
    responses = sample(base, [[1]] * 64, [str(i) for i in range(64)], config, seed=0)
    assert {r.ids[-1] for r in responses if r.ended} == {5, tiny.EOS}
    assert all(5 not in r.ids[:-1] and tiny.EOS not in r.ids[:-1] for r in responses)
    assert base.response_text([1, 5]) == "w1"


def test_generation_settings_of_the_model_are_not_applied() -> None:
    base, changed = tiny.shared_base(), tiny.shared_base()
    changed.model.generation_config.update(min_new_tokens=6, repetition_penalty=9.0, suppress_tokens=[tiny.EOS])
    keys = [str(i) for i in range(16)]
    config = tiny.sampling(temperature=1e6)
    assert sample(base, [[1]] * 16, keys, config, seed=0) == sample(changed, [[1]] * 16, keys, config, seed=0)


def test_before_and_after_share_their_random_numbers() -> None:
    base = tiny.with_policy(tiny.shared_base())
    answers = {}
    for role in ("policy", "reference"):
        with base.role(role):
            answers[role] = sample(base, tiny.PROMPTS, KEYS, tiny.sampling(), seed=0)
    assert answers["policy"] == answers["reference"]


def test_progress_counts_prompts() -> None:
    base, seen = tiny.shared_base(), []
    sample(base, tiny.PROMPTS, KEYS, tiny.sampling(batch_size=2), seed=0, progress=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == 3


def test_uniform_numbers_are_uniform_and_keyed() -> None:
    """Kolmogorov-Smirnov against U(0, 1); false-alarm probability 1e-6 over seeds, the seed is fixed."""
    numbers = np.concatenate([uniforms(7, f"key {i}", 4) for i in range(2_000)])
    assert stats.kstest(numbers, "uniform").pvalue > FALSE_ALARM
    assert np.array_equal(uniforms(7, "x", 8)[:4], uniforms(7, "x", 4))
    assert not np.array_equal(uniforms(7, "x", 4), uniforms(8, "x", 4))
    # Seed and key are kept apart: (1, "2") is not (12, "").
    assert not np.array_equal(uniforms(1, "2", 4), uniforms(12, "", 4))


def test_a_response_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Response((1,), True).ended = False  # type: ignore[misc]
