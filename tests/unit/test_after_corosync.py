"""Which node a host is: exactly one for certain, or none, with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmefence.after.corosync import SIZE_LIMIT, Node, NotFound, find, nodes

GOOD = """\
# Please read the corosync.conf.5 manual page
totem {
    version: 2
    cluster_name: rabbit
    interface {
        linknumber: 0
    }
}

nodelist {
    node {
        ring0_addr: 10.0.0.1
        name: rabbit-node-1
        nodeid: 1
    }
\tnode {
\t\tring0_addr: compute-2.example.org
\t\tnodeid: 2
\t}
    node{
        ring0_addr: 10.0.0.3
        ring1_addr: fe80::3
        name : Compute-3
        nodeid:4294967295
    }
}
quorum {
    provider: corosync_votequorum
}
logging {
    timestamp: on
}
"""


def written(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "corosync.conf"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o644)
    return str(path)


def nodelist(*entries: str) -> str:
    return "nodelist {\n" + "".join(f"node {{\n{entry}\n}}\n" for entry in entries) + "}\n"


def test_a_node_goes_by_its_name_else_by_its_address() -> None:
    assert nodes(GOOD) == [
        Node("rabbit-node-1", 1),
        Node("compute-2.example.org", 2),
        Node("Compute-3", 4294967295),
    ]


@pytest.mark.parametrize(
    ("names", "nodeid"),
    [
        (["compute-3"], 4294967295),
        (["COMPUTE-3."], 4294967295),
        (["c3", "x", "compute-3"], 4294967295),
        (["compute-2.example.org"], 2),
        (["rabbit-node-1", "10.0.0.1"], 1),
    ],
)
def test_a_host_is_found_by_any_of_its_names(tmp_path: Path, names: list[str], nodeid: int) -> None:
    assert find(written(tmp_path, GOOD), names).nodeid == nodeid


@pytest.mark.parametrize(
    "name", ["compute-2", "example.org", "compute", "10.0.0.1", "10.0.0.3", "fe80::3", "", "4"]
)
def test_nothing_but_the_whole_name_counts(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound, match="no node is called"):
        find(written(tmp_path, GOOD), [name])


def test_names_of_two_nodes_are_no_name(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="rabbit-node-1, Compute-3 could all be the host"):
        find(written(tmp_path, GOOD), ["compute-3", "rabbit-node-1"])


def test_a_node_without_a_number_has_none() -> None:
    assert nodes(nodelist("name: a")) == [Node("a", None)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nodelist("name: a\nnodeid: 1", "name: b\nnodeid: 1"), "two nodes have one nodeid"),
        (nodelist("name: a\nnodeid: 1", "name: A.\nnodeid: 2"), "two nodes have one name"),
        (nodelist("name: a\nnodeid: 1", "ring0_addr: a\nnodeid: 2"), "two nodes have one name"),
        (nodelist("name: a\nname: b\nnodeid: 1"), "line 4: name is there twice"),
        (nodelist("nodeid: 1"), "line 2: a node without a name"),
        (nodelist("name: a b\nnodeid: 1"), "without a name and a ring0_addr that can be used"),
        (nodelist("name: -a\nnodeid: 1"), "without a name and a ring0_addr that can be used"),
        (nodelist("name: a\nnodeid: 0"), "not a nodeid: '0'"),
        (nodelist("name: a\nnodeid: 01"), "not a nodeid: '01'"),
        (nodelist("name: a\nnodeid: 4294967296"), "not a nodeid"),
        (nodelist("name: a\nnodeid: 1 2"), "not a nodeid"),
        (nodelist("name: a\nnodeid: ٣"), "not a nodeid"),
        (nodelist("name: a\nnodeid: 1\n} node {"), "line 5: not understood: '} node {'"),
        (nodelist("name: a # one\nnodeid: 1"), "without a name and a ring0_addr that can be used"),
        ("nodelist {\nnode { name: a\nnodeid: 1 }\n}\n", "line 2: not understood"),
        ("nodelist {\nnode {\nname: a\n}\n", "the section nodelist has no end"),
        ("}\n", "line 1: not understood"),
        ("a {\n" * 9, "line 9: sections within sections"),
        ("words\n", "line 1: not understood: 'words'"),
        (nodelist("name: a\u2028nodeid: 1"), "without a name and a ring0_addr that can be used"),
    ],
)
def test_what_is_not_understood_is_refused_as_a_whole(text: str, reason: str) -> None:
    with pytest.raises(NotFound) as refusal:
        nodes(text)
    assert reason in str(refusal.value)
    assert str(refusal.value).isascii()


def test_two_lists_of_nodes_are_one() -> None:
    text = nodelist("name: a\nnodeid: 1") + nodelist("name: b\nnodeid: 2")
    assert [node.nodeid for node in nodes(text)] == [1, 2]
    with pytest.raises(NotFound):
        nodes(text + nodelist("name: a\nnodeid: 3"))


def test_a_node_section_elsewhere_is_none() -> None:
    assert nodes("x {\nnode {\nname: a\nnodeid: 1\n}\n}\nnodelist {\ny {\nnode {\nname: b\n}\n}\n}\n") == []


@pytest.mark.parametrize("what", ["missing", "writable", "foreign", "link", "pipe", "directory", "large", "bytes"])
def test_a_file_that_another_can_have_written_is_not_read(tmp_path: Path, what: str) -> None:
    path = Path(written(tmp_path, GOOD))
    if what == "writable":
        path.chmod(0o664)
    elif what == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(path, 1234, 0)
    elif what == "large":
        path.write_text(GOOD + "#" * SIZE_LIMIT)
    elif what == "bytes":
        path.write_bytes(GOOD.encode() + b"# \xff\n")
    else:
        path.unlink()
        if what == "link":
            (tmp_path / "real").write_text(GOOD)
            path.symlink_to(tmp_path / "real")
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "directory":
            path.mkdir()
    with pytest.raises(NotFound, match=r"corosync\.conf"):
        find(str(path), ["rabbit-node-1"])


def test_an_address_is_told_from_a_name() -> None:
    assert [Node(name, 1).is_address for name in ("10.0.0.1", "fe80::1", "c1", "10.a", "1e3")] == [
        True, True, False, False, False,
    ]  # fmt: skip


@given(st.text(alphabet=st.sampled_from(list("node list{}:#\n\r\t ab1\0é")), max_size=80))
def test_no_text_does_anything_but_give_nodes_or_be_refused(text: str) -> None:
    try:
        found = nodes(nodelist("name: x\nnodeid: 7") + text)
    except NotFound:
        return
    assert Node("x", 7) in found
