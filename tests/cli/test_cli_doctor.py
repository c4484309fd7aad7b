"""humanward doctor: what it says of machine and configuration, and what it refuses."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from cli import small
from cli.running import humanward

from humanward.config import load_config
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.stages import doctor


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Path:
    return small.write(tmp_path / "run.toml", small.settings(tiny, tmp_path))


def test_the_machine_without_a_configuration() -> None:
    content = humanward("doctor", "--json").json()
    machine = content["machine"]
    assert machine["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in machine["versions"]["torch"]
    assert machine["cpu"]["cores"] >= 1
    assert machine["cpu"]["memory_free"] > 1e8
    assert set(machine["extras"]) == {"qlora", "collect", "aws", "recipe"}
    assert machine["extras"]["qlora"]["installed"] == (find_spec("bitsandbytes") is not None)
    assert machine["extras"]["qlora"]["install"] == "pip install 'humanward[qlora]'"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_is_said_before_as_it_is_after_loading(config: Path, dtype: str) -> None:
    override = f"model.dtype={dtype}"
    said = humanward("doctor", "--config", config, "--set", override, "--json").json()["precision"]
    loaded = load_config(config, (override,))
    base = SharedBase(load_model(loaded.model))
    base.add_role("policy", loaded.lora)
    assert said == base.precision


def test_lines_by_role_and_the_peak_of_their_moments(config: Path) -> None:
    content = humanward("doctor", "--config", config, "--json").json()
    assert content["fits"] is True
    lines = {(line["role"], line["thing"]): line for line in content["lines"]}
    assert {"base", "policy", "judge classifier", "reward classifier"} <= {role for role, _ in lines}
    assert lines["policy", "Adam's two moments"]["bytes"] == 2 * lines["policy", "adapter"]["bytes"]
    cpu = content["devices"]["cpu"]
    held = [line["bytes"] for line in content["lines"] if cpu["peak_moment"] in line["moments"]]
    assert cpu["peak"] == sum(held) == max(cpu["moments"].values())
    table = humanward("doctor", "--config", config)
    assert table.code == 0
    assert "frozen weights" in table.out
    assert "at the peak" in table.out


def test_what_cannot_fit_is_refused_with_what_would_make_it_fit(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has room for the models and for a tenth of what learning makes."""
    wide = ("--set", "model.max_prompt_tokens=120", "--set", "sampling.batch_size=1")
    content = humanward("doctor", "--config", config, *wide, "--json").json()
    moments = content["devices"]["cpu"]["moments"]
    room = moments["updating"] + (moments["learning"] - moments["updating"]) // 2
    monkeypatch.setattr(doctor, "resident", lambda: 0)
    overhead = next(line["bytes"] for line in content["lines"] if line["thing"] == "libraries")
    monkeypatch.setattr(doctor, "available_memory", lambda: room - overhead)
    refused = humanward("doctor", "--config", config, *wide)
    assert refused.code == 2
    line = refused.err.strip().splitlines()[-1]
    assert "at its peak (learning)" in line
    # Two tiny layers have next to nothing to checkpoint, so fewer rows are what suffices.
    assert "set ppo.micro_batch_size = " in line
    out = tmp_path / "out"
    refused = humanward("run", config, "--out", out, *wide)
    assert refused.refusal() == line or "at its peak" in refused.refusal()
    assert not out.exists()
    monkeypatch.setattr(doctor, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match="no option of gradient checkpointing, batches and quantisation is enough"):
        doctor.refuse_what_cannot_fit(load_config(config), pytest.fail)
    doctor.refuse_what_cannot_fit(load_config(config, ("model.memory_check=false",)), pytest.fail)


def test_bad_input(config: Path) -> None:
    assert "give --config too" in humanward("doctor", "--set", "seed=1").refusal()
    assert "nowhere" in humanward("doctor", "--config", config, "--set", "model.policy=./nowhere").refusal()
