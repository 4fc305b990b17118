"""A live request waits for no backlog, and no file waits for good."""

from __future__ import annotations

from nvmefence.watcher.turns import Turns


def order(turns: Turns, ages: dict[str, float], most_left: int = 100) -> list[str]:
    return list(turns.order(list(ages), ages.__getitem__, most_left))


def test_what_came_last_is_read_first() -> None:
    assert order(Turns(), {"old": 9.0, "new": 0.0, "older": 10.0}) == ["new", "old", "older"]


def test_what_nobody_has_read_goes_before_what_was_left() -> None:
    turns = Turns()
    order(turns, {"a": 5.0, "b": 5.0})
    for name in ("a", "b"):
        turns.read(name)
        turns.left(name)
    assert (turns.unread, turns.any_left) == (0, True)
    assert order(turns, {"a": 6.0, "b": 6.0, "c": 99.0}) == ["c", "a", "b"]
    assert turns.unread == 1


def test_what_was_left_longest_ago_comes_first_and_no_more_than_there_is_room_for() -> None:
    turns = Turns()
    for name in ("c", "a", "b", "c"):
        turns.read(name)
        turns.left(name)
    ages = dict.fromkeys("abc", 1.0)
    assert order(turns, ages) == ["a", "b", "c"]
    assert order(turns, ages, 2) == ["a", "b"]
    assert order(turns, ages, 0) == []


def test_what_was_unfinished_is_read_among_all_others() -> None:
    turns = Turns()
    for name in ("x", "y"):
        turns.read(name)
        turns.unfinished(name)
    many = {f"n{number}": float(number) for number in range(5)}
    assert order(turns, {**many, "x": 50.0, "y": 50.0}) == ["n0", "n1", "n2", "x", "n3", "n4", "y"]
    assert order(turns, {"x": 50.0, "y": 50.0}) == ["x", "y"]


def test_what_was_read_and_is_done_with_is_new_when_it_comes_again() -> None:
    turns = Turns()
    turns.read("a")
    turns.unfinished("a")
    turns.read("a")
    order(turns, {"a": 0.0})
    assert turns.unread == 1


def test_what_is_gone_is_forgotten() -> None:
    turns = Turns()
    for name in ("a", "b"):
        turns.read(name)
        turns.left(name)
        turns.unfinished(name)
    order(turns, {"b": 0.0})
    order(turns, {"a": 0.0, "b": 0.0})
    assert turns.unread == 1
