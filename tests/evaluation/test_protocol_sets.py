"""Evaluation sets: every published format, and what is said of a file that is wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from humanward.errors import InputError
from humanward.evaluation.protocols.sets import read_set

TRUTH = '"Type","Category","Question","Best Answer","Best Incorrect Answer","Correct Answers","Incorrect Answers"\n'


def written(path: Path, content: object) -> Path:
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_truthfulqa(tmp_path: Path) -> None:
    row = '"Adversarial","Myths","What is red?","Blood","Grass is red.","Some roses; Blood","The sky; Grass is red; "\n'
    found = read_set(written(tmp_path / "t.csv", TRUTH + row))
    (item,) = found.items
    # the best first, then the other right ones; of the wrong ones the best wrong first; all closed by a full stop
    assert item.choices == ("Blood.", "Some roses.", "Grass is red.", "The sky.")
    assert (found.kind, item.true_choices, item.group) == ("truthfulqa", 2, "Myths")


def test_bold(tmp_path: Path) -> None:
    content = {"left-wing": {"Page_A": ["A is ", "", "A was "]}, "far_right": {"Page_B": ["B is ", "A is "]}}
    found = read_set(written(tmp_path / "bold.json", content))
    assert [(item.prompt.text, item.group) for item in found.items] == [
        ("A is ", "left-wing"),
        ("A was ", "left-wing"),
        ("B is ", "far right"),
        ("A is ", "far right"),
    ]
    assert len({item.cluster for item in found.items}) == 2  # a page is a cluster


def test_pairs_of_one_prompt_are_one_cluster(tmp_path: Path) -> None:
    rows = [{"subset": "helpful", "prompt": "hi", "chosen": "a", "rejected": answer} for answer in ("b", "c", "b")]
    found = read_set(written(tmp_path / "pairs.jsonl", rows))
    assert (found.kind, len(found.items), found.duplicates) == ("hhh", 2, 1)
    assert len({item.cluster for item in found.items}) == 1


def test_references_and_plain_prompts(tmp_path: Path) -> None:
    found = read_set(written(tmp_path / "r.jsonl", [{"prompt": "hi", "references": ["hello", "hey"]}]))
    assert (found.kind, found.items[0].references) == ("references", ("hello", "hey"))
    assert read_set(written(tmp_path / "p.txt", "hi\nhello\n")).kind == "toxicity"


def test_a_limit_is_the_same_choice_for_a_larger_one(tmp_path: Path) -> None:
    file = written(tmp_path / "p.txt", "".join(f"prompt {number}\n" for number in range(50)))
    few, more = (read_set(file, limit=limit) for limit in (10, 20))
    assert (len(few.items), few.total) == (10, 50)
    assert {item.id for item in few.items} < {item.id for item in more.items}


@pytest.mark.parametrize(
    ("name", "kind", "content", "words"),
    [
        ("x.csv", None, "prompt,type,label\nhi,homonyms,maybe\n", ("line 2", "'label'", "'maybe'", "safe")),
        ("x.csv", None, "prompt,type,label\n,homonyms,safe\n", ("line 2", "'prompt'", "empty")),
        ("x.jsonl", "references", [{"prompt": "hi"}], ("line 1", "'reference'", "missing", "toxicity=FILE")),
        ("x.jsonl", None, [{"prompt": "a", "reference": "b"}, {"prompt": "c", "reference": ""}], ("line 2", "empty")),
        ("x.jsonl", "xstest", [{"prompt": "hi", "type": "t"}], ("line 1", "'label'", "missing", "XSTest")),
        ("x.jsonl", "hhh", [{"prompt": "hi", "chosen": "a", "rejected": "a"}], ("line 1", "same text")),
        ("x.jsonl", "bold", [{"prompt": "hi"}], ("line 1", "{group: {page")),
        ("x.jsonl", "rtp", [{"prompt": "hi", "continuation": "x"}], ("line 1", "'prompt'", "object")),
        ("x.jsonl", "nonsense", [{"prompt": "hi"}], ("nonsense", "xstest")),
        ("x.jsonl", None, "{broken\n", ("line 1", "not JSON")),
        ("x.jsonl", None, "", ("holds no prompts",)),
        ("t.csv", None, TRUTH + "a,b,Q?,Yes,No,Yes; No,No\n", ("line 2", "'Incorrect Answers'", "also correct")),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, name: str, kind: str | None, content: object, words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as error:
        read_set(written(tmp_path / name, content), kind)
    assert "\n" not in str(error.value)
    for word in (name if kind != "nonsense" else "", *words):
        assert word in str(error.value)


def test_the_real_sets(shared: Path) -> None:
    data = shared / "data"
    safe = read_set(data / "xstest" / "xstest_prompts.csv")
    assert Counter(item.label for item in safe.items) == {"safe": 250, "unsafe": 200}
    truth = read_set(data / "truthfulqa" / "TruthfulQA.csv.gz")
    assert (len(truth.items), truth.kind) == (790, "truthfulqa")
    assert all(0 < item.true_choices < len(item.choices) for item in truth.items)
    pairs = read_set(data / "hhh_alignment" / "hhh_alignment.jsonl.gz")
    assert Counter(item.group for item in pairs.items) == {"harmless": 58, "helpful": 59, "honest": 61, "other": 43}
    faith = read_set(data / "bold_prompts" / "religious_ideology_prompt.json.gz")
    # of the published 639 two are empty and five stand there again in their group
    assert (len(faith.items), faith.duplicates, len(faith.groups)) == (632, 5, 7)
    toxic = read_set(data / "decodingtrust_rtp" / "toxic.jsonl.gz")
    assert toxic.kind == "rtp"
    assert set(toxic.groups) == {"toxic prompts", "non-toxic prompts"}
