"""The mass-fence guard's count: who is fenced, who is held, and for how long."""

from __future__ import annotations

from nvmefence.watcher.massfence import ALLOW, MassFence

HOSTS = [f"c{n}" for n in range(1, 9)]
LONG = 1e9


def ask(guard: MassFence, hosts: str, now: float, until: float = LONG, allowed: bool = False) -> str:
    """Ask for hosts; returns those that are held."""
    said = guard.ask(dict.fromkeys(hosts.split(), until), now, allowed)
    assert said.admitted | said.held == set(hosts.split())
    assert not said.admitted & said.held
    return " ".join(sorted(said.held))


def test_as_many_as_the_limit_are_nothing_to_speak_of() -> None:
    guard = MassFence(4, 60, hold=True)
    assert ask(guard, "c1 c2", 0) == ask(guard, "c3 c4", 59) == ""
    assert guard.trouble(59) == ""


def test_one_more_is_an_alarm_and_names_all() -> None:
    guard = MassFence(4, 60, hold=False)
    guard.ask(dict.fromkeys(HOSTS[:4], LONG), 0)
    said = guard.ask({"c5": LONG}, 59.9)
    assert (said.admitted, said.alarm) == (frozenset({"c5"}), True)
    assert guard.trouble(59.9) == "more than 4 hosts in 60 s: fenced c1, c2, c3, c4, c5"


def test_what_was_long_ago_does_not_count() -> None:
    guard = MassFence(4, 60, hold=True)
    assert ask(guard, "c1 c2 c3 c4", 0) == ""
    assert ask(guard, "c5", 60) == ""
    assert guard.trouble(60) == ""


def test_a_host_that_is_tried_again_counts_once() -> None:
    guard = MassFence(4, 60, hold=True)
    for now in range(50):
        said = guard.ask(dict.fromkeys(HOSTS[:4], LONG), now)
        assert (said.held, said.alarm) == (frozenset(), False)


def test_a_retry_keeps_a_host_among_those_that_count() -> None:
    guard = MassFence(1, 60, hold=True)
    assert ask(guard, "c1", 0) == ask(guard, "c1", 50) == ""
    assert ask(guard, "c2", 100) == "c2"


def test_the_first_pass_and_the_others_are_held() -> None:
    guard = MassFence(4, 60, hold=True)
    assert ask(guard, " ".join(HOSTS), 0) == "c5 c6 c7 c8"
    waiting = "held, and still able to write: c5, c6, c7, c8; to let them be fenced: nvmefence allow-mass-fence"
    assert guard.trouble(0) == f"more than 4 hosts in 60 s: fenced c1, c2, c3, c4; {waiting}"
    assert ALLOW in guard.trouble(0)


def test_time_alone_lets_nobody_through() -> None:
    guard = MassFence(2, 60, hold=True)
    assert ask(guard, "c1 c2 c3", 0, until=50) == "c3"
    for now in range(10, 1000, 59):
        assert ask(guard, "c3", now, until=now + 50) == "c3"
    assert ask(guard, "c4", now + 1, until=now + 50) == "c4"


def test_quiet_lets_the_next_through() -> None:
    guard = MassFence(2, 60, hold=True)
    assert ask(guard, "c1 c2 c3", 0, until=50) == "c3"
    assert guard.trouble(109.9) != ""
    assert guard.trouble(110) == ""
    assert ask(guard, "c3", 110, until=200) == ""


def test_who_was_fenced_just_now_may_be_fenced_again_while_others_are_held() -> None:
    guard = MassFence(2, 60, hold=True)
    assert ask(guard, "c1 c2 c3", 0) == "c3"
    assert ask(guard, "c1 c3 c4", 10) == "c3 c4"


def test_a_word_lets_everyone_through_and_holds_for_its_time() -> None:
    guard = MassFence(2, 60, hold=True)
    assert ask(guard, "c1 c2 c3", 0) == "c3"
    guard.allow()
    assert guard.held(5) == []
    assert ask(guard, "c3 c4 c5", 5, allowed=True) == ""
    assert guard.trouble(5) == "more than 2 hosts in 60 s: fenced c1, c2, c3, c4, c5"
    assert ask(guard, "c6", 6) == "c6"


def test_each_alarm_has_something_new() -> None:
    guard = MassFence(2, 60, hold=True)
    assert guard.ask(dict.fromkeys(HOSTS[:3], LONG), 0).alarm
    assert not guard.ask(dict.fromkeys(HOSTS[:3], LONG), 1).alarm
    assert guard.ask({"c4": LONG}, 2).alarm
    assert not guard.ask({"c4": LONG}, 70).alarm
    assert guard.ask({"c5": LONG}, 71).alarm


def test_the_words_do_not_change_while_nothing_happens() -> None:
    guard = MassFence(2, 60, hold=True)
    for now, host in enumerate(HOSTS):
        ask(guard, host, now * 5, until=100)
    assert {guard.trouble(now) for now in range(40, 160)} == {guard.trouble(40)} != {""}
    assert guard.trouble(160) == ""


def test_held_is_who_is_waited_for() -> None:
    guard = MassFence(1, 60, hold=True)
    ask(guard, "c1", 0)
    ask(guard, "c2", 0, until=10)
    ask(guard, "c3", 0, until=20)
    assert (guard.held(5), guard.held(15), guard.held(25)) == (["c2", "c3"], ["c3"], [])
    assert guard.fenced(5) == ["c1"]


def test_no_limit_lets_everyone_through_in_silence() -> None:
    guard = MassFence(0, 60, hold=True)
    assert not guard.holds
    said = guard.ask(dict.fromkeys(HOSTS, LONG), 0)
    assert (said.held, said.alarm, guard.trouble(0)) == (frozenset(), False, "")


def test_a_successor_goes_on_where_the_guard_was() -> None:
    first = MassFence(2, 60, hold=True)
    ask(first, "c1 c2 c3", 100, until=150)
    second = MassFence(2, 60, hold=True)
    second.restore(first.to_json(), 110)
    assert second.trouble(110) == first.trouble(110)
    assert ask(second, "c1 c3 c4", 120, until=170) == "c3 c4"


def test_what_cannot_be_is_not_taken_over() -> None:
    for document in (
        {},
        {"begun": 3, "held": []},
        {"begun": {"c1": "x", "c2": True, "c3": float("nan"), "c4": float("inf")}, "held": {"c5": None}},
        {"begun": {"c1": 1000.0, "c2": 1e308}, "held": {"c3": 1e12}},
    ):
        guard = MassFence(1, 60, hold=True)
        guard.restore(document, 100)
        assert (guard.fenced(100), guard.held(100), guard.trouble(100)) == ([], [], "")


def test_of_many_some_are_named() -> None:
    guard = MassFence(1, 60, hold=False)
    ask(guard, " ".join(f"h{n}" for n in range(30)), 0)
    assert guard.trouble(0).endswith("h19 and 10 more")
