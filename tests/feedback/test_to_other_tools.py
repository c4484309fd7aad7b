"""Rankings written for Label Studio and Argilla, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.feedback.formats import export_file, import_files
from humanward.records import Completion, Message, Prompt, Ranking

CHAT = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?"))
PROMPTS = (Prompt("p1", "What is 1 + 1?"), Prompt("p2", "Why?", CHAT))
ANSWERS = (
    *(Completion(f"c{k}", "p1", text, "secret-model") for k, text in enumerate(("two", "2", "", "= 2, \U0001f600"))),
    Completion("d1", "p2", "because", "secret-model"),
    Completion("d2", "p2", "<b>no</b>", "secret-model"),
)
RANKINGS = (
    Ranking("r1", "p1", (("c1",), ("c0", "c3"), ("c2",)), "ada@example.org", criterion="helpful", seconds_spent=4.5),
    Ranking("r2", "p1", (("c0",), ("c1",), ("c2",), ("c3",)), "ada@example.org", criterion="honest"),
    Ranking("r3", "p1", (("c0", "c1", "c2", "c3"),), "simulated-1", criterion="helpful", simulated=True),
    # Another set of answers to the same prompt is another task.
    Ranking("r4", "p1", (("c1",), ("c0",)), "bob"),
    Ranking("r5", "p2", (("d2",), ("d1",)), ""),
    Ranking("r6", "p2", (("d2",), ("d1",)), ""),
    # Superseded, and one without an order.
    Ranking("r7", "p2", (("d2",), ("d1",)), "eve"),
    Ranking("r8", "p2", (), "eve", True, shown_order=("d1", "d2")),
)
FEEDBACK = Feedback(PROMPTS, ANSWERS, RANKINGS)


def told(feedback: Feedback) -> list[tuple[Any, ...]]:
    """What people said, without ids: prompt, chat, person, criterion, tiers of texts."""
    prompts = {prompt.id: prompt for prompt in feedback.prompts}
    texts = {completion.id: completion.text for completion in feedback.completions}
    return sorted(
        (
            prompts[r.prompt_id].text,
            len(prompts[r.prompt_id].messages),
            r.annotator,
            r.criterion,
            tuple(tuple(sorted(texts[c] for c in tier)) for tier in r.tiers),
            r.simulated,
        )
        for r in feedback.rankings
        if r.tiers and r.id != "r7"
    )


@pytest.mark.parametrize("name", ["label-studio", "argilla"])
def test_what_is_written_says_the_same_when_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / "out.json"
    result = export_file(path, name, FEEDBACK)
    assert (result.rows, result.ties_left_out, result.unordered_left_out) == (3, 0, 1)
    assert "secret-model" not in path.read_text(encoding="utf-8")
    back = import_files([path], "auto")
    assert told(back.feedback) == told(FEEDBACK)
    assert len(back.feedback.prompts) == 2
    # Written again, it is the same but for ids.
    export_file(tmp_path / "again.json", name, back.feedback)
    assert told(import_files([tmp_path / "again.json"], name).feedback) == told(FEEDBACK)


def test_argilla_gets_the_records_of_its_own_sdk(tmp_path: Path) -> None:
    # The keys, and the values of a ranking, as argilla 2.8 writes and reads them: Record.to_dict and Record.from_dict.
    user = "11111111-2222-4333-8444-555555555555"
    ranking = Ranking("r1", "p1", (("c1",), ("c0",)), user)
    path = tmp_path / "out.json"
    export_file(path, "argilla", Feedback(PROMPTS[:1], ANSWERS[:2], (ranking,)))
    (record,) = json.loads(path.read_text(encoding="utf-8"))
    assert record.pop("humanward")["prompt_id"] == "p1"
    ranked = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]
    assert record == {
        "id": "p1",
        "fields": {"prompt": "What is 1 + 1?", "response-1": "two", "response-2": "2"},
        "metadata": {},
        "suggestions": {},
        "responses": {"overall": [{"value": ranked, "user_id": user, "status": "submitted"}]},
        "vectors": {},
    }


def test_label_studio_gets_a_bucket_for_every_rank(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    export_file(path, "label-studio", Feedback(PROMPTS[:1], ANSWERS[:4], RANKINGS[:1]))
    (task,) = json.loads(path.read_text(encoding="utf-8"))
    assert task["data"]["items"][0] == {"id": "c0", "body": "two"}
    (annotation,) = task["annotations"]
    assert annotation["completed_by"] == {"email": "ada@example.org"}
    (result,) = annotation["result"]
    assert (result["type"], result["from_name"], result["to_name"]) == ("ranker", "helpful", "items")
    assert result["value"] == {"ranker": {"rank 1": ["c1"], "rank 2": ["c0", "c3"], "rank 3": ["c2"], "rank 4": []}}


@pytest.mark.parametrize("name", ["label-studio", "argilla"])
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"is one JSON list; let the file's name end in \.json"):
        export_file(tmp_path / "out.jsonl", name, FEEDBACK)
    with pytest.raises(InputError, match="there are no rankings to write"):
        export_file(tmp_path / "out.json", name, Feedback(PROMPTS, ANSWERS, ()))
    assert list(tmp_path.iterdir()) == []


def test_columns_of_argilla_2_are_read(tmp_path: Path) -> None:
    # Record.to_dict flattened, as a dataset on the hub holds it; the SDK keeps the order and drops the ranks.
    row = {
        "prompt": "Why?",
        "response-1": "x",
        "response-2": "y",
        "overall.responses": [["response-2", "response-1"], ["response-1", "response-2"], None],
        "overall.responses.users": ["u1", "u2", "u3"],
        "overall.responses.status": ["submitted", "draft", "submitted"],
        "overall.suggestion": None,
    }
    path = tmp_path / "flat.json"
    path.write_text(json.dumps([row]))
    feedback = import_files([path], "argilla").feedback
    assert told(feedback) == [("Why?", 0, "u1", "overall", (("y",), ("x",)), False)]
