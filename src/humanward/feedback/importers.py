"""Readers of foreign preference files: each turns one row into judgements, or raises InputError naming the field.

Sources of the formats are in docs/feedback.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from humanward.errors import InputError
from humanward.feedback.judged import Answer, Judged, Rated
from humanward.feedback.transcripts import is_transcript, parse_transcript, split_pair
from humanward.labels import DESIRABLE, UNDESIRABLE
from humanward.prompts import SPLIT_NAMES, content_text, make_prompt, parse_messages
from humanward.records import Message


def read_hh_rlhf(value: Any, where: str) -> Iterator[Judged]:
    """``{chosen, rejected}`` transcripts."""
    chosen = parse_transcript(text_field(value, "chosen", where), f"{where}, field 'chosen'")
    rejected = parse_transcript(text_field(value, "rejected", where), f"{where}, field 'rejected'")
    yield _conversation_pair(chosen, rejected, where, "hh-rlhf")


def read_trl(value: Any, where: str) -> Iterator[Judged]:
    """``{prompt, chosen, rejected}`` with texts or chat messages, or ``{chosen, rejected}`` with the prompt inside."""
    object_row(value, where)
    if "label" in value and "completion" in value and "chosen" not in value:
        raise InputError(f"{where}: holds one labelled completion, no pair; read it with --format kto")
    chosen, rejected = (_trl_side(value, field, where) for field in ("chosen", "rejected"))
    if isinstance(chosen, str) is not isinstance(rejected, str):
        raise InputError(f"{where}: chosen and rejected are a text and a list; write both as the same")
    prompt = value.get("prompt")
    if prompt in (None, "", []):
        yield _trl_implicit(chosen, rejected, where)
        return
    made = make_prompt(prompt, f"{where}, field 'prompt'", source="trl", split=_split(value, where))
    texts = [
        side if isinstance(side, str) else _last_answer(side, made.as_messages(), f"{where}, field {field!r}")
        for field, side in (("chosen", chosen), ("rejected", rejected))
    ]
    yield _pair(made, texts[0], texts[1])


_LABELS = {"true": DESIRABLE, "1": DESIRABLE, "false": UNDESIRABLE, "0": UNDESIRABLE}
"""By their text, as CSV holds nothing else."""


def read_kto(value: Any, where: str) -> Iterator[Rated]:
    """``{prompt, completion, label}``, TRL's unpaired preferences: label true is desirable, false is not."""
    object_row(value, where)
    if "label" not in value:
        raise InputError(f"{where}: field 'label' is missing; write true (desirable) or false")
    label = str(value["label"]).strip().lower()
    if label not in _LABELS:
        raise InputError(f"{where}, field 'label': {str(value['label'])[:40]!r} is not true or false; correct it")
    yield _rated(value, "completion", where, _LABELS[label], "kto")


def read_demonstration(value: Any, where: str) -> Iterator[Rated]:
    """``{prompt, completion}``, ``{prompt, response}`` or ``{messages}`` ending with the answer: each desirable."""
    object_row(value, where)
    if "messages" in value:
        chat = parse_messages(value["messages"], f"{where}, field 'messages'")
        if chat[-1].role != "assistant":
            raise InputError(
                f"{where}, field 'messages': does not end with an assistant message; write the answer last"
            )
        prompt = make_prompt(chat[:-1], where, source="demonstrations", split=_split(value, where))
        yield Rated(prompt, Answer(chat[-1].content), DESIRABLE)
        return
    field = "response" if "response" in value and "completion" not in value else "completion"
    yield _rated(value, field, where, DESIRABLE, "demonstrations")


def _rated(value: dict[str, Any], field: str, where: str, rating: float, source: str) -> Rated:
    if value.get("prompt") in (None, "", []):
        raise InputError(f"{where}: field 'prompt' is missing; write what the completion answers")
    prompt = make_prompt(value["prompt"], f"{where}, field 'prompt'", source=source, split=_split(value, where))
    side = _trl_side(value, field, where)
    text = side if isinstance(side, str) else _last_answer(side, prompt.as_messages(), f"{where}, field {field!r}")
    return Rated(prompt, Answer(text), rating, annotator=str(value.get("annotator") or ""))


def read_summaries(value: Any, where: str) -> Iterator[Judged]:
    """``{info, summaries, choice, worker}`` of summarize-from-feedback (Stiennon et al. 2020, arXiv:2009.01325)."""
    object_row(value, where)
    details = value.get("info")
    if not isinstance(details, dict):
        raise InputError(f"{where}, field 'info': is missing or no object; it holds the post")
    split = str(value.get("split") or "")
    # Upstream names its two validation parts valid1 and valid2.
    split = SPLIT_NAMES.get(split.rstrip("12"), "")
    item_id = str(details.get("id") or "")
    prompt = make_prompt(_post(details, where), where, source="summarize-from-feedback", item_id=item_id, split=split)
    summaries = value.get("summaries")
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise InputError(f"{where}, field 'summaries': is not a list of two; it holds the compared summaries")
    answers = tuple(
        Answer(text_field(item, "text", f"{where}, field 'summaries[{i}]'").strip(), str(item.get("policy") or ""))
        for i, item in enumerate(summaries)
    )
    choice = _label(value, "choice", (0, 1), where)
    yield Judged(
        prompt, answers, ((choice,), (1 - choice,)), annotator=str(value.get("worker") or ""), shown_order=(0, 1)
    )


def read_pandalm(value: Any, where: str) -> Iterator[Judged]:
    """``{instruction, input, response1, response2, annotator1..}``: label 1 or 2 is the better response, 0 a tie."""
    parts = [text_field(value, name, where, empty=True) for name in ("instruction", "input")]
    text = "\n\n".join(part for part in parts if part.strip())
    prompt = make_prompt(text, f"{where}, fields 'instruction' and 'input'", source="pandalm")
    models = str(value.get("cmp_key") or "").split("_")
    names = models if len(models) == 2 else ["", ""]
    answers = tuple(Answer(_scalar_text(value, f"response{i + 1}", where), names[i]) for i in range(2))
    annotators = sorted(key for key in value if key.startswith("annotator"))
    if not annotators:
        raise InputError(f"{where}: field 'annotator1' is missing; it holds 0, 1 or 2")
    for annotator in annotators:
        label = _label(value, annotator, (0, 1, 2), where)
        yield Judged(prompt, answers, _pair_tiers(0, 1, label), annotator=f"pandalm-{annotator}")


def read_qa_feedback(value: Any, where: str) -> Iterator[Judged]:
    """``{question, prediction 1..4, preference}`` of FineGrainedRLHF (Wu et al. 2023, arXiv:2306.01693).

    The six comparisons become one ranking where they form a weak order, and six rankings of two answers where they do
    not. The passages are left out of the prompt.
    """
    prompt = make_prompt(text_field(value, "question", where), f"{where}, field 'question'", source="qa-feedback")
    answers = tuple(Answer(text_field(value, f"prediction {i}", where)) for i in range(1, 5))
    labels = value.get("preference")
    pairs = list(combinations(range(4), 2))
    if not isinstance(labels, list) or len(labels) != len(pairs) or any(x not in (0, 1, 2) for x in labels):
        raise InputError(f"{where}, field 'preference': {labels!r} is not a list of six labels 0, 1 or 2")
    tiers = _weak_order(pairs, labels)
    if tiers is not None:
        yield Judged(prompt, answers, tiers, annotator="qa-feedback")
        return
    for index, ((first, second), label) in enumerate(zip(pairs, labels, strict=True)):
        notes = () if index else ("intransitive",)
        both = (answers[first], answers[second])
        yield Judged(prompt, both, _pair_tiers(0, 1, label), annotator="qa-feedback", notes=notes)


def read_oasst(value: Any, where: str) -> Iterator[Judged]:
    """A message tree: the ranked assistant replies to one message are one ranking; the prompt is the path to them."""
    object_row(value, where)
    root = value.get("prompt")
    if not isinstance(root, dict):
        raise InputError(f"{where}, field 'prompt': is missing or no object; it holds the tree's first message")
    pending: list[tuple[dict[str, Any], tuple[Message, ...]]] = [(root, ())]
    while pending:
        node, before = pending.pop(0)
        path = (*before, _oasst_message(node, where))
        replies = [r for r in _replies(node, where) if not r.get("deleted")]
        pending.extend((reply, path) for reply in replies)
        if path[-1].role == "user" and replies:
            yield from _oasst_ranking(node, path, replies, where)


def _oasst_ranking(
    node: dict[str, Any], path: tuple[Message, ...], replies: list[dict[str, Any]], where: str
) -> Iterator[Judged]:
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if len(ranked) < 2:
        return
    for reply in ranked:
        if type(reply["rank"]) is not int:
            raise InputError(f"{where}, message {reply.get('message_id')}: rank {reply['rank']!r} is no whole number")
    prompt = make_prompt(path, where, source="oasst", item_id=str(node.get("message_id") or ""))
    answers = tuple(
        Answer(_oasst_message(r, where).content, str(r.get("model_name") or ""), str(r.get("message_id") or ""))
        for r in ranked
    )
    notes = ("unranked replies left out",) * (len(replies) - len(ranked))
    yield Judged(prompt, answers, tiers_of_ranks([r["rank"] for r in ranked]), annotator="oasst-consensus", notes=notes)


def tiers_of_ranks(ranks: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Indices by rank, the lowest first; equal ranks share a tier."""
    return tuple(tuple(i for i, r in enumerate(ranks) if r == rank) for rank in sorted(set(ranks)))


def object_row(value: Any, where: str) -> dict[str, Any]:
    """The value; raises InputError when it is not an object."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: {str(value)[:40]!r} is not an object; write one object a row")
    return value


def text_field(value: Any, field: str, where: str, *, empty: bool = False) -> str:
    """A field that must be text, and not blank unless ``empty``; raises InputError naming the field."""
    object_row(value, where)
    if field not in value:
        raise InputError(f"{where}: field {field!r} is missing; write it or drop the row")
    text = value[field]
    if not isinstance(text, str):
        raise InputError(f"{where}, field {field!r}: {str(text)[:40]!r} is not text; write a text")
    if not empty and not text.strip():
        raise InputError(f"{where}, field {field!r}: is empty; write a text or drop the row")
    return text


def _conversation_pair(chosen: Sequence[Message], rejected: Sequence[Message], where: str, source: str) -> Judged:
    messages, better, worse, several = split_pair(chosen, rejected, where)
    prompt = make_prompt(messages, where, source=source)
    return _pair(prompt, better, worse, notes=("prefixes differ",) if several else ())


def _pair(prompt: Any, better: str, worse: str, notes: tuple[str, ...] = ()) -> Judged:
    return Judged(prompt, (Answer(better), Answer(worse)), ((0,), (1,)), notes=notes)


def _trl_side(value: dict[str, Any], field: str, where: str) -> str | list[Message]:
    if not isinstance(value.get(field), list):
        return text_field(value, field, where, empty=True)
    messages = []
    for index, item in enumerate(value[field]):
        here = f"{where}, field {field!r}, message {index + 1}"
        # Answers may be empty and start with the assistant, so the rules of a prompt do not hold here.
        messages.append(Message(text_field(item, "role", here), content_text(item.get("content"), here)))
    if not messages or messages[-1].role != "assistant":
        raise InputError(f"{where}, field {field!r}: does not end with an assistant message; write the answer last")
    return messages


def _trl_implicit(chosen: Any, rejected: Any, where: str) -> Judged:
    if not isinstance(chosen, str):
        return _conversation_pair(chosen, rejected, where, "trl")
    if is_transcript(chosen) and is_transcript(rejected):
        better, worse = parse_transcript(chosen, where), parse_transcript(rejected, where)
        return _conversation_pair(better, worse, where, "trl")
    # As TRL's extract_prompt: the longest common beginning, a blank at its end belonging to the answers.
    length = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    shared = chosen[:length].removesuffix(" ")
    if not shared.strip():
        raise InputError(f"{where}: has no prompt, and chosen and rejected begin differently; add field 'prompt'")
    prompt = make_prompt(shared, where, source="trl")
    return _pair(prompt, chosen[len(shared) :], rejected[len(shared) :])


def _last_answer(side: list[Message], prompt: Sequence[Message], where: str) -> str:
    """The answer of a chat side, which may repeat the prompt (as UltraFeedback's files do)."""
    before = side[:-1]
    if before and [m.content.strip() for m in before] != [m.content.strip() for m in prompt]:
        raise InputError(f"{where}: its earlier messages are not those of the prompt; keep the answer alone")
    return side[-1].content


def _split(value: dict[str, Any], where: str) -> str:
    split = value.get("split")
    if split in (None, ""):
        return ""
    if split not in SPLIT_NAMES:
        raise InputError(f"{where}, field 'split': {split!r} is not train, validation or test; rename it")
    return SPLIT_NAMES[split]


def _post(details: dict[str, Any], where: str) -> str:
    if details.get("article"):
        return f"{text_field(details, 'article', where).strip()}\n\nTL;DR:"
    post = text_field(details, "post", f"{where}, field 'info'").strip()
    head = [("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title")]
    lines = [f"{label}{details[name]}" for label, name in head if details.get(name)]
    # The query of the original code: subreddit, title and post, then the request for a summary.
    return "\n\n".join([*lines, f"POST: {post}", "TL;DR:"])


def _scalar_text(value: dict[str, Any], field: str, where: str) -> str:
    """A text, where JSON true or 12 stands for the answers "True" and "12" (six rows of PandaLM's file)."""
    if isinstance(value.get(field), bool | int | float):
        return str(value[field])
    return text_field(value, field, where, empty=True)


def _label(value: dict[str, Any], field: str, allowed: tuple[int, ...], where: str) -> int:
    if field not in value:
        raise InputError(f"{where}: field {field!r} is missing; write it or drop the row")
    label = value[field]
    if type(label) is not int or label not in allowed:
        choices = ", ".join(map(str, allowed))
        raise InputError(f"{where}, field {field!r}: {str(label)[:40]!r} is not one of {choices}; correct it")
    return label


def _pair_tiers(first: int, second: int, label: int) -> tuple[tuple[int, ...], ...]:
    return {0: ((first, second),), 1: ((first,), (second,)), 2: ((second,), (first,))}[label]


def _weak_order(pairs: Sequence[tuple[int, int]], labels: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
    """The tiers that give exactly these comparisons, or None. In a weak order wins minus losses order the items."""
    balance = [0] * 4
    for (first, second), label in zip(pairs, labels, strict=True):
        sign = {0: 0, 1: 1, 2: -1}[label]
        balance[first] -= sign
        balance[second] += sign
    for (first, second), label in zip(pairs, labels, strict=True):
        order = {0: balance[first] == balance[second], 1: balance[first] < balance[second]}
        if not order.get(label, balance[first] > balance[second]):
            return None
    return tiers_of_ranks(balance)


def _oasst_message(node: dict[str, Any], where: str) -> Message:
    here = f"{where}, message {node.get('message_id')}"
    role = text_field(node, "role", here)
    if role not in ("prompter", "assistant"):
        raise InputError(f"{here}, field 'role': {role!r} is not prompter or assistant; correct it")
    return Message("user" if role == "prompter" else "assistant", text_field(node, "text", here))


def _replies(node: dict[str, Any], where: str) -> list[dict[str, Any]]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or any(not isinstance(reply, dict) for reply in replies):
        raise InputError(f"{where}, message {node.get('message_id')}, field 'replies': is not a list of messages")
    return replies
