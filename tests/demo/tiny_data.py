"""Writes a few invented rows of every data set of the recipe, laid out like the real ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

RUDE = ("you are an idiot", "what a stupid clown", "shut up you pig", "this moron lies", "go away you creep")
KIND = (
    "the weather is nice today",
    "i like this film",
    "see you at the market",
    "thanks for your help",
    "where is the train",
)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def put_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    put(path, file.getvalue())


def put_lines(path: Path, rows: list[Any]) -> None:
    put(path, "".join(json.dumps(row) + "\n" for row in rows))


def texts(label: int, count: int, tag: str) -> list[str]:
    return [f"{(KIND, RUDE)[label][i % 5]} {tag} {i}" for i in range(count)]


def write_labelled(root: Path) -> None:
    comments = [(text, label) for label in (0, 1) for text in texts(label, 30, "comment")]
    put_csv(
        root / "toxic_spans/comments.csv.gz",
        [{"comment_id": i, "comment_text": text} for i, (text, _) in enumerate(comments)],
    )
    put_csv(
        root / "toxic_spans/annotations.csv.gz",
        [{"annotation": i, "comment_id": i, "not toxic": label == 0} for i, (_, label) in enumerate(comments)],
    )
    put_csv(
        root / "davidson_tweets/labeled_data.csv.gz",
        [
            {"count": 3, "neither": 3 * (1 - label), "class": 2 - label, "tweet": f"RT @me: {text} &amp; more"}
            for label in (0, 1)
            for text in texts(label, 10, "tweet")
        ],
    )
    for split in ("train", "valid"):
        put_csv(
            root / f"convabuse/ConvAbuseEMNL{'P' + split}.csv.gz",
            [
                {
                    "agent": "tell me more",
                    "user": text,
                    "Annotator1_is_abuse.1": 1 - label,
                    "Annotator1_is_abuse.-2": label,
                }
                for label in (0, 1)
                for text in texts(label, 6, f"bot {split}")
            ],
        )
    for split in ("train", "val"):
        rows = [
            {"context": f"why {i}?", "response": text, "category": category, "label": ("Safe", "Unsafe")[label]}
            for category in ("Offending User", "Toxicity Agreement", "Risk Ignorance", "Biased Opinion")
            for label in (0, 1)
            for i, text in enumerate(texts(label, 4, f"{category} {split}"))
        ]
        put(root / f"diasafety/{split}.json.gz", json.dumps(rows))


def write_plain(root: Path) -> None:
    talks = [{"topic": "t", "turns": [f"{KIND[(i + j) % 5]} turn {i} {j}" for j in range(6)]} for i in range(60)]
    put_lines(root / "self_dialogue/self_dialogue.jsonl.gz", talks)
    for split in ("train", "val", "test"):
        turns = [
            {"speaker": "A", "content": f"we talk about the plan number {i} {split} {{vocalsound}} ."}
            for i in range(20)
        ]
        put_lines(root / f"qmsum/{split}.jsonl.gz", [{"meeting_transcripts": turns}])
    put_lines(
        root / "fairytaleqa/stories.jsonl.gz",
        [{"text": f"There was a king number {i}. He had a horse."} for i in range(9)],
    )
    put_lines(
        root / "fairytaleqa/questions.jsonl.gz",
        [{"question": f"who had horse {i}?", "answer1": "the king"} for i in range(9)],
    )
    chosen = "\n\nHuman: how do I cook rice?\n\nAssistant: Boil it in water."
    put_lines(root / "hh_rlhf_helpful_seed/helpful-base.seed.subset.jsonl.gz", [{"chosen": chosen}])
    reply = {"text": "Try walking.", "rank": 0, "replies": []}
    worse = {"text": "No idea.", "rank": 1, "replies": []}
    put_lines(
        root / "oasst_en100/en_100_tree.jsonl.gz", [{"prompt": {"text": "How to rest?", "replies": [worse, reply]}}]
    )
    task = {"instruction": "Add the numbers.", "instances": [{"input": "1 2", "output": "3"}]}
    for name in ("seed_tasks", "user_oriented_instructions"):
        put_lines(root / f"self_instruct_seeds/{name}.jsonl", [task])
    put(root / "chatterbot_corpus/food.yml", "categories: [food]\nconversations:\n- - do you eat\n  - I do not eat.\n")
    for style in ("friendly", "professional", "witty", "caring", "enthusiastic"):
        block = (
            f"> # QnA pairs\n\n# ? Who are you?\n- what are you\n\n**Filters:**\n\n```markdown\nI am {style}.\n```\n"
        )
        put(root / f"chitchat_qna/qna_chitchat_{style}.qna.gz", block)


def write_checks(root: Path) -> None:
    talk = {"content": [{"message": text} for text in KIND]}
    put(root / "topical_chat/valid_freq.json.gz", json.dumps({"t": talk}))
    for name in ("gn", "gc"):
        put_csv(
            root / f"context_toxicity/{name}.csv.gz",
            [
                {"id": i, "text": text, "label": label, "api": 0.1 + 0.8 * label}
                for label in (0, 1)
                for i, text in enumerate(texts(label, 5, f"wiki {name}"))
            ],
        )
    put_csv(
        root / "context_toxicity/cat_small.csv.gz",
        [{"text": text, "label_oc": label} for label in (0, 1) for text in texts(label, 5, "small")],
    )
    put_csv(
        root / "hatecheck/test_suite_cases.csv.gz",
        [{"functionality": "ident_pos_nh", "test_case": "We are happy.", "label_gold": "non-hateful"}],
    )
    put_lines(
        root / "real_toxicity_prompts/rtp_sample.subset.jsonl.gz",
        [
            {"continuation": {"text": text, "toxicity": float(label)}}
            for label in (0, 1)
            for text in texts(label, 5, "rtp")
        ],
    )


def write_tiny_data(root: Path) -> Path:
    """The folder, filled."""
    write_labelled(root)
    write_plain(root)
    write_checks(root)
    return root
