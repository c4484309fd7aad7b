"""prompts: every form that is read, duplicates, bad rows, and a split that never moves a prompt."""

# ruff: noqa: E501  (whole messages stand beside their causes)

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanward.errors import InputError
from humanward.prompts import (
    PromptFile,
    PromptForm,
    check_splits,
    content_key,
    make_prompt,
    opening_key,
    parse_fractions,
    parse_messages,
    read_prompts,
    split_prompts,
    typed_prompt,
)
from humanward.records import Message, Prompt, to_json, write_jsonl

U, A, S = "user", "assistant", "system"
FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def lines(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def prompt(text: str, split: str = "") -> Prompt:
    return make_prompt(text, "here", source="test", split=split)


@pytest.mark.parametrize(
    ("row", "text", "turns"),
    [
        ({"prompt": "Hi "}, "Hi ", 0),
        ({"text": "Hi"}, "Hi", 0),
        ("Hi", "Hi", 0),
        ({"prompt": {"text": "Hi", "toxicity": 0.1}, "continuation": {"text": "x"}}, "Hi", 0),
        ({"messages": chat((U, "Hi"))}, "Hi", 0),
        ({"prompt": chat((S, "Be brief."), (U, "Hi"))}, "Hi", 2),
        ({"messages": chat((U, "a"), (A, "b"), (U, "c")), "text": ""}, "c", 3),
        ({"messages": [{"role": U, "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]}]}, "Hi!", 0),
        ({"id": 7, "text": "Hi", "category": "x"}, "Hi", 0),
    ],
)  # fmt: skip
def test_forms_of_a_row(row: object, text: str, turns: int, tmp_path: Path) -> None:
    file = read_prompts(lines(tmp_path / "some.jsonl", row))
    assert file.duplicates == 0
    (found,) = file.prompts
    assert (found.text, len(found.messages), found.source, found.split) == (text, turns, "some", "")
    assert found.as_messages()[-1] == Message(U, text)


def test_our_own_form_is_kept_as_it_is(tmp_path: Path) -> None:
    own = [
        Prompt("one", "Hi", (Message(S, "Be brief."), Message(U, "Hi")), "mine", "test"),
        Prompt("two", "Hello", split="train"),
    ]
    write_jsonl(tmp_path / "own.jsonl", own)
    assert read_prompts(tmp_path / "own.jsonl") == PromptFile(tuple(own), 0)


def test_text_csv_and_gzip_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One\n\nTwo\n")
    with gzip.open(tmp_path / "b.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([["id", "prompt", "note"], ["1", "One, two", "x"], ["2", "Three\nfour", ""]])
    assert [p.text for p in read_prompts(tmp_path / "a.txt").prompts] == ["One", "Two"]
    assert [p.text for p in read_prompts(tmp_path / "b.csv.gz").prompts] == ["One, two", "Three\nfour"]


def test_ids_depend_on_source_item_and_content_alone(tmp_path: Path) -> None:
    first = read_prompts(lines(tmp_path / "x.jsonl", {"prompt": "a"}, {"prompt": "b"})).prompts
    second = read_prompts(lines(tmp_path / "x.jsonl", {"prompt": "b  "}, {"prompt": "c"}, {"prompt": "a"})).prompts
    assert first[0].id == second[2].id
    assert first[1].id == second[0].id
    ids = {make_prompt("a", "x", source=source, item_id=item).id for source, item in (("s", ""), ("s", "1"), ("t", ""))}
    assert len(ids) == 3


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl",
        {"prompt": "Hi there"},
        {"text": " Hi \n there"},
        {"messages": chat((U, "Hi there"))},
        {"messages": chat((S, "s"), (U, "Hi there"))},
        {"prompt": "hi there"},
        {"prompt": "cafe\u0301"},
        {"prompt": "caf\u00e9"},
    )
    file = read_prompts(path)
    assert file.duplicates == 3
    assert [p.text for p in file.prompts] == ["Hi there", "Hi there", "hi there", "cafe\u0301"]


def test_a_folder_of_splits(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", {"prompt": "a"}, {"prompt": "b", "split": "train"})
    lines(tmp_path / "valid.jsonl", {"prompt": "c"}, {"prompt": "a"})
    (tmp_path / "test.txt").write_text("d\n")
    (tmp_path / "README.md").write_text("not read")
    file = read_prompts(tmp_path)
    assert [(p.text, p.split) for p in file.prompts] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "validation"),
        ("d", "test"),
    ]
    assert file.duplicates == 1
    assert {p.source for p in file.prompts} == {tmp_path.name}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "x"}, "line 1: field 'prompt' is missing (found question); name one of messages, prompt, text, or another field in prompts.field"),
        ([1], "line 1: [1] is not an object with a prompt; write one object a line"),
        ({"prompt": "  "}, "line 1, field 'prompt': is empty; write a text or drop the row"),
        ({"prompt": 3}, "line 1, field 'prompt': 3 is neither text nor a list of messages; write one of them"),
        ({"prompt": {"txt": "x"}}, "line 1, field 'prompt.text': None is neither text nor a list of messages; write one of them"),
        ({"messages": [{"role": "human", "content": "x"}]}, "line 1, field 'messages', message 1: role 'human' is not one of system, user, assistant; rename it"),
        ({"messages": chat((U, "x"), (U, "y"))}, "line 1, field 'messages', message 2: role 'user' where 'assistant' is due; after an optional system message user and assistant take turns"),
        ({"messages": chat((S, "x"), (A, "y"))}, "line 1, field 'messages', message 2: role 'assistant' where 'user' is due; after an optional system message user and assistant take turns"),
        ({"messages": chat((U, "x"), (A, "y"))}, "line 1, field 'messages': the last message is by assistant, not user; drop it from the prompt"),
        ({"messages": chat((S, "x"))}, "line 1, field 'messages': holds a system message alone; add a user message"),
        ({"messages": chat((U, " "))}, "line 1, field 'messages', message 1, field 'content': is empty; write a text or drop the row"),
        ({"messages": ["x"]}, "line 1, field 'messages', message 1: 'x' is not an object with the texts 'role' and 'content'"),
        ({"messages": [{"role": U, "content": [{"type": "image"}]}]}, "line 1, field 'messages', message 1, field 'content': [{'type': 'image'}] is not text; only text can be used"),
        ({"prompt": "x", "split": "holdout"}, "line 1, field 'split': 'holdout' is not one of train, validation, test; rename it"),
        ({"id": "", "text": "x"}, "line 1, field 'id': is empty; give every prompt its own id, or leave the field out"),
        ({"id": "1", "text": "x", "messages": chat((U, "a"), (A, "b"), (U, "c"))}, "line 1, field 'text': differs from the last user message; make them equal"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_line_and_field(row: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_prompts(lines(tmp_path / "x.jsonl", row))
    assert str(caught.value) == f"{tmp_path}/x.jsonl {message}"


def test_bad_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: no such file; check the path$"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"holds no train, validation or test file; name a file, or add e\.g\. train"):
        read_prompts(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"empty\.jsonl: holds no prompts; write at least one a line$"):
        read_prompts(tmp_path / "empty.jsonl")
    with pytest.raises(
        InputError, match=r"x\.jsonl line 2: id 'a' names another prompt already; give every prompt its own$"
    ):
        read_prompts(lines(tmp_path / "x.jsonl", {"id": "a", "text": "x"}, {"id": "a", "text": "y"}))
    lines(tmp_path / "test.jsonl", {"prompt": "a", "split": "train"})
    with pytest.raises(InputError, match=r"field 'split': 'train' in the file for test; move the line or drop the f"):
        read_prompts(tmp_path)
    lines(tmp_path / "test.json", {"prompt": "a"})
    with pytest.raises(InputError, match=r": test\.json, test\.jsonl are all the test split; keep one of them$"):
        read_prompts(tmp_path)


words = st.text(st.characters(categories=["L"]), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=30, unique_by=str.strip), st.integers(0, 5), st.randoms())
def test_a_split_depends_on_the_prompt_alone(texts: list[str], seed: int, random) -> None:  # type: ignore[no-untyped-def]
    prompts = [prompt(text) for text in texts]
    whole = {p.id: p.split for p in split_prompts(prompts, FRACTIONS, seed)}
    some = [p for p in prompts if random.random() < 0.5]
    random.shuffle(some)
    assert all(whole[p.id] == p.split for p in split_prompts(some, FRACTIONS, seed))


def test_shares_come_out_as_asked() -> None:
    splits = [p.split for p in split_prompts([prompt(f"prompt {i}") for i in range(4000)], FRACTIONS, 3)]
    # Four standard deviations of a binomial of 4000 and .1: 4 * sqrt(4000 * .1 * .9) = 76; false alarms 6e-5.
    assert abs(splits.count("test") - 400) < 76
    assert abs(splits.count("validation") - 400) < 76


def test_seeds_give_different_splits() -> None:
    prompts = [prompt(f"prompt {i}") for i in range(100)]
    assert split_prompts(prompts, FRACTIONS, 0) != split_prompts(prompts, FRACTIONS, 1)


def test_one_split_takes_all_and_a_zero_share_none() -> None:
    prompts = [prompt(f"prompt {i}") for i in range(200)]
    assert {p.split for p in split_prompts(prompts, {"train": 0.0, "validation": 1.0, "test": 0.0})} == {"validation"}


def test_a_split_that_is_set_stays_and_draws_its_openings_along() -> None:
    openings = [chat((U, f"opening {i}")) for i in range(50)]
    fixed = [make_prompt(opening, "x", source="s", split="test") for opening in openings]
    later = [make_prompt([*opening, *chat((A, "b"), (U, "c"))], "x", source="s") for opening in openings]
    result = split_prompts([*later, *fixed], {"train": 1.0})
    assert {p.split for p in result} == {"test"}
    assert opening_key(later[0]) == "opening 0"
    assert content_key(later[0]) != content_key(fixed[0])


def test_splits_that_are_set_stay_even_where_openings_are_shared() -> None:
    turns = chat((U, "o"), (A, "b"), (U, "c"))
    given = [
        make_prompt(turns[:1], "x", source="s", split="test"),
        make_prompt(turns, "x", source="s", split="validation"),
    ]
    assert split_prompts(given, {"train": 1.0}) == tuple(given)


def test_continuations_of_one_chat_stay_together() -> None:
    prompts = [
        make_prompt([*chat((U, f"opening {i}")), *chat((A, "b"), (U, "c")) * depth], "x", source="s")
        for i in range(50)
        for depth in range(3)
    ]
    sides: dict[str, set[str]] = {}
    for p in split_prompts(prompts, FRACTIONS):
        sides.setdefault(opening_key(p), set()).add(p.split)
    assert all(len(found) == 1 for found in sides.values())


def test_straddling_is_refused() -> None:
    with pytest.raises(InputError, match=r"^prompt \w{16}: is in split 'train' and in 'test'; keep it in one of them$"):
        check_splits([prompt("a", "train"), prompt(" a", "test")])
    with pytest.raises(
        InputError, match=r"^prompt \w{16}: split 'dev' is not one of train, validation, test; rename it$"
    ):
        check_splits([prompt("a", "dev")])


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.5, "dev": 0.5}, r"^split 'dev': is not one of train, validation, test; rename it$"),
        ({"train": 1.5, "test": -0.5}, r"^split train=1\.5: a share lies between 0 and 1; choose another$"),
        ({"train": 0.5}, r"shares sum to 0\.5, not 1; change one$"),
        ({"train": float("nan")}, r"^split train=nan: a share lies between 0 and 1"),
    ],
)
def test_bad_fractions(fractions: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_prompts([prompt("a")], fractions)


def test_fractions_as_text() -> None:
    assert parse_fractions("train=0.9, test=0.1") == {"train": 0.9, "test": 0.1}
    with pytest.raises(
        InputError, match=r"^split 'train': 'train' is not NAME=SHARE; write e\.g\. train=0\.9,validation=0\.1$"
    ):
        parse_fractions("train")


def test_messages_may_be_given_as_records() -> None:
    turns = (Message(U, "a"), Message(A, "b"), Message(U, "c"))
    assert parse_messages(turns, "x") == turns
    made = make_prompt(turns, "x", source="s")
    assert to_json(made)["messages"][1] == {"role": A, "content": "b"}


@pytest.mark.parametrize(
    ("path", "count", "duplicates"),
    [
        ("real_toxicity_prompts/rtp_sample.subset.jsonl.gz", 3892, None),
        ("xstest/xstest_prompts.csv", 450, 0),
        ("oasst_en100/prompt_lottery_en_250_text.jsonl.gz", 250, None),
        ("oasst_en100/en_100_text.jsonl.gz", 100, 0),
    ],
)
def test_real_prompt_files(shared: Path, path: str, count: int, duplicates: int | None) -> None:
    file = read_prompts(shared / "data" / path)
    assert len(file.prompts) + file.duplicates == count
    assert duplicates is None or file.duplicates == duplicates


# --- a field and a template of your own ---------------------------------------------------------------------------

SUMMARISE = "Summarize the following conversation.\n\n{dialogue}\n\nSummary: "


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
def test_a_named_field_is_put_into_the_template(name: str, tmp_path: Path) -> None:
    rows = [{"fname": "t1", "dialogue": "#Person1#: Hi.\n#Person2#: {dialogue} and {topic}", "topic": "greeting"}]
    file = tmp_path / name
    if name.endswith(".csv"):
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines(file, *rows)
    (whole,) = read_prompts(file, PromptForm("dialogue", SUMMARISE)).prompts
    # What stands in the text itself is never filled in.
    assert whole.text == (
        "Summarize the following conversation.\n\n#Person1#: Hi.\n#Person2#: {dialogue} and {topic}\n\nSummary: "
    )
    (alone,) = read_prompts(file, PromptForm("dialogue")).prompts
    assert alone.text == rows[0]["dialogue"]
    (two,) = read_prompts(file, PromptForm("dialogue", "On {topic}: {dialogue}; {not a name} {}")).prompts
    assert two.text == f"On greeting: {rows[0]['dialogue']}; {{not a name}} {{}}"


def test_a_field_may_hold_a_chat_or_a_number(tmp_path: Path) -> None:
    file = lines(tmp_path / "d.jsonl", {"turns": chat((U, "a"), (A, "b"), (U, "c")), "n": 7, "split": "test"})
    (found,) = read_prompts(file, PromptForm("turns")).prompts
    assert (found.text, len(found.messages), found.split) == ("c", 3, "test")
    (found,) = read_prompts(file, PromptForm("n", "What is {n} + {n}?")).prompts
    assert found.text == "What is 7 + 7?"


def test_texts_outside_the_limits_are_left_out_and_counted(tmp_path: Path) -> None:
    """Characters are those of the field, before the template; both limits are themselves allowed."""
    file = lines(tmp_path / "d.jsonl", *({"d": "x" * count} for count in (1, 2, 3, 4, 5, 5)))
    read = read_prompts(file, PromptForm("d", "a long template around {d}", 2, 4))
    assert [p.text[-4:].strip().count("x") for p in read.prompts] == [2, 3, 4]
    assert (read.short, read.long, read.duplicates) == (1, 2, 0)
    texts = tmp_path / "d.txt"
    texts.write_text("a\nbbb\n")
    assert [p.text for p in read_prompts(texts, PromptForm(min_characters=2)).prompts] == ["bbb"]
    with pytest.raises(InputError, match=r"of 6 prompts none has 7 to 9 characters; change prompts.min_characters"):
        read_prompts(file, PromptForm("d", None, 7, 9))


@pytest.mark.parametrize(
    ("row", "form", "message"),
    [
        ({"a": "x"}, PromptForm("d"), "line 1: has no field 'd' (found a); correct prompts.field"),
        ({"d": "x"}, PromptForm("d", "{d} {e}"), "line 1: has no field 'e' (found d); correct prompts.template"),
        ({"d": " "}, PromptForm("d"), "line 1, field 'd': is empty; write a text or drop the row"),
        ({"d": None}, PromptForm("d", "{d}"), "line 1, field 'd': None is not text; write a text"),
        ({"d": ["x"]}, PromptForm("d", "{d}"), "line 1, field 'd': ['x'] is not text; write a text"),
        ("x", PromptForm("d"), "line 1: a text alone has no field 'd'; leave prompts.field out"),
    ],
)
def test_a_row_that_does_not_fit_the_form(row: object, form: PromptForm, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_prompts(lines(tmp_path / "d.jsonl", row), form)
    assert str(caught.value).endswith(message)


def test_a_typed_prompt_stands_in_the_runs_template() -> None:
    form = PromptForm(field="dialogue", template="Summarize {title}:\n{dialogue}\nSummary: ")
    assert typed_prompt("A: {hi}", form) == "Summarize :\nA: {hi}\nSummary: "
    assert typed_prompt("as it is", PromptForm()) == "as it is"
