"""What [reward] accepts for training, and what it refuses in one line."""

from __future__ import annotations

import tomllib

import pytest

from humanward.config import parse_config
from humanward.errors import InputError


def test_criteria_survive_the_resolved_configuration() -> None:
    given = {"reward": {"criteria": {"helpful": 1.0, "harmless": -2.0}, "ties": "davidson", "tie_parameter": 0.5}}
    config = parse_config(given)
    assert parse_config(tomllib.loads(config.to_toml())) == config
    assert config.reward.criteria == {"helpful": 1.0, "harmless": -2.0}
    assert parse_config({}, ("reward.criteria.honest=2",)).reward.criteria == {"honest": 2.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reward": {"criteria": {"helpful": 0}}}, "a criterion of that weight decides nothing"),
        ({"reward": {"criteria": {"a b": 1}}}, "is no name of letters, digits"),
        ({"reward": {"tie_parameter": 0.5}}, "ties = 'half' has none; set ties = 'davidson' or 'rao-kupper'"),
        ({"reward": {"label_smoothing": 0.5}}, "label_smoothing = 0.5: input should be less than 0.5"),
        ({"reward": {"margin": -1}}, "margin = -1: input should be greater than or equal to 0"),
        ({"reward": {"train": "full"}, "model": {"quantization": "nf4"}}, r"set reward\.train = 'adapter' \(QLoRA\)"),
        (
            {"reward": {"train": "full"}, "ppo": {"critic": "adapter", "critic_start": "reward"}},
            "leaves no adapter on this base to start from",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_config(values)
    assert "\n" not in str(caught.value)
