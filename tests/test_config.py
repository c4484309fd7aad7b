"""Configurations: strict keys, sizes, overrides, and the resolved TOML."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from humanward.algorithm_config import ALGORITHMS, options_of
from humanward.config import RunConfig, load_config, parse_config
from humanward.errors import InputError


def problem(values: dict, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as caught:
        parse_config(values, overrides, "mine.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_valid() -> None:
    assert parse_config({}) == RunConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"ppo": {"learning_rat": 1e-4}},
            "mine.toml: unknown key ppo.learning_rat = 0.0001; did you mean learning_rate?",
        ),
        ({"pop": {"steps": 3}}, "mine.toml: unknown key pop = {'steps': 3}; did you mean ppo?"),
        ({"sed": 3}, "mine.toml: unknown key sed = 3; did you mean seed?"),
    ],
)
def test_an_unknown_key_is_named_with_a_suggestion(values: dict, message: str) -> None:
    assert problem(values) == message


def test_an_unknown_key_that_resembles_none_lists_the_keys() -> None:
    message = problem({"lora": {"zzz": 1}})
    names = "rank, alpha, target_modules, variant, rslora, dtype"
    assert message == f"mine.toml: unknown key lora.zzz = 1; the keys here are {names}"


def test_more_problems_are_counted() -> None:
    assert problem({"sed": 1, "ppo": {"stepps": 1}}).endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("ppo", "words"),
    [
        (
            {"rollout_size": 64, "minibatch_size": 6, "micro_batch_size": 6},
            "ppo.minibatch_size=6 does not divide rollout_size=64; choose a divisor of 64",
        ),
        (
            {"rollout_size": 64, "minibatch_size": 32, "micro_batch_size": 5},
            "ppo.micro_batch_size=5 does not divide minibatch_size=32; choose a divisor of 32",
        ),
        (
            {"rollout_size": 16, "minibatch_size": 32},
            "ppo.minibatch_size=32 does not divide rollout_size=16; choose a divisor of 16",
        ),
        ({"steps": 2, "critic_warmup_steps": 2}, "ppo.critic_warmup_steps=2 leaves none of ppo.steps=2 for the policy"),
    ],
)
def test_sizes_that_do_not_divide(ppo: dict, words: str) -> None:
    assert words in problem({"ppo": ppo})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ppo": {"steps": 0}}, "ppo.steps = 0: input should be greater than or equal to 1"),
        ({"ppo": {"learning_rate": float("nan")}}, "ppo.learning_rate = nan"),
        ({"ppo": {"kl_controller": "magic"}}, "ppo.kl_controller = 'magic': input should be 'fixed' or 'adaptive'"),
        ({"sampling": {"top_p": 0}}, "sampling.top_p = 0: input should be greater than 0"),
        ({"sampling": {"temperature": "hot"}}, "sampling.temperature = 'hot'"),
        ({"feedback": {"source": "rankings"}}, "feedback.source = 'rankings' needs path; name the file"),
        ({"feedback": {"source": "none"}}, "reward.source = 'trained' needs rankings"),
        ({"prompts": {"train": "a.jsonl"}}, "prompts.train is set without test"),
        ({"prompts": {"validation_fraction": 0.5, "test_fraction": 0.5}}, "leaves no prompts to train on"),
        ({"ppo": 3}, "ppo = 3"),
    ],
)
def test_values_out_of_range_are_named(values: dict, words: str) -> None:
    assert words in problem(values)


def test_overrides_win_and_are_read_as_toml_where_they_are() -> None:
    config = parse_config(
        {"ppo": {"steps": 7}},
        (
            "ppo.steps=9",
            "ppo.learning_rate=1e-4",
            "ppo.whiten_advantages=false",
            "model.policy=some/model",
            'model.system_prompt="be kind"',
            "reward.label=1",
            'lora.target_modules=["q_proj", "v_proj"]',
            "seed=4",
        ),
    )
    assert config.ppo.steps == 9
    assert config.ppo.learning_rate == 1e-4
    assert config.ppo.whiten_advantages is False
    assert config.model.policy == "some/model"
    assert config.model.system_prompt == "be kind"
    assert config.reward.label == 1
    assert config.lora.target_modules == ("q_proj", "v_proj")
    assert config.seed == 4


def test_overrides_that_make_no_sense() -> None:
    assert problem({}, ("ppo.steps",)) == "--set ppo.steps: not of the form section.key=value"
    assert problem({"seed": 1}, ("seed.x=1",)) == "--set seed.x=1: seed is a value, not a section"
    assert "unknown key ppo.stepz = 3" in problem({}, ("ppo.stepz=3",))


def test_the_resolved_toml_reads_back_as_the_same_configuration() -> None:
    config = parse_config(
        {"seed": 3, "ppo": {"steps": 5, "score_clip": 2.5}, "reward": {"label": 0}, "lora": {"target_modules": ["a"]}}
    )
    assert parse_config(tomllib.loads(config.to_toml())) == config
    assert config.to_toml() == parse_config(tomllib.loads(config.to_toml())).to_toml()


@given(
    st.builds(
        dict,
        seed=st.integers(0, 2**31),
        model=st.builds(dict, policy=st.text(min_size=1, max_size=20), max_prompt_tokens=st.integers(1, 10_000)),
        sampling=st.builds(
            dict,
            temperature=st.floats(1e-3, 100),
            top_p=st.floats(1e-3, 1),
            max_new_tokens=st.integers(1, 4096),
        ),
        ppo=st.builds(dict, kl_coef=st.floats(0, 1e6), gamma=st.floats(1e-9, 1), whiten_rewards=st.booleans()),
    )
)
def test_any_configuration_survives_its_toml(values: dict) -> None:
    config = parse_config(values)
    assert parse_config(tomllib.loads(config.to_toml())) == config


def test_a_configuration_never_changes() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.ppo.steps = 3  # type: ignore[misc]


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text("seed = 5\n[ppo]\nsteps = 6\n")
    assert load_config(good, ("ppo.steps=8",)).ppo.steps == 8
    cases = {"absent.toml": "no such configuration file", ".": "not a readable TOML file (IsADirectoryError)"}
    (tmp_path / "broken.toml").write_text("seed = = 5")
    (tmp_path / "latin.toml").write_bytes(b'policy = "\xe9"')
    cases |= {"broken.toml": "not TOML", "latin.toml": "not a readable TOML file (UnicodeDecodeError)"}
    for name, words in cases.items():
        with pytest.raises(InputError) as caught:
            load_config(tmp_path / name)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_reading_a_configuration_imports_no_torch() -> None:
    code = "import sys, humanward.config, humanward.run_dir; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- algorithms ------------------------------------------------------------------------------------------------------


def test_an_unknown_algorithm_is_answered_with_the_known_ones() -> None:
    message = problem({"algorithm": "trpo"})
    assert all(name in message for name in ALGORITHMS)


@pytest.mark.parametrize(
    ("algorithm", "section", "option", "used"),
    [
        ("rloo", "ppo", "gae_lambda", "ppo.{steps, rollout_size, samples_per_prompt"),
        ("ppo", "ppo", "scale_by_deviation", "critic_learning_rate"),
        ("grpo", "ppo", "whiten_advantages", "scale_by_deviation"),
        ("reinforce++", "offline", "beta", "gamma"),
        ("dpo", "ppo", "kl_coef", "beta, label_smoothing"),
        ("sft", "offline", "beta", "offline.{epochs, batch_size, learning_rate"),
        ("ipo", "offline", "label_smoothing", "beta"),
        ("orpo", "offline", "desirable_weight", "beta"),
        ("dpo", "best_of_n", "samples", "offline"),
        ("best-of-n", "best_of_n", "prompts", "best_of_n.{samples}"),
    ],
)
def test_an_option_that_an_algorithm_does_not_use_is_answered_with_those_that_it_does(
    algorithm: str, section: str, option: str, used: str
) -> None:
    default = getattr(getattr(RunConfig(), section), option)
    message = problem({"algorithm": algorithm, section: {option: default}})
    assert f"{section}.{option} = {default!r}: {algorithm} does not use it; it uses " in message
    assert used in message.split("it uses ")[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_resolved_configuration_holds_what_the_algorithm_uses_and_reads_back(algorithm: str) -> None:
    config = parse_config({"algorithm": algorithm})
    written = tomllib.loads(config.to_toml())
    for section in ("ppo", "offline", "best_of_n"):
        unset = {"score_clip"}
        assert set(written.get(section, {})) | unset == set(options_of(algorithm).get(section, ())) | unset
    assert parse_config(written).to_toml() == config.to_toml()


def test_defaults_that_differ_between_algorithms_give_way_to_what_is_said() -> None:
    assert parse_config({}).ppo.samples_per_prompt == 1
    assert parse_config({"algorithm": "rloo"}).ppo.samples_per_prompt == 4
    assert parse_config({"algorithm": "rloo"}).ppo.whiten_advantages is False
    assert parse_config({"algorithm": "grpo", "ppo": {"samples_per_prompt": 8}}).ppo.samples_per_prompt == 8


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_one_sample_a_prompt_compares_nothing(algorithm: str) -> None:
    message = problem({"algorithm": algorithm, "ppo": {"samples_per_prompt": 1}})
    assert f"ppo.samples_per_prompt = 1: {algorithm} compares the answers to one prompt; set 2 or more" in message


def test_samples_a_prompt_divide_the_rollout() -> None:
    message = problem({"algorithm": "rloo", "ppo": {"samples_per_prompt": 6}})
    assert "ppo.samples_per_prompt=6 does not divide rollout_size=64; choose a divisor of 64" in message


def test_an_off_policy_algorithm_needs_preferences_and_no_reward() -> None:
    assert "learns from preferences; set feedback.source" in problem(
        {"algorithm": "dpo", "feedback": {"source": "none"}}
    )
    assert parse_config({"algorithm": "dpo", "reward": {"source": "classifier"}}).algorithm == "dpo"


def test_a_warm_up_longer_than_the_run_matters_only_with_a_critic() -> None:
    assert "leaves none of ppo.steps=1" in problem({"ppo": {"steps": 1}})
    assert parse_config({"algorithm": "rloo", "ppo": {"steps": 1}}).ppo.steps == 1


def test_an_empty_stop_text_is_refused() -> None:
    assert problem({"sampling": {"stop": ["###", ""]}}) == (
        "mine.toml: sampling.stop = ['###', '']: holds an empty text, which every response contains; drop it"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"template": "{d}"}, "prompts.template is set without field"),
        ({"field": "d", "template": "{e}"}, "prompts.template='{e}' does not hold {d}; say where the text goes"),
        ({"min_characters": 3, "max_characters": 2}, "prompts.min_characters=3 is more than max_characters=2"),
    ],
)
def test_a_prompt_form_that_makes_no_sense(given: dict, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config({"prompts": {"path": "p.jsonl", **given}})
    assert words in str(caught.value)
