"""Stop texts end a response; rows of one prompt share its prefix."""

from __future__ import annotations

import pytest
import torch
from models import tiny

from humanward.models import sampling as sampling_module
from humanward.models.sampling import sample

PROMPTS = [[1, 2, 3]] * 40
KEYS = [str(i) for i in range(40)]


@pytest.mark.parametrize("name", ["llama", "gpt2", tiny.ENCODER_DECODER[0]])
def test_a_stop_text_ends_the_response_where_it_stands_first(name: str) -> None:
    base = tiny.shared_base(name)
    free = sample(base, PROMPTS, KEYS, tiny.sampling(max_new_tokens=12, temperature=1e6), seed=0)
    cut = sample(base, PROMPTS, KEYS, tiny.sampling(max_new_tokens=12, temperature=1e6, stop=("w5 w7", "w9")), seed=0)
    found = 0
    for whole, response in zip(free, cut, strict=True):
        text = base.response_text(whole.ids)
        places = [text.find(mark) for mark in ("w5 w7", "w9") if mark in text]
        if not places:
            assert response == whole
            continue
        found += 1
        # Same random numbers, so what was written up to the stop text is the same; the stop text itself is kept.
        assert response.ids == whole.ids[: len(response.ids)]
        assert response.ended
        assert base.response_text(response.ids, ("w5 w7", "w9")) == text[: min(places)].strip()
        assert base.response_text(response.ids).endswith(("w5 w7", "w9"))
    assert found >= 5


def test_an_end_token_before_the_stop_text_still_ends() -> None:
    base = tiny.shared_base("llama")
    responses = sample(base, PROMPTS, KEYS, tiny.sampling(max_new_tokens=12, temperature=1e6, stop=("w9",)), seed=0)
    assert any(r.ids[-1] in base.stop_ids for r in responses)
    assert all(r.ended for r in responses if r.ids[-1] in base.stop_ids)


@pytest.mark.parametrize("name", [*tiny.PLAIN, *tiny.ENCODER_DECODER])
def test_the_librarys_forward_reads_a_repeated_prompt_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.with_policy(tiny.shared_base(name), moved=0.2)
    base.samples_by_engine = False
    rows: list[int] = []
    real = sampling_module._Decoder._read

    def read(self) -> torch.Tensor:
        logits = real(self)
        rows.append(len(logits))
        return logits

    monkeypatch.setattr(sampling_module._Decoder, "_read", read)
    prompts = [[1, 2, 3], [4, 5], [1, 2, 3], [4, 5], [1, 2, 3], [6]]
    keys = [str(i) for i in range(6)]
    with base.role("policy"):
        together = sample(base, prompts, keys, tiny.sampling(), seed=1)
        assert rows[0] == 3
        assert rows[1] > 3
        alone = [sample(base, [p], [k], tiny.sampling(), seed=1)[0] for p, k in zip(prompts, keys, strict=True)]
    assert together == alone
