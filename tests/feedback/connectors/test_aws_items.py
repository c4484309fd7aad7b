"""items: what is shown to workers, what is refused, and how an output's item is found again in the run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from feedback.connectors.shapes import COMPLETIONS, PROMPTS

from humanward.errors import InputError
from humanward.feedback.connectors.items import Finder, Item, build_items, check_items, source_text
from humanward.records import Completion, Message, Prompt


def item(source: str = "q", responses: tuple[str, ...] = ("a", "b")) -> Item:
    return Item("p", source, responses, tuple(f"c{n}" for n in range(len(responses))))


def test_one_item_a_prompt_with_two_answers_or_more() -> None:
    found = build_items(PROMPTS, COMPLETIONS)
    assert [i.prompt_id for i in found.items] == ["sky", "same-1", "same-2"]
    assert found.left_out == 1
    assert [len(i.responses) for i in found.items] == [3, 2, 2]
    texts = {c.id: c.text for c in COMPLETIONS}
    for shown in found.items:
        assert [texts[key] for key in shown.completion_ids] == list(shown.responses)
    assert build_items(PROMPTS, list(reversed(COMPLETIONS))) == found
    assert [i.prompt_id for i in build_items(PROMPTS, COMPLETIONS, limit=2).items] == ["sky", "same-1"]
    with pytest.raises(InputError, match="no prompt of the run has two answers; sample some"):
        build_items(PROMPTS[3:], COMPLETIONS)


def test_the_place_of_an_answer_says_nothing_of_its_model() -> None:
    prompts = [Prompt(f"p{n}", "q") for n in range(200)]
    completions = [Completion(f"{p.id}-{m}", p.id, m, m) for p in prompts for m in ("before", "after")]
    first = sum(i.responses[0] == "before" for i in build_items(prompts, completions).items)
    # Binomial(200, .5): outside of 65 to 135 with probability below 1e-6; the ids are fixed, so the test is, too.
    assert 65 <= first <= 135


def test_a_line_of_the_manifest() -> None:
    line = item("Why\n\u2028so?", ("a, b", 'it\'s "c"')).line()
    assert line == (
        '{"source": "Why\\n\\u2028so?", "responses": ["a, b", "it\'s \\"c\\""], '
        '"item_id": "p", "completion_ids": ["c0", "c1"]}'
    )
    assert json.loads(line)["source"] == "Why\n\u2028so?"
    assert len(line.splitlines()) == 1


def test_a_chat_is_shown_whole() -> None:
    chat = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
    )
    assert source_text(Prompt("p", "Bye", chat)) == "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Bye"


def test_the_longest_line_that_is_taken() -> None:
    spare = 100_000 - len(item("", ("", "b")).line())
    check_items([item("q", ("x" * (spare - 1), "b"))])
    with pytest.raises(
        InputError, match="prompt 'p': its line of the manifest has 100001 characters, 100000 are allowed"
    ):
        check_items([item("q", ("x" * spare, "b"))])
    # Characters, not bytes: é is one character and two bytes.
    check_items([item("q", ("é" * (spare - 1), "b"))])


def test_the_largest_input_that_is_taken() -> None:
    spare = 3_145_728 - len(item("", ("", "b")).line())
    check_items([item("q", ("x" * (spare - 1), "b"))], characters=None)
    check_items([item("q", ("é" * ((spare - 1) // 2), "b"))], characters=None)
    with pytest.raises(InputError, match="prompt 'p': its input has 3145729 bytes, 3145728 are allowed"):
        check_items([item("q", ("x" * spare, "b"))], characters=None)
    with pytest.raises(InputError, match=r"prompt 'p': its input has \d+ bytes"):
        check_items([item("q", ("é" * (spare // 2 + 1), "b"))], characters=None)


def test_prompts_that_would_be_read_otherwise() -> None:
    with pytest.raises(InputError, match="prompt 'p': is empty, but Ground Truth needs a text"):
        check_items([item(" \n")])
    with pytest.raises(InputError, match="prompt 'p': is an S3 address, which AWS would open"):
        check_items([item("s3://bucket/key")])
    check_items([item("What is s3://bucket/key?"), item("s3:// is a scheme")])


SKY = {"source": "Why is the sky blue?", "responses": ["No idea", "Rayleigh, scattering", "It's <b>magic</b>"]}
SKY_IDS = ("sky-c", "sky-a", "sky-b")


@pytest.mark.parametrize(
    "more",
    [
        {"item_id": "sky", "completion_ids": list(SKY_IDS)},
        {"item_id": "sky"},
        {},
        {"taskObject": {"prompt": SKY["source"], "responses": SKY["responses"]}},
    ],
)
def test_an_item_is_found_by_its_ids_or_its_texts(more: dict[str, Any]) -> None:
    value = more if "taskObject" in more else SKY | more
    found = Finder(PROMPTS, COMPLETIONS).find(value, "job line 1", "m line 1")
    assert found == Item("sky", str(SKY["source"]), tuple(SKY["responses"]), SKY_IDS)


def test_equal_texts_of_one_prompt_stay_two_answers() -> None:
    completions = [Completion("x", "p", "same", "m"), Completion("y", "p", "same", "n")]
    found = Finder([Prompt("p", "q")], completions).find({"source": "q", "responses": ["same", "same"]}, "", "m line 1")
    assert found.completion_ids == ("x", "y")


def test_prompts_with_the_same_text_are_told_apart_by_item_id_alone() -> None:
    finder = Finder(PROMPTS, COMPLETIONS)
    pear = {"source": "Name a fruit, please.", "responses": ["Pear", "Stone"]}
    assert finder.find(pear | {"item_id": "same-2"}, "", "m line 1").completion_ids == ("two-a", "two-b")
    with pytest.raises(InputError, match="m line 1: 2 prompts of the run have this text; add item_id"):
        finder.find(pear, "", "m line 1")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"responses": ["a", "b"]}, r"m line 1, field 'source': is missing or not text"),
        ({"source": 3, "responses": ["a", "b"]}, r"m line 1, field 'source': is missing or not text"),
        ({"source": "q"}, r"m line 1, field 'responses': is no list of two or more texts"),
        ({"source": "q", "responses": "a,b"}, r"field 'responses'"),
        ({"source": "q", "responses": ["a"]}, r"field 'responses'"),
        ({"source": "q", "responses": ["a", 2]}, r"field 'responses'"),
        (SKY | {"item_id": 7}, r"m line 1, field 'item_id': 7 is not text"),
        (SKY | {"item_id": "sea"}, r"m line 1: item 'sea' is not in the run; check --run, or import it with --add"),
        ({"source": "q", "responses": ["a", "b"]}, r"m line 1: its prompt is not in the run"),
        (SKY | {"responses": ["No idea", "New"]}, r"m line 1: answer 2 is no completion of prompt 'sky' of the run"),
        (
            SKY | {"item_id": "sky", "completion_ids": ["sky-a"]},
            r"'completion_ids': is not one id for each of 3 answers",
        ),
        (SKY | {"item_id": "sky", "completion_ids": ["sky-a"] * 3}, r"'completion_ids': is not one id for each"),
        (SKY | {"item_id": "sky", "completion_ids": "abc"}, r"'completion_ids': is not one id for each"),
        (
            SKY | {"item_id": "sky", "completion_ids": ["x", "y", "z"]},
            r"completion 'x' of prompt 'sky' is not in the run",
        ),
        (SKY | {"item_id": "sky", "completion_ids": [1, 2, 3]}, r"completion 1 of prompt 'sky' is not in the run"),
        (
            SKY | {"item_id": "sky", "completion_ids": ["sky-a", "sky-b", "sky-c"]},
            r"m line 1: answer 1 is not the text of completion 'sky-a' of the run",
        ),
    ],
)
def test_what_is_not_the_runs_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Finder(PROMPTS, COMPLETIONS).find(value, "job line 1", "m line 1")


def test_adding_what_the_run_does_not_know() -> None:
    finder = Finder([], [], add=True)
    value = {"source": "Name a fruit.", "responses": ["Fig", "Fig", "Log"]}
    first, second = (finder.find(value, f"job line {n}", f"m line {n}") for n in (1, 2))
    named = finder.find(value | {"item_id": "x"}, "job line 3", "m line 3")
    assert len({first.prompt_id, second.prompt_id, named.prompt_id}) == 3
    assert len(set(first.completion_ids)) == 3
    assert {p.text for p in finder.prompts.values()} == {"Name a fruit."}
    assert len(finder.completions) == 9
    # The same file into the run that was made of it: the same ids, so nothing is added.
    again = Finder(finder.prompts.values(), finder.completions.values(), add=True)
    assert [again.find(value, f"job line {n}", "") for n in (1, 2)] == [first, second]
    assert again.find(value | {"item_id": "x"}, "job line 3", "") == named
    # What the run knows is not added.
    known = Finder(PROMPTS, COMPLETIONS, add=True)
    assert known.find(SKY | {"item_id": "sky"}, "", "").prompt_id == "sky"
    assert known.find(SKY, "", "").prompt_id == "sky"
    assert not known.prompts
