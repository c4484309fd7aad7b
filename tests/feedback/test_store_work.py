"""Claims, leases, overlap, drafts, submissions and revisions, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from making import answer, items, make_project, order, person
from sqlalchemy import func, select

from humanward.feedback.store import tasks
from humanward.feedback.store.answers import LETTERS, Answer, Judgement, adjudicate, submit
from humanward.feedback.store.audit import TERMINAL
from humanward.feedback.store.errors import RefusedError
from humanward.feedback.store.models import Assignment, AuditRow, RankingRow, RatingRow, Submission, Task
from humanward.feedback.store.progress import my_progress
from humanward.feedback.store.projects import change_project, progress
from humanward.feedback.store.review import change_task, give_verdict, resolve_flag, set_gold
from humanward.feedback.store.session import Store
from humanward.feedback.store.transfer import add_feedback, load_feedback
from humanward.preferences import current_rankings


def task(store: Store, task_id: str) -> Task:
    with store.read() as db:
        return db.get_one(Task, task_id)


def test_a_claim_is_a_lease_that_stays_with_its_owner(store: Store) -> None:
    project = make_project(store, count=2)
    ada, bob = person(store, "ada", project), person(store, "bob", project)
    first = tasks.claim(store, ada, project.id)
    again = tasks.claim(store, ada, project.id)
    other = tasks.claim(store, bob, project.id)
    assert first
    assert again
    assert other
    assert again.id == first.id
    assert other.task_id != first.task_id
    assert (first.lease_until - first.claimed_at).total_seconds() == project.lease_seconds
    assert sorted(first.shown_order) == sorted(task(store, first.task_id).completion_ids)


def test_live_leases_count_towards_the_quota(store: Store) -> None:
    project = make_project(store, count=1, overlap=2)
    people = [person(store, name, project) for name in ("ada", "bob", "eve")]
    claimed = [tasks.claim(store, someone, project.id) for someone in people]
    assert [own is not None for own in claimed] == [True, True, False]


def test_an_expired_lease_frees_its_place_and_keeps_the_draft(store: Store, clock) -> None:
    project = make_project(store, count=1, lease_seconds=60)
    ada, bob = person(store, "ada", project), person(store, "bob", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    tasks.save_draft(store, ada, own.task_id, {"tiers": [["A"]]})
    assert tasks.claim(store, bob, project.id) is None
    clock.advance(61)
    taken = tasks.claim(store, bob, project.id)
    assert taken
    assert taken.task_id == own.task_id
    assert tasks.claim(store, ada, project.id) is None
    tasks.release(store, bob, own.task_id)
    back = tasks.claim(store, ada, project.id)
    assert back
    assert back.draft == {"tiers": [["A"]]}
    assert back.shown_order == own.shown_order


def test_a_draft_and_renew_extend_the_lease(store: Store, clock) -> None:
    project = make_project(store, count=1, lease_seconds=60)
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    clock.advance(50)
    tasks.save_draft(store, ada, own.task_id, {})
    clock.advance(50)
    renewed = tasks.renew(store, ada, own.task_id)
    assert (renewed.lease_until - clock()).total_seconds() == 60
    assert renewed.state == "leased"


def test_submit_stores_the_ranking_with_shown_order_and_seconds(store: Store) -> None:
    project = make_project(store, count=1, criteria=("helpful", "honest"))
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    judgements = {"helpful": order(own, "bac"), "honest": Judgement((("A", "B", "C"),))}
    submit(store, ada, own.task_id, Answer("client-1", judgements, seconds_spent=12.5))
    rankings = load_feedback(store, project.id).rankings
    assert [r.criterion for r in rankings] == ["helpful", "honest"]
    assert rankings[0].tiers == (("p0b",), ("p0a",), ("p0c",))
    assert len(rankings[1].tiers) == 1
    assert set(rankings[1].tiers[0]) == {"p0a", "p0b", "p0c"}
    assert rankings[0].shown_order == tuple(own.shown_order)
    assert (rankings[0].annotator, rankings[0].seconds_spent, rankings[0].simulated) == ("ada", 12.5, False)
    assert task(store, own.task_id).state == "done"


def test_none_acceptable_with_and_without_an_order(store: Store) -> None:
    project = make_project(store, count=2)
    ada = person(store, "ada", project)
    for number, tiers in enumerate([(), None]):
        own = tasks.claim(store, ada, project.id)
        assert own
        judged = Judgement((), True) if tiers == () else replace(order(own, "abc"), none_acceptable=True)
        submit(store, ada, own.task_id, Answer(f"client-{number}", {"overall": judged}))
    assert [(r.none_acceptable, len(r.tiers)) for r in load_feedback(store, project.id).rankings] == [
        (True, 0),
        (True, 3),
    ]


@pytest.mark.parametrize(
    ("tiers", "reason"),
    [
        ((), "A, B, C missing"),
        ((("A",), ("B",)), "C missing"),
        ((("A",), ("B",), ("C",), ("D",)), "'D' is none of"),
        ((("A",), ("B", "A"), ("C",)), "A is ranked twice"),
        ((("A", "B", "C"), ()), "is empty"),
        ((("AB",), ("C",)), "'AB' is none of"),
        ((("",), ("A",), ("B",), ("C",)), "'' is none of"),
    ],
)
def test_what_is_no_weak_order_is_refused_and_the_draft_survives(store: Store, tiers, reason: str) -> None:
    project = make_project(store, count=1)
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    tasks.save_draft(store, ada, own.task_id, {"kept": True})
    with pytest.raises(RefusedError, match=r"judgements\.overall") as refused:
        submit(store, ada, own.task_id, Answer("client-1", {"overall": Judgement(tiers)}))
    assert reason in str(refused.value)
    assert (refused.value.status, refused.value.code) == (422, "not_weak_order")
    assert load_feedback(store, project.id).rankings == ()
    again = tasks.claim(store, ada, project.id)
    assert again
    assert again.draft == {"kept": True}


def test_ties_and_none_acceptable_may_be_switched_off(store: Store) -> None:
    project = make_project(store, count=1, allow_ties=False, allow_none_acceptable=False)
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    for judged, word in ((Judgement((("A", "B"), ("C",))), "tie"), (Judgement((), True), "not offered")):
        with pytest.raises(RefusedError, match=word):
            submit(store, ada, own.task_id, Answer("client-1", {"overall": judged}))


def test_the_same_body_again_gives_the_same_receipt_and_another_is_refused(store: Store) -> None:
    project = make_project(store, count=1)
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    first = submit(store, ada, own.task_id, answer(own, "abc"))
    assert submit(store, ada, own.task_id, answer(own, "abc")) == first
    with pytest.raises(RefusedError) as refused:
        submit(store, ada, own.task_id, answer(own, "cba"))
    assert (refused.value.status, refused.value.code) == (409, "client_id_used")
    assert len(load_feedback(store, project.id).rankings) == 1


def test_one_request_sent_many_times_at_once_is_kept_once(store: Store) -> None:
    project = make_project(store, count=1)
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda _: submit(store, ada, own.task_id, answer(own, "abc")), range(8)))
    assert len(set(receipts)) == 1
    assert len(load_feedback(store, project.id).rankings) == 1


def test_an_edit_is_a_new_revision_and_nothing_is_overwritten(store: Store, clock) -> None:
    project = make_project(store, count=1)
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    submit(store, ada, own.task_id, answer(own, "abc", "client-1"))
    clock.advance(5)
    second = submit(store, ada, own.task_id, answer(own, "cab", "client-2"))
    assert (second.revision, second.late) == (2, False)
    rankings = load_feedback(store, project.id).rankings
    assert [r.tiers[0] for r in rankings] == [("p0a",), ("p0c",)]
    assert [r.tiers[0] for r in current_rankings(rankings)] == [("p0c",)]
    assert task(store, own.task_id).opinions == 1


def test_a_late_answer_is_kept_and_marked(store: Store, clock) -> None:
    project = make_project(store, count=1, lease_seconds=60)
    ada, bob = person(store, "ada", project), person(store, "bob", project)
    own = tasks.claim(store, ada, project.id)
    clock.advance(61)
    other = tasks.claim(store, bob, project.id)
    assert own
    assert other
    assert not submit(store, bob, other.task_id, answer(other, "abc")).late
    receipt = submit(store, ada, own.task_id, answer(own, "bca"))
    assert (receipt.late, receipt.over_quota) == (True, True)
    assert len(load_feedback(store, project.id).rankings) == 2
    assert task(store, own.task_id).opinions == 2


def test_skipped_tasks_do_not_come_again_and_released_ones_do(store: Store) -> None:
    project = make_project(store, count=2)
    ada = person(store, "ada", project)
    first = tasks.claim(store, ada, project.id)
    assert first
    tasks.skip(store, ada, first.task_id, "cannot read it")
    second = tasks.claim(store, ada, project.id)
    assert second
    assert second.task_id != first.task_id
    tasks.release(store, ada, second.task_id)
    third = tasks.claim(store, ada, project.id)
    assert third
    assert third.task_id == second.task_id
    submit(store, ada, third.task_id, answer(third, "abc"))
    assert tasks.claim(store, ada, project.id) is None
    with pytest.raises(RefusedError, match="edit it instead"):
        tasks.skip(store, ada, third.task_id)
    bob = person(store, "bob", project)
    left = tasks.claim(store, bob, project.id)
    assert left
    assert left.task_id == first.task_id


def test_nobody_touches_another_persons_work(store: Store) -> None:
    project = make_project(store, count=1)
    ada, bob = person(store, "ada", project), person(store, "bob", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    for act in (
        lambda: tasks.save_draft(store, bob, own.task_id, {}),
        lambda: tasks.renew(store, bob, own.task_id),
        lambda: tasks.skip(store, bob, own.task_id),
        lambda: submit(store, bob, own.task_id, answer(own, "abc")),
        lambda: tasks.flag(store, bob, own.task_id, "broken"),
    ):
        with pytest.raises(RefusedError) as refused:
            act()
        assert refused.value.status == 404


def test_the_order_shown_differs_between_people_and_stays(store: Store) -> None:
    project = make_project(store, count=1, answers=9, overlap=20)
    orders = []
    for number in range(6):
        someone = person(store, f"person {number}", project)
        own = tasks.claim(store, someone, project.id)
        assert own
        orders.append(tuple(own.shown_order))
        again = tasks.claim(store, someone, project.id)
        assert again
        assert tuple(again.shown_order) == orders[-1]
    assert len(set(orders)) == 6  # two of six alike have chance 15 / 9!


def test_uncertain_prompts_come_first_and_disputed_tasks_before_them(store: Store) -> None:
    project = make_project(store, count=4, overlap=3, uncertainty={"p2": 3.0, "p1": 0.5})
    ada, bob, eve = (person(store, name, project) for name in ("ada", "bob", "eve"))
    first = tasks.claim(store, ada, project.id)
    assert first
    assert task(store, first.task_id).prompt_id == "p2"
    submit(store, ada, first.task_id, answer(first, "abc", "client-1"))
    second = tasks.claim(store, ada, project.id)
    assert second
    assert task(store, second.task_id).prompt_id == "p1"
    submit(store, ada, second.task_id, answer(second, "abc", "client-2"))
    for best_first, prompt in (("cba", "p1"), ("abc", "p2")):
        own = tasks.claim(store, bob, project.id)
        assert own
        assert task(store, own.task_id).prompt_id == prompt
        submit(store, bob, own.task_id, answer(own, best_first, f"client-{prompt}"))
    own = tasks.claim(store, eve, project.id)
    # On p1 ada and bob contradict each other; on p2 they agree.
    assert own
    assert task(store, own.task_id).prompt_id == "p1"


def test_a_disputed_task_asks_for_more_opinions(store: Store) -> None:
    project = make_project(store, count=2, overlap=2, max_overlap=3, extra_above=0.3)
    people = [person(store, name, project) for name in ("ada", "bob", "eve")]
    said = {"p0": ("abc", "cba"), "p1": ("abc", "abc")}
    for turn_of, someone in enumerate(people[:2]):
        for _ in range(2):
            own = tasks.claim(store, someone, project.id)
            assert own
            best_first = said[task(store, own.task_id).prompt_id][turn_of]
            submit(store, someone, own.task_id, answer(own, best_first, f"client-{own.id}"))
    third = tasks.claim(store, people[2], project.id)
    assert third
    assert task(store, third.task_id).prompt_id == "p0"
    assert (task(store, third.task_id).quota, task(store, third.task_id).disagreement) == (3, 1.0)
    submit(store, people[2], third.task_id, answer(third, "abc"))
    assert tasks.claim(store, people[2], project.id) is None


def test_a_pairwise_project_asks_for_every_pair(store: Store) -> None:
    project = make_project(store, count=1, answers=3, mode="pairwise")
    ada = person(store, "ada", project)
    seen = set()
    for number in range(3):
        own = tasks.claim(store, ada, project.id)
        assert own
        assert len(own.shown_order) == 2
        seen.add(frozenset(own.shown_order))
        submit(store, ada, own.task_id, Answer(f"client-{number}", {"overall": Judgement((("A", "B"),))}))
    assert len(seen) == 3
    assert tasks.claim(store, ada, project.id) is None


def test_a_rating_project_keeps_scores_and_the_order_they_give(store: Store) -> None:
    project = make_project(store, count=1, mode="rating", rating_scale=5)
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    letter = dict(zip((c[-1] for c in own.shown_order), "ABC", strict=True))
    scores = {letter["a"]: 5, letter["b"]: 1, letter["c"]: 5}
    for bad, word in (
        ({"A": 3}, "B, C missing"),
        (scores | {"A": 6}, "not between 1 and 5"),
        (scores | {"D": 1}, "'D'"),
    ):
        with pytest.raises(RefusedError, match=word):
            submit(store, ada, own.task_id, Answer("client-1", {"overall": Judgement(scores=bad)}))
    submit(store, ada, own.task_id, Answer("client-1", {"overall": Judgement(scores=scores)}))
    feedback = load_feedback(store, project.id)
    assert {r.completion_id: r.value for r in feedback.ratings} == {"p0a": 1.0, "p0b": 0.0, "p0c": 1.0}
    assert feedback.rankings[0].tiers[1] == ("p0b",)
    assert set(feedback.rankings[0].tiers[0]) == {"p0a", "p0c"}


def test_gold_in_a_rating_project_is_the_order_of_scores(store: Store) -> None:
    project = make_project(store, count=1, mode="rating", rating_scale=5, gold_share=1.0)
    with store.read() as db:
        (task_id,) = db.scalars(select(Task.id))
    with pytest.raises(RefusedError, match="B, C missing"):
        set_gold(store, TERMINAL, task_id, {"overall": Judgement(scores={"A": 5})})
    with pytest.raises(RefusedError, match="6 is not between 1 and 5"):
        set_gold(store, TERMINAL, task_id, {"overall": Judgement(scores={"A": 6, "B": 1, "C": 1})})
    set_gold(store, TERMINAL, task_id, {"overall": Judgement(scores={"A": 2, "B": 5, "C": 2})})
    assert task(store, task_id).gold == {"overall": [["p0b"], ["p0a", "p0c"]]}
    # Of three pairs, one as gold has it and one reversed; the third is strict where gold ties, which counts half.
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    scores = {LETTERS[own.shown_order.index(c)]: s for c, s in (("p0a", 4), ("p0b", 3), ("p0c", 1))}
    submit(store, ada, own.task_id, Answer("client-1", {"overall": Judgement(scores=scores)}))
    with store.read() as db:
        assert my_progress(db, tasks.person(ada), project.id)["gold_accuracy"] == pytest.approx(0.5)


def test_gold_items_come_to_everybody_and_use_no_quota(store: Store) -> None:
    project = make_project(store, count=2, gold_share=1.0)
    with store.read() as db:
        ids = list(db.scalars(select(Task.id).order_by(Task.position)))
    set_gold(store, TERMINAL, ids[0], {"overall": Judgement((("A",), ("B", "C")))})
    for name in ("ada", "bob", "eve"):
        someone = person(store, name, project)
        own = tasks.claim(store, someone, project.id)
        assert own
        assert own.task_id == ids[0]
        assert own.gold
        submit(store, someone, own.task_id, answer(own, "abc"))
    with store.read() as db:
        counts = progress(db, project.id)
    assert (counts["gold"], counts["open"], counts["opinions"]) == (1, 1, 0)
    set_gold(store, TERMINAL, ids[0], None)
    assert (task(store, ids[0]).state, task(store, ids[0]).opinions) == ("done", 3)


def test_a_rejected_answer_is_withdrawn_and_the_task_opens_again(store: Store) -> None:
    project = make_project(store, count=1)
    ada, bob = person(store, "ada", project), person(store, "bob", project)
    chief = person(store, "chief", project, "reviewer")
    own = tasks.claim(store, ada, project.id)
    assert own
    receipt = submit(store, ada, own.task_id, answer(own, "abc"))
    give_verdict(store, chief, receipt.submission_id, False, "random")
    assert current_rankings(load_feedback(store, project.id).rankings) == ()
    assert (task(store, own.task_id).state, task(store, own.task_id).opinions) == ("open", 0)
    other = tasks.claim(store, bob, project.id)
    assert other
    assert other.task_id == own.task_id
    tasks.release(store, bob, own.task_id)
    # The author mends it: it counts again.
    submit(store, ada, own.task_id, answer(own, "cab", "client-2"))
    assert (task(store, own.task_id).state, task(store, own.task_id).opinions) == ("done", 1)
    assert [r.tiers[0] for r in current_rankings(load_feedback(store, project.id).rankings)] == [("p0c",)]


def test_a_verdict_can_be_taken_back_and_is_never_on_ones_own_answer(store: Store) -> None:
    project = make_project(store, count=1)
    ada, chief = person(store, "ada", project, "reviewer"), person(store, "chief", project, "reviewer")
    own = tasks.claim(store, ada, project.id)
    assert own
    receipt = submit(store, ada, own.task_id, answer(own, "abc"))
    with pytest.raises(RefusedError, match="somebody else"):
        give_verdict(store, ada, receipt.submission_id, True)
    give_verdict(store, chief, receipt.submission_id, False)
    give_verdict(store, chief, receipt.submission_id, True)
    assert [r.tiers[0] for r in current_rankings(load_feedback(store, project.id).rankings)] == [("p0a",)]
    assert task(store, own.task_id).opinions == 1


def test_adjudication_settles_a_task(store: Store) -> None:
    project = make_project(store, count=1, overlap=3)
    ada, chief = person(store, "ada", project), person(store, "chief", project, "reviewer")
    own = tasks.claim(store, ada, project.id)
    assert own
    submit(store, ada, own.task_id, answer(own, "abc"))
    with pytest.raises(RefusedError) as refused:
        adjudicate(store, ada, own.task_id, answer(own, "abc", "client-x"))
    assert refused.value.status == 403
    # In review the letters are those of the ids in order.
    adjudicate(store, chief, own.task_id, Answer("client-9", {"overall": Judgement((("C",), ("B",), ("A",)))}))
    settled = task(store, own.task_id)
    assert (settled.state, settled.adjudicated, settled.available) == ("done", True, False)
    last = load_feedback(store, project.id).rankings[-1]
    assert (last.annotator, last.tiers[0]) == ("chief (adjudication)", ("p0c",))
    assert tasks.claim(store, person(store, "bob", project), project.id) is None


def test_excluded_tasks_and_archived_projects_give_no_work(store: Store) -> None:
    project = make_project(store, count=1)
    ada = person(store, "ada", project)
    with store.read() as db:
        task_id = db.scalars(select(Task.id)).one()
    change_task(store, TERMINAL, task_id, excluded=True)
    assert tasks.claim(store, ada, project.id) is None
    change_task(store, TERMINAL, task_id, excluded=False)
    assert tasks.claim(store, ada, project.id) is not None
    change_project(store, TERMINAL, project.id, {"archived": True})
    with pytest.raises(RefusedError, match="archived"):
        tasks.claim(store, ada, project.id)


def test_raising_the_overlap_opens_finished_tasks(store: Store) -> None:
    project = make_project(store, count=1)
    ada, bob = person(store, "ada", project), person(store, "bob", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    submit(store, ada, own.task_id, answer(own, "abc"))
    assert tasks.claim(store, bob, project.id) is None
    changed = change_project(store, TERMINAL, project.id, {"overlap": 2})
    assert (changed.overlap, changed.max_overlap) == (2, 2)
    assert tasks.claim(store, bob, project.id) is not None


def test_flags_are_kept_and_resolved(store: Store) -> None:
    project = make_project(store, count=1)
    ada, chief = person(store, "ada", project), person(store, "chief", project, "reviewer")
    own = tasks.claim(store, ada, project.id)
    assert own
    row = tasks.flag(store, ada, own.task_id, "unsafe", "see answer B")
    with store.read() as db:
        assert progress(db, project.id)["open_flags"] == 1
    assert resolve_flag(store, chief, row.id, "taken out").resolved_by == chief.user_id
    with pytest.raises(RefusedError, match="not one of"):
        tasks.flag(store, ada, own.task_id, "nonsense")
    with store.read() as db:
        assert progress(db, project.id)["open_flags"] == 0


def test_every_change_is_in_the_audit_log(store: Store) -> None:
    project = make_project(store, count=1)
    ada = person(store, "ada", project)
    own = tasks.claim(store, ada, project.id)
    assert own
    submit(store, ada, own.task_id, answer(own, "abc", "client-1"))
    submit(store, ada, own.task_id, answer(own, "cba", "client-2"))
    with store.read() as db:
        actions = list(db.scalars(select(AuditRow.action).order_by(AuditRow.id)))
    assert actions == ["project.create", "data.import", "people.add", "answer.submit", "answer.revise"]


def test_fifty_people_at_once_lose_and_double_nothing(store: Store) -> None:
    project = make_project(store, count=40, answers=2, overlap=3)
    everybody = [person(store, f"person {n}", project) for n in range(12)]
    failures: list[BaseException] = []

    def work(someone) -> None:
        try:
            while own := tasks.claim(store, someone, project.id):
                submit(store, someone, own.task_id, answer(own, "ab", f"client-{own.id}"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(someone,)) for someone in everybody]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.read() as db:
        per_task = db.execute(select(RankingRow.task_id, func.count()).group_by(RankingRow.task_id)).all()
        assert sorted(count for _, count in per_task) == [3] * 40
        assert db.scalar(select(func.count()).select_from(Submission)) == 120
        assert db.scalar(select(func.count()).select_from(Assignment)) == 120
        assert set(db.scalars(select(Task.reserved))) == {3}
        assert db.scalar(select(func.count()).select_from(RatingRow)) == 0


def test_import_counts_the_rankings_that_people_gave_before(store: Store) -> None:
    project = make_project(store, count=0, overlap=2)
    from humanward.records import Ranking

    feedback = items(3)
    by_person = Ranking("r1", "p0", (("p0a",), ("p0b", "p0c")), "zoe")
    simulated = Ranking("r2", "p1", (("p1a",), ("p1b",), ("p1c",)), "simulated-1", simulated=True)
    added = add_feedback(store, TERMINAL, project.id, replace(feedback, rankings=(by_person, simulated)))
    assert (added.prompts, added.completions, added.rankings, added.tasks) == (3, 9, 2, 3)
    with store.read() as db:
        counts = {t.prompt_id: (t.opinions, t.reserved) for t in db.scalars(select(Task))}
    assert counts == {"p0": (1, 1), "p1": (0, 0), "p2": (0, 0)}
    again = add_feedback(store, TERMINAL, project.id, replace(feedback, rankings=(by_person, simulated)))
    assert (again.prompts, again.completions, again.rankings, again.tasks) == (0, 0, 0, 0)
