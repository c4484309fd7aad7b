"""What is counted on shapes equals what is counted by hand and what a real model of the same shape allocates."""

from __future__ import annotations

import pytest
import torch
from models import tiny
from torch._subclasses.fake_tensor import FakeTensorMode

from humanward.config import LoraConfig
from humanward.models import rehearsal
from humanward.models.checkpointing import checkpoint_layers
from humanward.models.memory import Batch
from humanward.models.rehearsal import Build, LiveBytes, ModelSizes, Rehearsals, nf4_bytes

BATCH = Batch(2, 3, 4)


def build(name: str = "llama", dtype: torch.dtype = torch.float32, **overrides: object) -> Build:
    return Build(tiny.model(name, **overrides).config, dtype, LoraConfig(rank=4), name)


def test_storages_count_from_their_making_to_their_end() -> None:
    with FakeTensorMode():
        given = torch.empty(4, 8)
        with LiveBytes([given]) as counted:
            first = given * 2  # 4 x 8 x 4 bytes
            view = first.T
            second = first + 1
            del first
            assert counted.live == 256
            del view
            third = second.double()  # 256 more
            assert (counted.live, counted.peak) == (384, 384)
            del second, third
    assert counted.live == 0


def test_weights_by_hand() -> None:
    sizes = ModelSizes(build())
    # Two embeddings of 24 x 16; a layer has 256 + 128 + 128 + 256 in attention, 3 x 16 x 32 behind, two norms of 16.
    assert sizes.weights == 2 * 24 * 16 + 2 * (768 + 1536 + 32) + 16
    assert 0 <= sizes.base(quantized=False) - 4 * sizes.weights <= 64  # the rotary tables
    # rank x (in + out) of q, k, v, o, gate, up, down in both layers.
    assert sizes.adapter(LoraConfig(rank=4)) == 2 * 4 * (32 + 24 + 24 + 32 + 48 + 48 + 48)
    packed = sum(map(nf4_bytes, (256, 128, 128, 256, 512, 512, 512)))
    rest = 4 * (2 * 24 * 16 + 2 * 32 + 16)
    assert 0 <= sizes.base(quantized=True) - (2 * packed + rest) <= 64
    assert sizes.dequantized() == 512 * 4


def test_nf4_by_hand() -> None:
    # 8192 packed; 256 blocks of 64; one block of 256 of those, 4 bytes; tables of 16 and 256 and an offset.
    assert nf4_bytes(16_384) == 8192 + 256 + 4 + 4 * 273


def test_the_cache_by_hand() -> None:
    cache, peak = Rehearsals(build()).sample(BATCH)
    assert cache == 2 * 2 * 1 * 8 * (3 + 4 - 1) * 2 * 4  # keys and values, layers, heads, size, tokens, rows, bytes
    assert peak > cache


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5-tied", "bart", "gemma2"])
def test_a_real_model_allocates_what_was_rehearsed(name: str, checkpointing: bool) -> None:
    deep = {"n_layer": 5} if name == "gpt2" else {"num_hidden_layers": 5}
    if name in ("t5-tied", "bart"):
        deep = {"num_layers": 5} if name == "t5-tied" else {"encoder_layers": 5, "decoder_layers": 4}
    rehearsed = Rehearsals(build(name, **deep)).learn(BATCH, checkpointing=checkpointing)
    base = tiny.with_policy(tiny.shared_base(name, **deep))
    # The tokenizer of the tiny models knows every row of the embeddings.
    if checkpointing:
        checkpoint_layers(base.model, name)
    assert rehearsed == pytest.approx(rehearsal._learn(base, BATCH, logits=True), rel=0.05)


def test_checkpointing_saves_and_rows_cost() -> None:
    rehearsals = Rehearsals(build(num_hidden_layers=6))
    plain, spared = (rehearsals.learn(BATCH, checkpointing=on) for on in (False, True))
    assert spared < 0.6 * plain
    double = rehearsals.learn(Batch(4, 3, 4), checkpointing=False)
    assert double == pytest.approx(2 * plain, rel=0.05)


def test_precision_is_what_a_loaded_base_says() -> None:
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        base = tiny.with_policy(tiny.shared_base(dtype=name))
        assert ModelSizes(build(dtype=dtype)).precision() == base.precision
    whole = tiny.shared_base(dtype="bfloat16")
    whole.add_whole_role("policy")
    shape = Build(tiny.model("llama").config, torch.bfloat16, LoraConfig(), "llama", whole=True)
    assert ModelSizes(shape).precision() == whole.precision


def test_the_bound_is_above_the_prediction() -> None:
    from humanward.config import parse_config
    from humanward.models.memory import predict

    config = parse_config({"reward": {"source": "classifier"}, "feedback": {"source": "none"}, "lora": {"rank": 4}})
    sizes = ModelSizes(build(max_position_embeddings=512))
    assert sizes.bound(config) > predict(config, sizes).peak("cpu")[1]
