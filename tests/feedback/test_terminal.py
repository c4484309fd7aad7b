"""terminal: what a person types, what reaches the file, and that stopping anywhere loses nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from humanward.errors import InputError
from humanward.feedback.terminal import Clock, Session, parse_order, printable, rank_in_terminal, stored_rankings
from humanward.preferences import current_rankings
from humanward.records import Completion, Message, Prompt, Ranking, read_jsonl

PROMPTS = [
    Prompt("p1", "Why?", (Message("system", "Be [b]brief[/b]."), Message("user", "Why?"))),
    Prompt("p2", "How?"),
    Prompt("p3", "Who?"),
]
ANSWERS = [Completion(f"{p.id}-{k}", p.id, f"answer {k} of {p.id}", "secret-model") for p in PROMPTS for k in range(4)]


class Ticking(Clock):
    """Two seconds pass between any two looks at the clock."""

    def __init__(self) -> None:
        ticks = iter(range(0, 10_000, 2))
        start = datetime(2026, 1, 2, tzinfo=UTC)
        super().__init__(lambda: float(next(ticks)), lambda: start + timedelta(seconds=next(ticks)))


def typed(*lines: str) -> Callable[[str], str]:
    """Gives the lines one after the other, then the end of input."""
    left: Iterator[str] = iter(lines)

    def read(_question: str) -> str:
        line = next(left, None)
        if line is None:
            raise EOFError
        return line

    return read


def session(path: Path, *lines: str, **rest) -> tuple[tuple[Ranking, ...], str]:  # type: ignore[no-untyped-def]
    """(rankings in the file, what was shown)."""
    console = Console(file=io.StringIO(), width=100)
    rest.setdefault("clock", Ticking())
    result = rank_in_terminal(PROMPTS, ANSWERS, path, console=console, read=typed(*lines), **rest)
    rankings = stored_rankings(path)
    if not rest.keys() & {"annotator", "criterion"}:
        done = len({r.prompt_id for r in current_rankings(rankings)})
        assert result == Session(ranked=done, remaining=3 - done)
    assert isinstance(console.file, io.StringIO)
    return rankings, console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "tiers"),
    [
        ("b a=c d", ((1,), (0, 2), (3,))),
        ("B A = C D", ((1,), (0, 2), (3,))),
        ("b > a = c > d", ((1,), (0, 2), (3,))),
        ("b,a=c,d", ((1,), (0, 2), (3,))),
        ("ba=cd", ((1,), (0, 2), (3,))),
        ("a=b=c=d", ((0, 1, 2, 3),)),
    ],
)
def test_orders(text: str, tiers: tuple) -> None:
    assert parse_order(text, 4) == tiers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b", "C and D are missing; name every answer once"),
        ("a b c", "D is missing; name every answer once"),
        ("a b c d a", "A is named twice; name every answer once"),
        ("a b c x", "'X' is none of A to D; type ? for help"),
        ("1 2 3 4", "'1' is none of A to D; type ? for help"),
        ("=a b c d", "'=' stands between two letters, as in a=b"),
        ("a b c d=", "'=' stands between two letters, as in a=b"),
        ("a == b c d", "'=' stands between two letters, as in a=b"),
    ],
)
def test_bad_orders_are_explained_in_a_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_order(text, 4)
    assert str(caught.value) == message


@settings(deadline=None)
@given(st.permutations(range(9)), st.lists(st.booleans(), min_size=8, max_size=8))
def test_any_weak_order_can_be_typed(order: list[int], ties: list[bool]) -> None:
    text = "ABCDEFGHI"[order[0]]
    tiers = [[order[0]]]
    for index, tie in zip(order[1:], ties, strict=True):
        text += ("=" if tie else " ") + "ABCDEFGHI"[index]
        if tie:
            tiers[-1].append(index)
        else:
            tiers.append([index])
    assert parse_order(text, 9) == tuple(map(tuple, tiers))


def test_a_ranking_reaches_the_file_with_order_and_seconds(tmp_path: Path) -> None:
    (ranking,), shown = session(tmp_path / "rankings.jsonl", "b a=c d", annotator="ada", criterion="helpful")
    order = ranking.shown_order
    assert sorted(order) == [f"p1-{k}" for k in range(4)]
    assert ranking.tiers == ((order[1],), (order[0], order[2]), (order[3],))
    # The clock is looked at when the prompt is shown (0), for the date (2) and for the seconds (4).
    assert (ranking.seconds_spent, ranking.created_at) == (4.0, "2026-01-02T00:00:02.000+00:00")
    assert (ranking.annotator, ranking.criterion, ranking.simulated) == ("ada", "helpful", False)
    assert read_jsonl(tmp_path / "rankings.jsonl", Ranking) == [ranking]
    for letter, completion_id in zip("ABCD", order, strict=True):
        text = next(answer.text for answer in ANSWERS if answer.id == completion_id)
        assert shown.index(f" {letter} ") < shown.index(text)
    assert "secret-model" not in shown
    assert "Be [b]brief[/b]." in shown
    assert "Prompt 1 of 3" in shown


def test_the_shown_order_is_shuffled_and_the_same_on_return(tmp_path: Path) -> None:
    orders = [session(tmp_path / f"{i}.jsonl", "abcd", "abcd", "abcd", seed=i)[0] for i in range(5)]
    again = session(tmp_path / "again.jsonl", "abcd", "abcd", "abcd", seed=0)[0]
    assert [r.shown_order for r in again] == [r.shown_order for r in orders[0]]
    assert len({tuple(sorted(r.shown_order).index(c) for c in r.shown_order) for some in orders for r in some}) > 3


def test_wrong_input_is_explained_and_asked_again(tmp_path: Path) -> None:
    rankings, shown = session(tmp_path / "r.jsonl", "a b", "?", "", "u", "d c b a")
    assert len(rankings) == 1
    assert "C and D are missing; name every answer once" in shown
    assert shown.count("Best answer first. Example: b a=c d") == 2
    assert "this is the first prompt of the session; there is nothing before it" in shown


def test_skip_none_acceptable_and_quit(tmp_path: Path) -> None:
    rankings, _ = session(tmp_path / "r.jsonl", "s", "n", "n d c=b a", "q")
    assert [(r.prompt_id, r.none_acceptable, len(r.tiers)) for r in rankings] == [("p2", True, 0), ("p3", True, 3)]
    assert session(tmp_path / "q.jsonl", "q")[0] == ()
    assert not (tmp_path / "q.jsonl").exists()


def test_undo_replaces_the_previous_answer(tmp_path: Path) -> None:
    rankings, shown = session(tmp_path / "r.jsonl", "abcd", "u", "dcba", "abcd")
    assert [r.prompt_id for r in rankings] == ["p1", "p1", "p2"]
    first, second, _ = rankings
    assert first.tiers == tuple(reversed(second.tiers))
    assert current_rankings(rankings) == rankings[1:]
    assert [f"Prompt {i} of 3" in shown for i in (1, 2, 3)] == [True] * 3


def test_skip_after_undo_withdraws_the_answer(tmp_path: Path) -> None:
    rankings, _ = session(tmp_path / "r.jsonl", "abcd", "u", "s", "q")
    assert len(rankings) == 2
    assert current_rankings(rankings) == ()
    again, shown = session(tmp_path / "r.jsonl", "abcd")
    assert "Why?" in shown
    assert [r.prompt_id for r in current_rankings(again)] == ["p1"]


def test_done_prompts_are_not_shown_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    session(path, "abcd", "s", "q")
    rankings, shown = session(path, "abcd", "abcd")
    assert [r.prompt_id for r in rankings] == ["p1", "p2", "p3"]
    assert "Why?" not in shown
    assert "Prompt 1 of 2" in shown
    # Another person, another criterion: everything is still to do.
    assert "Why?" in session(path, "q", annotator="bea")[1]
    assert "Why?" in session(path, "q", criterion="honest")[1]
    assert "Prompt" not in session(path)[1]


def test_limit(tmp_path: Path) -> None:
    rankings, shown = session(tmp_path / "r.jsonl", "abcd", "abcd", limit=1)
    assert len(rankings) == 1
    assert "Prompt 1 of 1" in shown


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = iter(["abcd", "dcba"])

    def read(_question: str) -> str:
        for line in lines:
            return line
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank_in_terminal(PROMPTS, ANSWERS, path, console=Console(file=io.StringIO()), read=read)
    assert [r.prompt_id for r in read_jsonl(path, Ranking)] == ["p1", "p2"]


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    session(path, "abcd", "q")
    whole = path.read_text()
    path.write_text(whole + json.dumps({"id": "half"})[:-4])
    rankings, _ = session(path, "abcd", "q")
    assert [r.prompt_id for r in rankings] == ["p1", "p2"]
    assert path.read_text().startswith(whole)


def test_an_answer_cannot_take_over_the_terminal(tmp_path: Path) -> None:
    assert printable("a\x1b[31mred\x9b2J\u202e\tb\r\nfamily \U0001f468\u200d\U0001f469") == (
        "a\ufffd[31mred\ufffd2J\ufffd\tb\ufffd\nfamily \U0001f468\u200d\U0001f469"
    )
    answers = [Completion("x", "p2", "\x1b[2Jgone [red]x[/red]", "m"), Completion("y", "p2", " ", "m")]
    console = Console(file=io.StringIO(), width=100)
    rank_in_terminal(PROMPTS, answers, tmp_path / "r.jsonl", console=console, read=typed("q"))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\x1b" not in shown
    assert "\ufffd[2Jgone [red]x[/red]" in shown
    assert "(an empty answer)" in shown


def test_what_cannot_be_ranked(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    many = [Completion(str(k), "p1", str(k), "m") for k in range(10)]
    with pytest.raises(
        InputError, match=r"^prompt p1: has 10 completions, but the terminal ranks at most 9; sample fewer"
    ):
        rank_in_terminal(PROMPTS, many, path, read=typed())
    with pytest.raises(InputError, match=r"^completions: no prompt has two or more; sample at least two"):
        rank_in_terminal(PROMPTS, ANSWERS[:1], path, read=typed())
    with pytest.raises(InputError, match=r"^annotator: is empty; give a name, so that rankings can be told apart$"):
        session(path, annotator=" ")
