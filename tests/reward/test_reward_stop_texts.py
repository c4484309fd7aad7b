"""With stop texts the trained reward model scores what people would have ranked: text cut before the stop, closed."""

from __future__ import annotations

from pathlib import Path

import torch
from models import tiny

from humanward.models.heads import ScoreHead
from humanward.models.tokens import make_tokens
from humanward.reward.model import ROLE, RewardModel
from humanward.stages.scoring import _ended


def test_a_response_that_a_stop_text_ended_scores_as_its_closed_text(tmp_path: Path) -> None:
    base = tiny.with_policy(tiny.shared_base("llama"))
    base.add_role(ROLE, tiny.LoraConfig(rank=2, alpha=4.0), seed=1)
    model = RewardModel(base, ScoreHead(base.width, torch.Generator().manual_seed(0)), limit=64)
    prompts = tiny.prompts(3, words=3)
    ids = [base.prompt_ids(prompt) for prompt in prompts]
    # Closed by the end token, by the stop text w5, and cut off.
    responses = [[1, 2, tiny.EOS], [1, 2, 5], [1, 2, 3]]
    tokens = make_tokens(ids, responses, base.pad_id)
    texts = [base.response_text(r, ("w5",)) for r in responses]
    assert texts == ["w1 w2", "w1 w2", "w1 w2 w3"]
    assert _ended(base, texts, tokens) == [True, True, False]
    scores = model.score(prompts, texts, ended=_ended(base, texts, tokens))
    by_tokens = model.score_tokens(make_tokens(ids, [[1, 2, tiny.EOS], [1, 2, tiny.EOS], [1, 2, 3]], base.pad_id))
    torch.testing.assert_close(scores, by_tokens, rtol=1e-5, atol=1e-5)
    assert abs(float(scores[1] - model.score_tokens(tokens)[1])) > 1e-4, "the stop text's tokens score otherwise"
