"""Reads the public data sets that train and check the embedded default, from a folder with one sub-folder a set.

Every reader returns plain texts in the file's order, raises InputError naming the file and where it belongs when the
set is absent, and keeps nothing of worker identities. Halves are by the hash of the normalised text, so that a text
that occurs twice lands on one side.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import html
import io
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanward.errors import InputError


@dataclass(frozen=True)
class Labelled:
    """A text with the probability that a person calls it toxic, its weight in training and its data set."""

    text: str
    target: float
    weight: float = 1.0
    source: str = ""


SHARED = (
    "toxic_spans/comments.csv.gz",
    "toxic_spans/annotations.csv.gz",
    "self_dialogue/self_dialogue.jsonl.gz",
    *(f"qmsum/{split}.jsonl.gz" for split in ("train", "val", "test")),
    "hh_rlhf_helpful_seed/helpful-base.seed.subset.jsonl.gz",
    "oasst_en100/en_100_tree.jsonl.gz",
    "self_instruct_seeds/seed_tasks.jsonl",
    "self_instruct_seeds/user_oriented_instructions.jsonl",
    *(f"chitchat_qna/qna_chitchat_{s}.qna.gz" for s in ("friendly", "professional", "witty", "caring", "enthusiastic")),
    "diasafety/train.json.gz",
    "convabuse/ConvAbuseEMNLPtrain.csv.gz",
    "fairytaleqa/questions.jsonl.gz",
)
FILES = {
    "detectors": (
        *SHARED,
        "davidson_tweets/labeled_data.csv.gz",
        "topical_chat/valid_freq.json.gz",
        *(f"context_toxicity/{name}.csv.gz" for name in ("gn", "gc", "cat_small")),
        "hatecheck/test_suite_cases.csv.gz",
        "real_toxicity_prompts/rtp_sample.subset.jsonl.gz",
    ),
    "policy": (
        *SHARED,
        "fairytaleqa/stories.jsonl.gz",
        "diasafety/val.json.gz",
        "convabuse/ConvAbuseEMNLPvalid.csv.gz",
    ),
    "prompts": (),
}  # besides chatterbot_corpus/*.yml


def require(data: Path, parts: Iterable[str]) -> None:
    """InputError for the first file that ``parts`` need and ``data`` lacks, before any part starts."""
    for name in (name for part in parts for name in FILES[part]):
        _existing(data, name)


def _existing(data: Path, name: str) -> Path:
    path = data / name
    if not path.is_file():
        raise InputError(f"{path}: the recipe needs this file of the data set {name.split('/')[0]}; put it there")
    return path


def read_text(data: Path, name: str) -> str:
    """The (gunzipped) text of ``data/name``; InputError when it is absent or unreadable."""
    path = _existing(data, name)
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as {'gzipped ' * (path.suffix == '.gz')}UTF-8 ({error})") from None


def read_csv(data: Path, name: str) -> list[dict[str, str]]:
    """The rows of a CSV file, by column name."""
    return list(csv.DictReader(io.StringIO(read_text(data, name), newline="")))


def read_lines(data: Path, name: str) -> list[Any]:
    """The values of a JSON-lines file."""
    # split on "\n" alone: texts hold other separators that str.splitlines would cut at
    return [json.loads(line) for line in read_text(data, name).split("\n") if line.strip()]


def normalised(text: str) -> str:
    """Lower case, words and digits only: two texts that normalise alike count as the same text."""
    return " ".join(re.findall(r"\w+", text.lower()))


def half(text: str, salt: str) -> int:
    """0 or 1, from the hash of the normalised text."""
    return hashlib.sha256(f"{salt}\x1f{normalised(text)}".encode()).digest()[0] & 1


def fraction(text: str, salt: str) -> float:
    """A number in [0, 1) from the hash of the normalised text, for deterministic hold-outs."""
    return int.from_bytes(hashlib.sha256(f"{salt}\x1f{normalised(text)}".encode()).digest()[:4], "big") / 2**32


def squeeze(text: str) -> str:
    """One line: runs of white space become one space."""
    return " ".join(text.split())


def toxic_spans(data: Path) -> list[Labelled]:
    """Web comments; the target is the share of annotators who found something toxic."""
    votes: dict[str, list[bool]] = defaultdict(list)
    for row in read_csv(data, "toxic_spans/annotations.csv.gz"):
        votes[row["comment_id"]].append(row["not toxic"] != "True")
    comments = read_csv(data, "toxic_spans/comments.csv.gz")
    return [
        Labelled(squeeze(row["comment_text"]), sum(v) / len(v), 1.0, "toxic_spans")
        for row in comments
        if (v := votes.get(row["comment_id"])) and row["comment_text"].strip()
    ]


def clean_tweet(text: str) -> str:
    """The tweet without retweet marks, links, user names, hash signs and HTML entities: what is left reads as chat."""
    text = html.unescape(html.unescape(text))
    text = re.sub(r"https?://\S+|\bRT\b|@\w+:?|&#\d+;?", " ", text)
    text = re.sub(r"[#\"“”]|^[\s!:.]+", "", text)
    return squeeze(text)


def davidson_tweets(data: Path) -> list[Labelled]:
    """Tweets, cleaned; the target is the share of votes for hate speech or offensive language."""
    rows = read_csv(data, "davidson_tweets/labeled_data.csv.gz")
    tweets = [(clean_tweet(row["tweet"]), 1 - int(row["neither"]) / int(row["count"])) for row in rows]
    return [Labelled(text, target, 1.0, "davidson_tweets") for text, target in tweets if len(text.split()) >= 2]


def convabuse(data: Path, splits: tuple[str, ...] = ("train",)) -> list[Labelled]:
    """User turns to chat bots; the target is the mean over annotators of 0 (no abuse), 1/2 (ambivalent), 1 (abuse)."""
    value = {"1": 0.0, "0": 0.5, "-1": 1.0, "-2": 1.0, "-3": 1.0}
    turns = []
    for split in splits:
        for row in read_csv(data, f"convabuse/ConvAbuseEMNLP{split}.csv.gz"):
            votes = [
                value[name.rsplit(".", 1)[1]]
                for name, flag in row.items()
                if name and flag and "is_abuse" in name and "1" in flag
            ]
            if votes and row["user"].strip():
                turns.append(Labelled(squeeze(row["user"]), sum(votes) / len(votes), 1.0, "convabuse"))
    return turns


def diasafety(data: Path, split: str = "train") -> list[dict[str, str]]:
    """Rows of context, response, category and label (Safe or Unsafe)."""
    rows = json.loads(read_text(data, f"diasafety/{split}.json.gz"))
    return [
        {k: squeeze(v) for k, v in row.items()} for row in rows if row["context"].strip() and row["response"].strip()
    ]


def self_dialogue(data: Path) -> list[list[str]]:
    """Conversations of two alternating speakers, as lists of turns."""
    rows = read_lines(data, "self_dialogue/self_dialogue.jsonl.gz")
    return [[squeeze(turn) for turn in row["turns"] if turn.strip()] for row in rows]


def topical_chat(data: Path) -> list[str]:
    """Messages of people who talk about an article; only ever used to check."""
    conversations = json.loads(read_text(data, "topical_chat/valid_freq.json.gz"))
    return [
        squeeze(turn["message"]) for c in conversations.values() for turn in c["content"] if turn["message"].strip()
    ]


def qmsum(data: Path, split: str = "train") -> list[list[str]]:
    """Meetings as lists of turns, transcription marks and spaces before punctuation taken out."""
    meetings = []
    for row in read_lines(data, f"qmsum/{split}.jsonl.gz"):
        turns = [re.sub(r"\{\w+\}|<\w+>", " ", turn["content"]) for turn in row["meeting_transcripts"]]
        turns = [squeeze(re.sub(r"\s+([.,?!'])", r"\1", turn)).lstrip(".,?! ") for turn in turns]
        meetings.append([turn for turn in turns if len(turn) > 1])
    return meetings


def fairytales(data: Path) -> list[str]:
    """Sections of public-domain stories."""
    return [squeeze(row["text"]) for row in read_lines(data, "fairytaleqa/stories.jsonl.gz")]


def fairytale_questions(data: Path) -> list[tuple[str, str]]:
    """(question, answer) about the stories."""
    rows = read_lines(data, "fairytaleqa/questions.jsonl.gz")
    return [(squeeze(r["question"]), squeeze(r["answer1"])) for r in rows if r["question"] and r["answer1"]]


def chitchat(data: Path) -> list[tuple[str, str]]:
    """(question, answer) in five styles, every wording of a question with its answer."""
    pairs = []
    for style in ("friendly", "professional", "witty", "caring", "enthusiastic"):
        text = read_text(data, f"chitchat_qna/qna_chitchat_{style}.qna.gz")
        for block in re.split(r"^# \? ", text, flags=re.M)[1:]:
            questions, _, answer = block.partition("```")
            answer = squeeze(answer.partition("```")[0].removeprefix("markdown"))
            wordings = [squeeze(line.removeprefix("- ")) for line in questions.splitlines() if line.strip()]
            pairs += [(w, answer) for w in wordings if w and not w.startswith(("**", ">")) and answer]
    return pairs


def chatterbot(data: Path) -> list[tuple[str, str]]:
    """(question, answer) of hand-written conversations; all topics present are read."""
    import yaml

    folder = data / "chatterbot_corpus"
    files = sorted(folder.glob("*.yml"))
    if not files:
        raise InputError(
            f"{folder}: the recipe needs the *.yml files of the data set chatterbot_corpus; put them there"
        )
    rows = [turns for file in files for turns in yaml.safe_load(read_text(folder, file.name))["conversations"]]
    pairs = [(squeeze(str(a)), squeeze(str(b))) for turns in rows for a, b in itertools.pairwise(turns)]
    return [(a, b) for a, b in pairs if a and b and len(a) + len(b) < 600]


def helpful_dialogues(data: Path) -> list[list[str]]:
    """The chosen sides of hh_rlhf_helpful_seed as alternating turns, the person first."""
    rows = read_lines(data, "hh_rlhf_helpful_seed/helpful-base.seed.subset.jsonl.gz")
    parts = [re.split(r"\n\n(?:Human|Assistant):", row["chosen"])[1:] for row in rows]
    return [[squeeze(turn) for turn in turns] for turns in parts if len(turns) >= 2]


def assistant_trees(data: Path) -> list[list[str]]:
    """oasst_en100: every prompt with its best-ranked replies followed down the tree, as alternating turns."""
    dialogues = []
    for row in read_lines(data, "oasst_en100/en_100_tree.jsonl.gz"):
        turns, node = [], row["prompt"]
        while node:
            turns.append(squeeze(node["text"]))
            node = min(node.get("replies") or [], key=lambda reply: reply.get("rank") or 0, default=None)
        dialogues.append(turns)
    return [turns for turns in dialogues if len(turns) >= 2]


def instructions(data: Path) -> list[tuple[str, str]]:
    """(instruction with its input, output) of self_instruct_seeds, short ones."""
    rows = [
        row
        for name in ("seed_tasks", "user_oriented_instructions")
        for row in read_lines(data, f"self_instruct_seeds/{name}.jsonl")
    ]
    pairs = [
        (squeeze(row["instruction"] + " " + instance["input"]), squeeze(instance["output"]))
        for row in rows
        for instance in row["instances"]
    ]
    return [(a, b) for a, b in pairs if b and len(a) + len(b) < 900]


def context_toxicity(data: Path) -> list[Labelled]:
    """Wikipedia talk-page comments with 0/1 labels of people; only ever used to check."""
    rows = [row for name in ("gn", "gc") for row in read_csv(data, f"context_toxicity/{name}.csv.gz")]
    labelled = [(squeeze(row["text"]), row["label"]) for row in rows]
    return [Labelled(text, float(label), 1.0, "context_toxicity") for text, label in labelled if text]


def hatecheck(data: Path) -> Iterator[tuple[str, str, bool]]:
    """(functionality, text, hateful) of the functional tests; only ever used to check."""
    for row in read_csv(data, "hatecheck/test_suite_cases.csv.gz"):
        yield row["functionality"], squeeze(row["test_case"]), row["label_gold"] == "hateful"


def real_toxicity(data: Path) -> list[Labelled]:
    """Continuations of real_toxicity_prompts with a machine's score as target; only ever used to check."""
    rows = read_lines(data, "real_toxicity_prompts/rtp_sample.subset.jsonl.gz")
    return [
        Labelled(squeeze(c["text"]), c["toxicity"], 1.0, "real_toxicity_prompts")
        for row in rows
        if (c := row["continuation"]).get("toxicity") is not None and c["text"].strip()
    ]
