"""The comparison with peers: interpolation at equal KL, bounds, jobs; by hand, and without a peer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "peers"))
import analysis
import settings

from humanward.config import parse_config

PEERS = settings.HERE

# In sqrt(KL) these lie at 0, 1, 2 with rewards 0, 1, 3: slopes 1 and 2.
POINTS = [(4.0, 3.0), (0.0, 0.0), (1.0, 1.0)]


@pytest.mark.parametrize(
    ("kl", "reward"),
    [
        (0.0, 0.0),
        (0.25, 0.5),  # sqrt .5 on the first line, slope 1
        (1.0, 1.0),
        (2.25, 2.0),  # sqrt 1.5 on the second: 1 + .5 * 2
        (4.0, 3.0),
        (-0.01, 0.0),  # an estimate below 0 is 0
    ],
)
def test_reward_between_points_is_straight_in_the_root_of_kl(kl: float, reward: float) -> None:
    assert analysis.at_kl(POINTS, kl) == pytest.approx(reward, rel=1e-12)


def test_beyond_the_last_point_only_on_request() -> None:
    with pytest.raises(ValueError, match="beyond the last point, 4"):
        analysis.at_kl(POINTS, 9.0)
    # sqrt 3, on along slope 2: 3 + 2.
    assert analysis.at_kl(POINTS, 9.0, extend=True) == pytest.approx(5.0, rel=1e-12)


def test_needs_the_reference() -> None:
    with pytest.raises(ValueError, match="below the first point"):
        analysis.at_kl([(1.0, 1.0), (4.0, 3.0)], 0.5)
    with pytest.raises(ValueError, match="2 points"):
        analysis.at_kl([(0.0, 0.0)], 0.0)


def test_two_runs_at_one_kl_are_averaged() -> None:
    assert analysis.at_kl([(0.0, 0.0), (0.0, 1.0)], 0.0) == 0.5


def test_common_kl_is_the_middle_of_what_both_measured() -> None:
    # Ours 1 to 4, theirs .25 to 2.25: common 1 to 2.25, roots 1 and 1.5, middle 1.25, squared 1.5625.
    assert analysis.common_kl([4.0, 1.0], [0.25, 2.25]) == pytest.approx(1.5625, rel=1e-12)
    with pytest.raises(analysis.NoOverlap, match=r"ours reaches KL 4\.00 to 9\.00, theirs 0\.25 to 1\.00"):
        analysis.common_kl([4.0, 9.0], [0.25, 1.0])


def constant(values: list[list[float]], prompts: int = 3) -> np.ndarray:
    """(K, S, P): every prompt has the run's value."""
    return np.repeat(np.array(values)[..., None], prompts, axis=2)


def test_compare_without_any_spread() -> None:
    # Both at KL 1 and 4; the middle of the roots 1 and 2 is 1.5, KL 2.25. Ours 1.5 there, theirs .75.
    # Their difference .75 is .375 of the reference's standard deviation 2, and nothing makes it vary.
    kls = constant([[1.0, 1.0], [4.0, 4.0]])
    ours, theirs = constant([[1.0, 1.0], [2.0, 2.0]]), constant([[0.5, 0.5], [1.0, 1.0]])
    found = analysis.compare((ours, kls), (theirs, kls), np.zeros(3), 2.0, resamples=50)
    assert found.kl == pytest.approx(2.25)
    assert (found.ours, found.theirs, found.difference) == pytest.approx((1.5, 0.75, 0.375))
    assert found.ci95 == pytest.approx((0.375, 0.375))
    assert found.welch95 == pytest.approx((0.375, 0.375))
    assert found.per_seed == {"ours": pytest.approx([1.5, 1.5]), "theirs": pytest.approx([0.75, 0.75])}


def test_prompts_that_differ_alike_on_both_sides_cancel() -> None:
    # Rewards vary from prompt to prompt by far more than the sides differ, but alike: every draw differs by .1.
    prompts = np.array([-5.0, 0.0, 1.0, 4.0])
    kls = constant([[1.0], [4.0]], prompts=4)
    theirs = np.stack([prompts[None] + 1, prompts[None] + 2])
    found = analysis.compare((theirs + 0.1, kls), (theirs, kls), prompts, 1.0, kl=4.0, resamples=200)
    assert found.difference == pytest.approx(0.1)
    assert found.ci95 == pytest.approx((0.1, 0.1))


def test_seeds_that_disagree_widen_the_interval() -> None:
    # One of our two seeds is worth 1, the other -1: half of the draws of two have mean 0, a quarter each +1 and -1.
    kls = constant([[1.0, 1.0], [4.0, 4.0]])
    ours, theirs = constant([[1.0, -1.0], [1.0, -1.0]]), constant([[0.0, 0.0], [0.0, 0.0]])
    found = analysis.compare((ours, kls), (theirs, kls), np.zeros(3), 1.0, kl=1.0, resamples=400)
    assert found.difference == pytest.approx(0.0)
    assert found.ci95 == pytest.approx((-1.0, 1.0))


def test_shapes_and_spread_are_checked() -> None:
    kls = constant([[1.0], [4.0]])
    with pytest.raises(ValueError, match="do not fit"):
        analysis.compare((kls, kls[:1]), (kls, kls), np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="standard deviation 0"):
        analysis.compare((kls, kls), (kls, kls), np.zeros(3), 0.0)


def test_welch() -> None:
    # Means 2 and 1, variances 1 over 3 values each: standard error sqrt(2/3) = .8164966, 4 degrees of freedom,
    # t(.975) = 2.7764451: 1 -+ 2.2669580, halved by the scale 2.
    low, high = analysis.welch([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], 2.0)
    assert (low, high) == pytest.approx((-0.6334790, 1.6334790), abs=1e-6)
    assert np.isnan(analysis.welch([1.0], [0.0, 1.0], 1.0)).all()


def test_jobs_alternate_between_the_sides() -> None:
    jobs = settings.all_jobs(("ppo", "dpo"), (0.1, 0.3), 2)
    assert len(jobs) == len({job.name for job in jobs}) == 16
    assert [job.name for job in jobs[:2]] == ["ppo-ours-kl0.1-seed0", "ppo-theirs-kl0.1-seed0"]
    assert [job.implementation for job in jobs[:2]] == ["humanward", "trl-1.12.0"]


@pytest.mark.parametrize("algorithm", settings.ALGORITHMS)
def test_our_configuration_asks_for_the_shared_settings(algorithm: str) -> None:
    values = settings.our_config(settings.Job(algorithm, "ours", 0.3, 2), Path("reward"), Path("pairs.jsonl"))
    config = parse_config(values)
    assert (config.seed, config.algorithm, config.model.dtype) == (2, algorithm, "float32")
    assert (config.lora.rank, config.lora.alpha) == (16, 32)
    assert config.sampling.max_new_tokens == 32
    if algorithm == "dpo":
        assert (config.offline.beta, config.offline.warmup_fraction, config.offline.epochs) == (0.3, 0.0, 2)
    else:
        # 8 rollouts of 64 are the 512 episodes that everybody has.
        assert config.ppo.steps * config.ppo.rollout_size == 512
        assert config.ppo.samples_per_prompt == (1 if algorithm == "ppo" else 4)
        assert (config.ppo.kl_controller, config.ppo.kl_coef, config.ppo.anchor_scores) == ("fixed", 0.3, False)


def test_a_missing_environment_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no virtual environment of trl-1\.12\.0; .*make_venvs\.py --venvs"):
        settings.peer_python(tmp_path, "trl-1.12.0")


def test_every_peer_has_pinned_requirements() -> None:
    for peer in (*settings.PEERS, *settings.FOR_SPEED):
        lines = (PEERS / f"requirements-{peer}.txt").read_text(encoding="utf-8").splitlines()
        pinned = [line for line in lines if not line.startswith("#")]
        assert f"trl=={peer.removeprefix('trl-')}" in pinned
        assert all("==" in line for line in pinned)
