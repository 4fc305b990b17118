"""The host map: what is refused and how it is said, names, expected drives, and controllers on a drive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nvmefence.errors import ConfigError, UnknownHostError
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController, group
from nvmefence.inventory.hostmap import HostMap
from nvmefence.inventory.selectors import DriveView, Refusal
from nvmefence.nvme.structures import SecondaryController


def document(hosts: dict[str, Any] | None = None, **drives: Any) -> dict[str, Any]:
    return {"version": 1, "drives": drives or {"count": 1}, "hosts": hosts or {"c1": {"controllers": 3}}}


def parse(hosts: dict[str, Any] | None = None, **drives: Any) -> HostMap:
    return hostfile.parse(document(hosts, **drives), "/etc/h.toml")


def local(cntlid: int, *, vf: bool = False, state: str = "live") -> LocalController:
    return LocalController(f"nvme{cntlid}", f"/dev/nvme{cntlid}", cntlid, "", state, vf)


def drive(serial: str = "S1", own: Sequence[LocalController] = (), model: str = "M") -> Drive:
    return Drive(f"nqn.{serial}", serial, model, "1", tuple(own) or (local(0),))


def secondaries(*pairs: tuple[int, int]) -> list[SecondaryController]:
    return [SecondaryController(cntlid, 0, 1, vf, 2, 2) for cntlid, vf in pairs]


def view(
    subsystem: Sequence[int] | None = range(10),
    entries: Sequence[SecondaryController] | None = None,
    of: Drive | None = None,
) -> DriveView:
    return DriveView(of or drive(), subsystem, entries)


HOST = {"c1": {"controllers": 3}}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "version", "must be 1, is None"),
    ({"version": 2}, "version", "must be 1, is 2"),
    ({"version": 1, "hosts": HOST}, "drives", "is missing"),
    ({"version": 1, "drives": 18, "hosts": HOST}, "drives", "must be a table"),
    ({"version": 1, "drives": {"count": 1}}, "hosts", "is missing"),
    ({"version": 1, "drives": {"count": 1}, "hosts": []}, "hosts", "must be a table"),
    ({"version": 1, "drives": {"count": 1}, "hosts": {}}, "hosts", "no host is named"),
    ({**document(), "drivs": 1}, "drivs", "did you mean 'drives'?"),
    (document(cout=1), "drives.cout", "did you mean 'count'?"),
    (document({"c1": {"controler": 3}}), "hosts.c1.controler", "did you mean 'controllers'?"),
    (document(ignore=["x"]), "drives", "exactly one of count, serials and nqns"),
    (document(count=1, serials=["S"]), "drives", "not count and serials"),
    (document(serials=["S"], nqns=["n"]), "drives", "not serials and nqns"),
    (document(count=0), "drives.count", "from 1 to 65536, is 0"),
    (document(count=65537), "drives.count", "from 1 to 65536, is 65537"),
    (document(count=True), "drives.count", "is True"),
    (document(count="18"), "drives.count", "is '18'"),
    (document(serials=[]), "drives.serials", "at least one drive"),
    (document(nqns=[]), "drives.nqns", "at least one drive"),
    (document(serials="S1"), "drives.serials", "must be a list of strings"),
    (document(serials=["S1", 2]), "drives.serials", "must be a list of strings"),
    (document(serials=["S1", " "]), "drives.serials", "must be a list of strings"),
    (document(serials=["S1", " S1 "]), "drives.serials", "names something twice"),
    (document(count=1, ignore="x"), "drives.ignore", "must be a list of strings"),
    (document(count=1, own="all"), "drives.own", "is 'all'"),
    (document(count=1, own=[]), "drives.own", "one or more whole numbers"),
    (document(count=1, own=[-1]), "drives.own", "from 0 to 65519"),
    (document(count=1, own=[1, 1]), "drives.own", "names a number twice"),
    (document(count=1, own=True), "drives.own", "is True"),
    (document(count=1, allow_controller_zero=1), "drives.allow_controller_zero", "must be true or false"),
    (document({"c 1": {"slot": 1}}), "hosts.'c 1'", "a host name has"),
    (document({"": {"slot": 1}}), "hosts.''", "a host name has"),
    (document({"-c": {"slot": 1}}), "hosts.'-c'", "a host name has"),
    (document({"c1.": {"slot": 1}}), "hosts.'c1.'", "a host name has"),
    (document({"c\n1": {"slot": 1}}), "hosts.'c\\n1'", "a host name has"),
    (document({"c" * 255: {"slot": 1}}), "hosts.", "a host name has"),
    (document({"c1": 3}), "hosts.c1", "must be a table"),
    (document({"c1": {}}), "hosts.c1", "none is given"),
    (document({"c1": {"aliases": ["x"]}}), "hosts.c1", "none is given"),
    (document({"c1": {"slot": 1, "vf": 3}}), "hosts.c1", "not vf and slot"),
    (document({"c1": {"slot": 1, "controllers": 3}}), "hosts.c1", "not controllers and slot"),
    (document({"c1": {"slot": 16}}), "hosts.c1.slot", "from 0 to 15, is 16"),
    (document({"c1": {"slot": -1}}), "hosts.c1.slot", "from 0 to 15, is -1"),
    (document({"c1": {"slot": True}}), "hosts.c1.slot", "is True"),
    (document({"c1": {"slot": [1]}}), "hosts.c1.slot", "is [1]"),
    (document({"c1": {"vf": 0}}), "hosts.c1.vf", "from 1 to 65535"),
    (document({"c1": {"vf": [2, 2]}}), "hosts.c1.vf", "names a number twice"),
    (document({"c1": {"vf": []}}), "hosts.c1.vf", "one or more"),
    (document({"c1": {"vf": 1.0}}), "hosts.c1.vf", "is 1.0"),
    (document({"c1": {"controllers": []}}), "hosts.c1.controllers", "one or more"),
    (document({"c1": {"controllers": "3"}}), "hosts.c1.controllers", "is '3'"),
    (document({"c1": {"controllers": 0xFFF0}}), "hosts.c1.controllers", "from 0 to 65519"),
    (document({"c1": {"controllers": {"S1": [4, -4]}}}), 'hosts.c1.controllers."S1"', "from 0 to 65519"),
    (document({"c1": {"controllers": 0}}), "hosts.c1.controllers", "controller id 0 is refused"),
    (document({"c1": {"controllers": {"S1": 0}}}), "hosts.c1.controllers", "controller id 0 is refused"),
    (document(HOST, count=1, own=[2, 3]), "hosts.c1.controllers", "controller 3 is this machine's own"),
    (
        document({"c1": {"controllers": {"S1": 4}}}, count=1, own=[4]),
        "hosts.c1.controllers",
        "controller 4 is this machine's own",
    ),
    (document({"c1": {"slot": 3}, "r": {"vf": 1}}), "hosts.r.vf", "virtual function 1 is the Rabbit's own"),
    (document({"c1": {"slot": 3, "aliases": ["a b"]}}), "hosts.c1.aliases", "'a b' is no host name"),
    (document({"c1": {"slot": 3, "aliases": "a"}}), "hosts.c1.aliases", "must be a list of strings"),
    (document({"a": {"slot": 3}, "b": {"slot": 3}}), "hosts.b", "virtual function 5 is that of hosts.a too"),
    (document({"a": {"slot": 3}, "b": {"vf": [9, 5]}}), "hosts.b", "virtual function 5 is that of hosts.a too"),
    (document({"a": {"controllers": 3}, "b": {"controllers": [2, 3]}}), "hosts.b", "controller 3 is that of"),
    (
        document({"a": {"controllers": {"S1": 3}}, "b": {"controllers": {"S1": 3}}}),
        "hosts.b",
        "controller 3 on drive S1 is that of hosts.a too",
    ),
    (document({"a": {"slot": 1}, "A": {"slot": 2}}), "hosts.A", "the name 'A' is that of hosts.a too"),
    (
        document({"a": {"slot": 1}, "b": {"slot": 2, "aliases": ["A"]}}),
        "hosts.b",
        "the name 'A' is that of hosts.a too",
    ),
]


@pytest.mark.parametrize(("given", "key", "reason"), REFUSED, ids=[f"{k}: {r}"[:50] for _, k, r in REFUSED])
def test_refusal_names_file_key_and_reason(given: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        hostfile.parse(given, "/etc/h.toml")
    assert refused.value.what.startswith(f"/etc/h.toml: {key}")
    assert reason in refused.value.what


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version = 1\n[drives\n", "line 2"),
        (b"version = 1\nversion = 1\n", "line 2"),
        (b"# \xff\n", "not UTF-8 at byte 2"),
        (b"[hosts.a]\nslot=1\n[hosts.a]\nslot=2\n", "line 3"),
    ],
)
def test_bad_file_is_refused_with_its_name_and_place(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "hosts.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        hostfile.load(path)
    assert str(path) in refused.value.what
    assert reason in refused.value.what
    assert refused.value.advice


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no host map"):
        hostfile.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        hostfile.load(tmp_path)


def test_two_hosts_may_have_the_same_ids_on_different_drives() -> None:
    hostmap = parse({"a": {"controllers": {"S1": 3, "S2": 4}}, "b": {"controllers": {"S1": 4, "S2": 3}}})
    on_s2 = view(of=drive("S2"))
    assert hostmap.resolve(hostmap.find("a"), on_s2) == {4}
    assert hostmap.resolve(hostmap.find("b"), on_s2) == {3}


# Names

NAMES = parse(
    {
        "c1": {"slot": 0, "aliases": ["c1-ib", "rack1.node1"]},
        "c2.example.org": {"slot": 1},
        "c3.a.org": {"slot": 2},
        "c3.b.org": {"slot": 3},
        "Big": {"slot": 4},
    }
)


@pytest.mark.parametrize(
    ("asked", "host"),
    [
        ("c1", "c1"),
        ("C1", "c1"),
        (" c1 ", "c1"),
        ("c1.", "c1"),
        ("c1.example.org", "c1"),
        ("c1-ib", "c1"),
        ("C1-IB.example.org", "c1"),
        ("rack1", "c1"),
        ("rack1.node1", "c1"),
        ("c2", "c2.example.org"),
        ("C2.EXAMPLE.ORG.", "c2.example.org"),
        ("c3.b.org", "c3.b.org"),
        ("big", "Big"),
    ],
)
def test_name_is_found(asked: str, host: str) -> None:
    assert NAMES.find(asked).name == host


@pytest.mark.parametrize(
    "asked", ["", " ", ".", "c", "c11", "c2.other.org", "c3.c.org", "example.org", "*", "c1 c2"]
)
def test_name_is_not_guessed(asked: str) -> None:
    with pytest.raises(UnknownHostError) as unknown:
        NAMES.find(asked)
    assert "/etc/h.toml" in unknown.value.what
    assert "nvmefence hosts show" in unknown.value.advice


def test_short_name_of_two_hosts_is_refused_with_both() -> None:
    with pytest.raises(UnknownHostError, match=r"'c3' could be any of c3\.a\.org, c3\.b\.org"):
        NAMES.find("c3")


def test_exact_alias_wins_over_a_short_name() -> None:
    hostmap = parse({"x": {"slot": 0, "aliases": ["c1"]}, "c1.example.org": {"slot": 1}})
    assert hostmap.find("c1").name == "x"
    assert hostmap.find("c1.example.org").name == "c1.example.org"


def test_close_miss_names_the_nearest_host() -> None:
    with pytest.raises(UnknownHostError, match=r"did you mean 'c2\.example\.org'"):
        NAMES.find("c2.exampel.org")


# Expected drives


def test_count_is_met_exactly() -> None:
    hostmap = parse(count=2)
    two = [drive("S1"), drive("S2")]
    assert hostmap.select(two) == (two, [])
    assert hostmap.select(two[:1]).missing == ["1 of 2 drives missing"]
    assert hostmap.select([]).missing == ["2 of 2 drives missing"]
    over = hostmap.select([*two, drive("BOOT")])
    assert "3 drives found, 2 expected (S1, S2, BOOT)" in over.missing[0]


@pytest.mark.parametrize("pattern", ["BOOT*", "nqn.BOOT", "*SSD", "B[O]OT"])
def test_ignored_drives_count_for_nothing(pattern: str) -> None:
    hostmap = parse(count=1, ignore=[pattern])
    shared = drive("S1")
    assert hostmap.select([drive("BOOT", model="boot SSD"), shared]) == ([shared], [])


def test_ignore_is_case_sensitive() -> None:
    assert parse(count=1, ignore=["boot"]).select([drive("BOOT"), drive("S1")]).missing


@pytest.mark.parametrize("by", ["serials", "nqns"])
def test_named_drives_are_chosen_and_the_absent_named(by: str) -> None:
    prefix = "" if by == "serials" else "nqn."
    names: dict[str, Any] = {by: [f"{prefix}S1", f"{prefix}S2"]}
    hostmap = parse(**names)
    one, two, boot = drive("S1"), drive("S2"), drive("BOOT")
    assert hostmap.select([boot, one, two]) == ([one, two], [])
    assert hostmap.select([boot, one]) == ([one], [f"drive {prefix}S2 missing"])


def test_two_drives_of_one_name_are_both_cut_and_never_certain() -> None:
    one = drive("S1")
    twin = Drive("nqn.other", "S1", "M", "1", (local(0),))
    chosen, missing = parse(serials=["S1"]).select([one, twin])
    assert chosen == [one, twin]
    assert "2 drives call themselves S1" in missing[0]


def test_expected_drive_that_is_ignored_is_missing() -> None:
    assert parse(serials=["S1"], ignore=["S*"]).select([drive("S1")]) == ([], ["drive S1 missing"])


def test_controllers_of_one_subsystem_are_one_drive() -> None:
    found = group([("nqn.1", "S1", "M", "1", local(n)) for n in (5, 2)])
    assert [[c.cntlid for c in d.controllers] for d in found] == [[2, 5]]


# Own controllers


@pytest.mark.parametrize(
    ("own", "expected"), [("visible", [0, 4, 9, 2]), ("physical", [0, 9]), ([4, 2], [4, 2]), ([77], [])]
)
def test_own_controllers_come_live_first_then_physical(own: Any, expected: list[int]) -> None:
    here = drive(own=[local(2, vf=True, state="dead"), local(4, vf=True), local(9, state="resetting"), local(0)])
    order = [c.cntlid for c in parse(count=1, own=own).own_controllers(here)]
    assert sorted(order) == sorted(expected)
    assert order == [c for c in (0, 4, 9, 2) if c in expected]


# Controllers on a drive


def refusal(hosts: dict[str, Any], seen: DriveView, name: str = "a", **drives: Any) -> str:
    hostmap = parse(hosts, **drives)
    with pytest.raises(Refusal) as refused:
        hostmap.resolve(hostmap.find(name), seen)
    return refused.value.reason


VFS = secondaries((4, 1), (5, 2), (6, 3))


def test_controller_zero_found_behind_a_virtual_function_is_refused() -> None:
    seen = view(None, secondaries((0, 1), (5, 2)), drive(own=[local(9)]))
    assert "controller id 0 is refused" in refusal({"a": {"vf": 1}}, seen)


def test_controller_zero_is_cut_where_the_map_allows_it() -> None:
    hostmap = parse({"a": {"controllers": 0}}, count=1, allow_controller_zero=True)
    assert hostmap.resolve(hostmap.find("a"), view(of=drive(own=[local(9)]))) == {0}


@pytest.mark.parametrize("hosts", [{"a": {"controllers": [3, 5]}}, {"a": {"vf": 2}}, {"a": {"slot": 0}}])
def test_own_controller_is_refused(hosts: dict[str, Any]) -> None:
    seen = view(range(9), VFS, drive(own=[local(0), local(5, vf=True)]))
    assert "controller 5 is this machine's own" in refusal(hosts, seen)


def test_virtual_function_that_is_visible_here_may_be_cut_with_own_physical() -> None:
    hostmap = parse({"a": {"vf": 2}}, count=1, own="physical")
    seen = view(None, VFS, drive(own=[local(0), local(5, vf=True)]))
    assert hostmap.resolve(hostmap.find("a"), seen) == {5}


def test_slot_is_the_second_virtual_function_after_it() -> None:
    hostmap = parse({"a": {"slot": 1}})
    assert hostmap.resolve(hostmap.find("a"), view(None, VFS)) == {6}


@pytest.mark.parametrize("name", ["a", "b"])
def test_explicit_id_that_is_another_hosts_virtual_function_is_refused(name: str) -> None:
    hosts = {"a": {"controllers": 5}, "b": {"vf": [2]}}
    assert refusal(hosts, view(range(9), VFS), name) in (
        "controller 5 belongs to a and b alike",
        "controller 5 belongs to b and a alike",
    )


@pytest.mark.parametrize("other", [{"S1": [3]}, {"nqn.S1": [3]}, {"S1": [3, 99]}], ids=str)
def test_id_that_the_map_gives_to_another_host_on_this_drive_is_refused(other: dict[str, Any]) -> None:
    hosts = {"a": {"controllers": 3}, "b": {"controllers": other}}
    assert "belongs to a and b alike" in refusal(hosts, view())


def test_list_position_and_virtual_function_number_must_agree() -> None:
    assert "entry 2 of the Secondary Controller List says virtual function 1" in refusal(
        {"a": {"vf": 2}}, view(None, secondaries((4, 2), (5, 1)))
    )


@pytest.mark.parametrize(
    ("hosts", "seen", "reason"),
    [
        ({"a": {"controllers": [3, 12]}}, view(), "controller 12 does not exist on this drive (it has 0, 1"),
        ({"a": {"controllers": 3}}, view(None), "could not be listed"),
        ({"a": {"controllers": {"S2": 3}}}, view(), "names no controller for this drive"),
        ({"a": {"controllers": {}}}, view(), "names no controller for this drive"),
        ({"a": {"vf": 4}}, view(None, VFS), "virtual function 4 does not exist on this drive (it has 3)"),
        ({"a": {"vf": 1}}, view(None, []), "it is not the drive's primary controller"),
        ({"a": {"vf": 1}}, view(range(9), None), "could not be read through our controller"),
    ],
)
def test_what_cannot_be_named_is_refused(hosts: dict[str, Any], seen: DriveView, reason: str) -> None:
    assert reason in refusal(hosts, seen)


def test_the_drives_own_entry_goes_before_the_one_for_all_drives() -> None:
    hostmap = parse({"a": {"controllers": {"*": 3, "nqn.S2": 4, "S3": 5}}})
    seen = [hostmap.resolve(hostmap.find("a"), view(of=drive(s))) for s in ("S1", "S2", "S3")]
    assert seen == [{3}, {4}, {5}]


def test_another_host_that_cannot_be_named_does_not_save_this_one_from_a_fence() -> None:
    hostmap = parse({"a": {"controllers": 3}, "b": {"vf": 9}})
    assert hostmap.resolve(hostmap.find("a"), view(range(9), VFS)) == {3}
