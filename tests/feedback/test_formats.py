"""formats: each format both ways by hand, what is bad in a row, and what --skip-bad keeps."""

# ruff: noqa: E501  (whole messages stand beside their causes)

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.feedback.formats import FORMATS, export_file, guess_format, import_files
from humanward.feedback.tables import neutralise, restore
from humanward.preferences import PreferenceSet, derive_preferences
from humanward.records import Completion, Message, Prompt, Ranking
from humanward.rows import Row

U, A, S = "user", "assistant", "system"


def lines(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def derived(feedback: Feedback) -> PreferenceSet:
    return derive_preferences(feedback.prompts, feedback.completions, feedback.rankings, locations=feedback.locations)


def pair_of(path: Path, name: str) -> tuple[list[tuple[str, str]], str, str]:
    """(turns of the prompt, chosen, rejected) of a file with one pair."""
    (pair,) = derived(import_files([path], name).feedback).preferences
    return [(m.role, m.content) for m in pair.prompt.as_messages()], pair.chosen, pair.rejected


def hh(*turns: str) -> str:
    """A transcript of turns by Human and Assistant in turn."""
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {turn}" for i, turn in enumerate(turns))


FEEDBACK = Feedback(
    prompts=(
        Prompt("p", "Why?", (Message(S, "Be brief."), Message(U, "Why?")), "mine", "train"),
        Prompt("q", "=1+1", (), "mine", "test"),
    ),
    completions=(
        Completion("a", "p", "Because, “of” that.\nYes.", "m1", False, {"temperature": 0.7}),
        Completion("b", "p", "-2", "m2"),
        Completion("c", "p", "'@x", "m2"),
        Completion("d", "q", "", "m1"),
        Completion("e", "q", "two", "m1"),
    ),
    rankings=(
        Ranking("r1", "p", (("b",), ("a", "c")), "ada", False, "helpful", ("c", "a", "b"), 12.25, "2026-01-02T03:04:05Z"),
        Ranking("r2", "q", (("e",), ("d",)), "simulated-1", True, shown_order=("e", "d"), simulated=True),
        Ranking("r3", "q", (), "bea", True, shown_order=("d", "e")),
    ),
)  # fmt: skip


def test_our_own_format_is_lossless(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    assert export_file(path, "humanward", FEEDBACK).rows == 10
    found = import_files([path], "humanward").feedback
    assert (found.prompts, found.completions, found.rankings) == (
        FEEDBACK.prompts,
        FEEDBACK.completions,
        FEEDBACK.rankings,
    )
    again = tmp_path / "again.jsonl"
    export_file(again, "humanward", found)
    assert again.read_bytes() == path.read_bytes()
    assert import_files([path, again], "humanward").feedback.rankings == FEEDBACK.rankings


def test_csv_keeps_every_ranking(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    assert export_file(path, "csv", FEEDBACK).rows == 7
    found = import_files([path], "csv").feedback
    assert [(p.text, p.messages, p.split) for p in found.prompts] == [
        (p.text, p.messages, p.split) for p in FEEDBACK.prompts
    ]
    for old, new in zip(FEEDBACK.rankings, found.rankings, strict=True):
        texts = {c.id: (c.text, c.model) for c in (*FEEDBACK.completions, *found.completions)}
        for name in ("annotator", "criterion", "none_acceptable", "seconds_spent", "created_at", "simulated"):
            assert getattr(new, name) == getattr(old, name)
        assert [{texts[c] for c in tier} for tier in new.tiers] == [{texts[c] for c in tier} for tier in old.tiers]
        assert [texts[c] for c in new.shown_order] == [texts[c] for c in old.shown_order]


def test_no_exported_cell_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    export_file(path, "csv", FEEDBACK)
    with path.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert {"'=1+1", "'-2", "''@x"} <= set(cells)


@settings(deadline=None)
@given(st.text("=+-@'\t\r\nab"))
def test_neutral_cells_can_be_restored(cell: str) -> None:
    neutral = neutralise(cell)
    assert restore(neutral) == cell
    assert neutral[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n") or not neutral


def test_csv_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(
        'prompt,chosen,rejected,tie,annotator,seconds_spent,split\nWhy?,"a, b",c,,ada,3.5,dev\nWhy?,c,d,true,ada,,dev\n'
    )
    result = import_files([path], "auto")
    pairs = derived(result.feedback).preferences
    assert [(p.chosen, p.rejected, p.tie, p.annotator, p.split) for p in pairs if not p.tie] == [
        ("a, b", "c", False, "ada", "validation")
    ]
    assert [{p.chosen, p.rejected} for p in pairs if p.tie] == [{"c", "d"}]
    assert [r.seconds_spent for r in result.feedback.rankings] == [3.5, None]
    assert (result.rows, len(result.feedback.prompts), len(result.feedback.completions)) == (2, 1, 3)


def test_csv_of_ranks_groups_rows_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "ranks.csv"
    path.write_text(
        "prompt,completion,rank,annotator\nWhy?,a,2,ada\nHow?,x,1,ada\nWhy?,b,1,ada\nHow?,y,1,ada\nWhy?,c,2,ada\n"
    )
    found = import_files([path], "auto").feedback
    texts = {c.id: c.text for c in found.completions}
    assert import_files([path], "csv").rows == 5
    assert [[sorted(texts[c] for c in tier) for tier in r.tiers] for r in found.rankings] == [
        [["b"], ["a", "c"]],
        [["x", "y"]],
    ]


def test_hh_rlhf_is_split_before_the_last_answer(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl",
        {"chosen": hh("Hi", "Hello", "Why?", " Yes. "), "rejected": hh("Hi", "Hello", "Why?", "No.")},
    )
    assert pair_of(path, "hh-rlhf") == ([(U, "Hi"), (A, "Hello"), (U, "Why?")], "Yes.", "No.")


def test_hh_rlhf_with_different_prefixes_keeps_the_common_part(tmp_path: Path) -> None:
    row = {"chosen": hh("Hi", "Hello", "Why?", "Yes."), "rejected": hh("Hi", "Go away.")}
    path = lines(tmp_path / "x.jsonl", row)
    assert pair_of(path, "hh-rlhf") == ([(U, "Hi")], "Hello\n\nHuman: Why?\n\nAssistant: Yes.", "Go away.")
    assert import_files([path], "hh-rlhf").notes == {"prefixes differ": 1}


def test_hh_rlhf_turns_in_a_row_by_one_speaker(tmp_path: Path) -> None:
    # In the prompt they are joined, as user and assistant take turns there; in an answer the text stays as written.
    start = "\n\nHuman: Hi\n\nAssistant: a\n\nAssistant: b\n\nHuman: Why?\n\nAssistant: "
    path = lines(tmp_path / "x.jsonl", {"chosen": start + "c\n\nAssistant: d", "rejected": start + "c\n\nAssistant: e"})
    turns = [(U, "Hi"), (A, "a\n\nb"), (U, "Why?")]
    assert pair_of(path, "hh-rlhf") == (turns, "c\n\nAssistant: d", "c\n\nAssistant: e")


def test_hh_rlhf_export_reads_back(tmp_path: Path) -> None:
    row = {"chosen": hh("Hi", "Hello", "Why?", "Yes."), "rejected": hh("Hi", "Hello", "Why?", "No.")}
    feedback = import_files([lines(tmp_path / "x.jsonl", row)], "hh-rlhf").feedback
    export_file(tmp_path / "y.jsonl", "hh-rlhf", feedback)
    assert json.loads((tmp_path / "y.jsonl").read_text()) == row


def test_pair_formats_leave_ties_out_and_say_so(tmp_path: Path) -> None:
    result = export_file(tmp_path / "y.jsonl", "hh-rlhf", FEEDBACK)
    assert (result.rows, result.ties_left_out) == (3, 1)
    first = json.loads((tmp_path / "y.jsonl").read_text().splitlines()[0])
    assert first["chosen"] == "\n\nHuman: Be brief.\n\nWhy?\n\nAssistant: -2"


PROMPT_OF_TWO = [(U, "Hi"), (A, "Hello"), (U, "Why?")]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "chosen": "Yes.", "rejected": "No."}, [(U, "Why?")]),
        ({"prompt": chat(*PROMPT_OF_TWO), "chosen": chat((A, "Yes.")), "rejected": chat((A, "No."))}, PROMPT_OF_TWO),
        ({"chosen": chat(*PROMPT_OF_TWO, (A, "Yes.")), "rejected": chat(*PROMPT_OF_TWO, (A, "No."))}, PROMPT_OF_TWO),
        ({"prompt": "Why?", "chosen": chat((U, "Why?"), (A, "Yes.")), "rejected": chat((U, "Why?"), (A, "No."))}, [(U, "Why?")]),
        ({"prompt": chat((S, "Be brief."), (U, "Why?")), "chosen": "Yes.", "rejected": "No."}, [(S, "Be brief."), (U, "Why?")]),
        ({"chosen": hh("Why?", "Yes."), "rejected": hh("Why?", "No.")}, [(U, "Why?")]),
    ],
)  # fmt: skip
def test_trl_forms(row: dict, prompt: list, tmp_path: Path) -> None:
    assert pair_of(lines(tmp_path / "x.jsonl", row), "trl") == (prompt, "Yes.", "No.")


def test_trl_plain_implicit_prompt_is_the_common_beginning(tmp_path: Path) -> None:
    # The example of TRL's documentation; the blank before the differing words belongs to the answers.
    path = lines(tmp_path / "x.jsonl", {"chosen": "The sky is blue.", "rejected": "The sky is green."})
    assert pair_of(path, "trl") == ([(U, "The sky is")], " blue.", " green.")


def test_trl_export_reads_back(tmp_path: Path) -> None:
    export_file(tmp_path / "x.jsonl", "trl", FEEDBACK)
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "prompt": chat((S, "Be brief."), (U, "Why?")),
        "chosen": chat((A, "-2")),
        "rejected": chat((A, "Because, “of” that.\nYes.")),
    }
    found = derived(import_files([tmp_path / "x.jsonl"], "trl").feedback).preferences
    expected = [p for p in derived(FEEDBACK).preferences if not p.tie]
    assert [(p.prompt.as_messages(), p.chosen, p.rejected) for p in found] == [
        (p.prompt.as_messages(), p.chosen, p.rejected) for p in expected
    ]
    with pytest.raises(InputError, match=r"^prompt p: is a chat, which format 'trl-plain' cannot hold; use 'trl'$"):
        export_file(tmp_path / "y.jsonl", "trl-plain", FEEDBACK)
    assert not (tmp_path / "y.jsonl").exists()


def node(role: str, text: str, *replies: dict, rank: int | None = None, **rest: object) -> dict:
    return {"message_id": text, "role": role, "text": text, "replies": list(replies), "rank": rank, **rest}


def test_oasst_trees_rank_siblings(tmp_path: Path) -> None:
    tree = node(
        "prompter",
        "Why?",
        node("assistant", "so", rank=1),
        node(
            "assistant",
            "thus",
            node("prompter", "And?", node("assistant", "x", rank=0), node("assistant", "y"), node("assistant", "z", rank=0)),
            rank=0,
            model_name="bot",
        ),
        node("assistant", "gone", rank=2, deleted=True),
    )  # fmt: skip
    result = import_files([lines(tmp_path / "x.jsonl", {"message_tree_id": "t", "prompt": tree})], "auto")
    texts = {c.id: c.text for c in result.feedback.completions}
    assert [[sorted(texts[c] for c in tier) for tier in r.tiers] for r in result.feedback.rankings] == [
        [["thus"], ["so"]],
        [["x", "z"]],
    ]
    assert [p.as_messages()[-1].content for p in result.feedback.prompts] == ["Why?", "And?"]
    assert [m.content for m in result.feedback.prompts[1].messages] == ["Why?", "thus", "And?"]
    assert result.notes == {"unranked replies left out": 1}
    assert {c.text: c.model for c in result.feedback.completions}["thus"] == "bot"


def test_summaries(tmp_path: Path) -> None:
    row = {
        "info": {"id": "t3_x", "post": "My cat.", "title": "Cat", "subreddit": "pets"},
        "summaries": [{"text": " cat", "policy": "sup2"}, {"text": "cat is", "policy": "ref"}],
        "choice": 1,
        "worker": "w7",
        "split": "valid2",
    }
    result = import_files([lines(tmp_path / "x.json", row)], "auto").feedback
    (pair,) = derived(result).preferences
    assert pair.prompt.text == "SUBREDDIT: r/pets\n\nTITLE: Cat\n\nPOST: My cat.\n\nTL;DR:"
    assert (pair.chosen, pair.rejected, pair.annotator, pair.split) == ("cat is", "cat", "w7", "validation")
    assert [c.model for c in result.completions] == ["sup2", "ref"]
    assert result.rankings[0].shown_order == tuple(c.id for c in result.completions)
    row["info"] = {"id": "1", "article": "News."}
    assert import_files([lines(tmp_path / "x.json", row)], "auto").feedback.prompts[0].text == "News.\n\nTL;DR:"


def test_pandalm_has_a_ranking_for_each_annotator(tmp_path: Path) -> None:
    row = {
        "cmp_key": "bloom-7b_llama-7b",
        "instruction": "Verify.",
        "input": "x",
        "response1": True,
        "response2": "Yes.",
        "annotator1": 1,
        "annotator2": 0,
        "annotator3": 2,
    }
    feedback = import_files([lines(tmp_path / "x.jsonl", row)], "auto").feedback
    assert feedback.prompts[0].text == "Verify.\n\nx"
    assert [(c.text, c.model) for c in feedback.completions] == [("True", "bloom-7b"), ("Yes.", "llama-7b")]
    pairs = derived(feedback).preferences
    assert [(p.annotator[-1], p.chosen, p.rejected, p.tie) for p in pairs if not p.tie] == [
        ("1", "True", "Yes.", False),
        ("3", "Yes.", "True", False),
    ]
    assert [p.annotator[-1] for p in pairs if p.tie] == ["2"]


@pytest.mark.parametrize(
    ("labels", "tiers"),
    [
        # 1 > 2 > 3 > 4.
        ([1, 1, 1, 1, 1, 1], [["1"], ["2"], ["3"], ["4"]]),
        # 3 first, then 1 = 4, then 2.
        ([1, 2, 0, 2, 2, 1], [["3"], ["1", "4"], ["2"]]),
        ([0, 0, 0, 0, 0, 0], [["1", "2", "3", "4"]]),
    ],
)
def test_six_comparisons_that_form_an_order_are_one_ranking(labels: list[int], tiers: list, tmp_path: Path) -> None:
    row = {"question": "Why?", "preference": labels, **{f"prediction {i}": str(i) for i in range(1, 5)}}
    feedback = import_files([lines(tmp_path / "x.jsonl", row)], "auto").feedback
    texts = {c.id: c.text for c in feedback.completions}
    (ranking,) = feedback.rankings
    assert [sorted(texts[c] for c in tier) for tier in ranking.tiers] == tiers


def test_six_comparisons_that_contradict_each_other_stay_six(tmp_path: Path) -> None:
    # 1 > 2 > 3 > 1 is a circle.
    row = {"question": "Why?", "preference": [1, 2, 1, 1, 1, 1], **{f"prediction {i}": str(i) for i in range(1, 5)}}
    result = import_files([lines(tmp_path / "x.jsonl", row)], "auto")
    assert result.notes == {"intransitive": 1}
    found = derived(result.feedback)
    assert (len(result.feedback.rankings), found.pairs, found.superseded) == (6, 6, 0)
    assert {p.weight for p in found.preferences} == {1 / 6}


GOOD = {
    "hh-rlhf": {"chosen": hh("Hi", "a"), "rejected": hh("Hi", "b")},
    "trl": {"prompt": "Hi", "chosen": "a", "rejected": "b"},
    "oasst": {"message_tree_id": "t", "prompt": node("prompter", "Hi", node("assistant", "a", rank=0), node("assistant", "b", rank=1))},
    "summarize-from-feedback": {"info": {"id": "1", "post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
    "pandalm": {"instruction": "Hi", "input": "", "response1": "a", "response2": "b", "annotator1": 1},
    "qa-feedback": {"question": "Hi", "preference": [1] * 6, **{f"prediction {i}": str(i) for i in range(1, 5)}},
    "humanward": {"prompt": {"id": "p", "text": "Hi"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hh-rlhf", {"chosen": None}, "field 'chosen': 'None' is not text; write a text"),
        ("hh-rlhf", {"chosen": "Hello"}, "field 'chosen': 'Hello' does not begin with 'Human:'; write a Human/Assistant transcript"),
        ("hh-rlhf", {"chosen": hh(" ", "a")}, "field 'chosen': turn 1, by Human, is empty; write a text or drop the row"),
        ("hh-rlhf", {"chosen": hh("Ho", "a")}, ": chosen and rejected share no user turn before an assistant turn; drop the row"),
        ("hh-rlhf", {"chosen": hh("Hi")}, ": chosen and rejected share no user turn before an assistant turn; drop the row"),
        ("trl", {"rejected": chat((A, "b"))}, ": chosen and rejected are a text and a list; write both as the same"),
        ("trl", {"prompt": 3}, "field 'prompt': 3 is neither text nor a list of messages; write one of them"),
        ("trl", {"prompt": ""}, ": has no prompt, and chosen and rejected begin differently; add field 'prompt'"),
        ("trl", {"prompt": "x", "split": "all"}, "field 'split': 'all' is not train, validation or test; rename it"),
        ("trl", {"chosen": chat((U, "a")), "rejected": chat((A, "b"))}, "field 'chosen': does not end with an assistant message; write the answer last"),
        ("trl", {"chosen": chat((U, "x"), (A, "a")), "rejected": chat((A, "b"))}, "field 'chosen': its earlier messages are not those of the prompt; keep the answer alone"),
        ("trl", {"chosen": [{"role": A}], "rejected": chat((A, "b"))}, "field 'chosen', message 1, field 'content': None is not text; only text can be used"),
        ("oasst", {"prompt": 1}, "field 'prompt': is missing or no object; it holds the tree's first message"),
        ("oasst", {"prompt": node("human", "Hi")}, "message Hi, field 'role': 'human' is not prompter or assistant; correct it"),
        ("oasst", {"prompt": node("prompter", "Hi", node("assistant", "a", rank=0), node("assistant", "b", rank="1"))}, "message b: rank '1' is no whole number"),  # type: ignore[arg-type]
        ("oasst", {"prompt": {**node("prompter", "Hi"), "replies": [1]}}, "message Hi, field 'replies': is not a list of messages"),
        ("summarize-from-feedback", {"choice": 2}, "field 'choice': '2' is not one of 0, 1; correct it"),
        ("summarize-from-feedback", {"choice": True}, "field 'choice': 'True' is not one of 0, 1; correct it"),
        ("summarize-from-feedback", {"summaries": []}, "field 'summaries': is not a list of two; it holds the compared summaries"),
        ("summarize-from-feedback", {"info": None}, "field 'info': is missing or no object; it holds the post"),
        ("pandalm", {"annotator1": "1"}, "field 'annotator1': '1' is not one of 0, 1, 2; correct it"),
        ("pandalm", {"instruction": " "}, "fields 'instruction' and 'input': is empty; write a text or drop the row"),
        ("qa-feedback", {"preference": [1, 2]}, "field 'preference': [1, 2] is not a list of six labels 0, 1 or 2"),
        ("qa-feedback", {"prediction 3": ""}, "field 'prediction 3': is empty; write a text or drop the row"),
        ("humanward", {"prompt": {"id": "p"}}, "prompt: field 'text' is missing in Prompt"),
        ("humanward", {"extra": 1}, ": is not one of prompt, completion, ranking, rating alone; write e.g. {'prompt': {...}}"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_and_the_good_ones_are_kept_on_request(
    name: str, change: dict, message: str, tmp_path: Path
) -> None:
    good = GOOD[name]
    path = lines(tmp_path / "x.jsonl", good, {**good, **change}, [1])
    with pytest.raises(InputError) as caught:
        import_files([path], name)
    separator = "" if message.startswith(":") else ", "
    assert str(caught.value) == f"{path} line 2{separator}{message}"
    result = import_files([path], name, skip_bad=True)
    assert (result.rows, len(result.bad), len(result.feedback.prompts)) == (3, 2, 1)
    assert result.bad[0] == str(caught.value)
    assert result.bad[1] == f"{path} line 3: '[1]' is not an object; write one object a row"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,chosen\nHi,a\n", "line 2: field 'rejected' is missing; write it or drop the row"),
        ("prompt,chosen,rejected\n,a,b\n", "line 2, field 'prompt': is empty; write a text or drop the row"),
        ("prompt,chosen,rejected,tie\nHi,a,b,maybe\n", "line 2, field 'tie': 'maybe' is not true or false; write one of them"),
        ("prompt,chosen,rejected,seconds_spent\nHi,a,b,inf\n", "line 2, field 'seconds_spent': 'inf' is not finite; write a finite number"),
        ("prompt,chosen,rejected,messages\nHi,a,b,[\n", "line 2, field 'messages': not JSON (Expecting value); write a list of messages"),
        ("prompt,completion,rank\nHi,a,1\nHi,b,best\n", "line 3, field 'rank': 'best' is not a number; write one"),
        ("prompt,completion,rank\nHi,a,1\nHi,b,\n", "line 3, field 'rank': is empty; give a number, 1 for the best"),
        ("prompt,completion,rank\nHi,a,1\n", "line 2: ranks one completion; rank at least two of a prompt"),
        ("ranking_id,prompt,completion,rank\n1,Hi,a,1\n1,Ho,b,2\n", "line 3, field 'prompt': differs within the ranking of {path} line 2; make it equal"),
        ("prompt,chosen,rejected,split\nHi,a,b,train\nHi,a,c,test\n", "line 3: the prompt is in split 'test' here and in 'train' before; keep one"),
    ],
)  # fmt: skip
def test_bad_csv_rows(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        import_files([path], "csv")
    assert str(caught.value) == f"{path} {message.format(path=path)}"


def test_own_records_must_name_known_ones(tmp_path: Path) -> None:
    prompt, answer = (
        {"prompt": {"id": "p", "text": "Hi"}},
        {"completion": {"id": "a", "prompt_id": "p", "text": "a", "model": "m"}},
    )
    for rows, message in (
        ([answer], r"line 1: unknown prompt 'p'; write the prompt before its completions$"),
        ([prompt, answer, {"completion": {**answer["completion"], "text": "b"}}], r"line 3: id 'a' names another completion already; give each its own$"),
        ([prompt, {"ranking": {"id": "r", "prompt_id": "p", "tiers": [["a"], ["b"]], "annotator": "x"}}], r"line 2: unknown completion 'a'; add it or drop the ranking$"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            import_files([lines(tmp_path / "x.jsonl", *rows)], "humanward")


@pytest.mark.parametrize("name", GOOD)
def test_the_format_is_recognised(name: str) -> None:
    assert guess_format(Row("x line 1", 1, GOOD[name])) == name


def test_unknown_formats_and_nothing_to_import(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"a": 1})
    with pytest.raises(
        InputError, match=r"x\.jsonl line 1: no known format has the fields \['a'\]; name it with --format$"
    ):
        import_files([path], "auto")
    with pytest.raises(InputError, match=r"^format 'prodigy': unknown; use one of humanward, hh-rlhf, trl, "):
        import_files([path], "prodigy")
    with pytest.raises(
        InputError,
        match=r"^format 'oasst': cannot be written; use one of humanward, hh-rlhf, trl, trl-plain, csv, kto, label-studio, argilla$",
    ):
        export_file(tmp_path / "y", "oasst", FEEDBACK)
    with pytest.raises(
        InputError, match=r"nothing to import \(all 1 rows are bad, the first: .* line 1: field 'chosen' is missing"
    ):
        import_files([path], "trl", skip_bad=True)
    with pytest.raises(InputError, match=r"nothing to import \(no rows\); check the format 'trl'$"):
        import_files([lines(path)], "trl")
    assert all(form.summary for form in FORMATS.values())


def test_equal_answers_in_one_judgement_stay_two(tmp_path: Path) -> None:
    feedback = import_files(
        [lines(tmp_path / "x.jsonl", {"prompt": "Hi", "chosen": "a", "rejected": "a"})], "trl"
    ).feedback
    assert len(feedback.completions) == 2
    assert derived(feedback).identical == 1


def test_the_same_row_twice_is_two_judgements_and_the_same_file_twice_is_one(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD["trl"], GOOD["trl"])
    assert len(import_files([path], "trl").feedback.rankings) == 2
    assert len(import_files([path, path], "trl").feedback.rankings) == 2
