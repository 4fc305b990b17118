"""The host map from NNF's resources: what is understood, and what is refused, with what, where, and what to do."""

from __future__ import annotations

import copy
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmefence.cli.hosts_import import as_map
from nvmefence.errors import AccessError, FileError
from nvmefence.inventory import hostfile
from nvmefence.inventory.selectors import ByVirtualFunction
from nvmefence.nnf import documents
from nvmefence.nnf.layout import layout
from tests.nnf.resources import RABBIT, SERIALS, listed, node, system


def made(*found: Any, rabbit: str | None = None, drives: int | None = None) -> str:
    text = json.dumps(listed(*found))
    return as_map(layout(documents.read(text, "file.json"), rabbit), drives)


def refused(*found: Any, rabbit: str | None = None, drives: int | None = None) -> str:
    with pytest.raises(FileError) as caught:
        made(*found, rabbit=rabbit, drives=drives)
    return str(caught.value)


def slots(text: str) -> dict[str, int | None]:
    hostmap = hostfile.parse(tomllib.loads(text), "map")
    found = {}
    for host in hostmap.hosts.values():
        assert isinstance(host.selector, ByVirtualFunction)
        found[host.name] = host.selector.slot
    return found


def test_both_resources_make_the_map_of_their_rabbit() -> None:
    text = made(system({RABBIT: {0: "c1", 1: "c2"}, "rabbit-2": {0: "d1"}}), node())
    hostmap = hostfile.parse(tomllib.loads(text), "map")
    assert slots(text) == {"c1": 0, "c2": 1}
    assert hostmap.expected.serials == SERIALS
    assert "spec.storageNodes[0].computesAccess[1], and status.servers[2] (id 2) says the same" in text


def test_a_slot_is_the_index_in_one_and_the_id_less_one_in_the_other() -> None:
    computes = {0: "a", 7: "b", 15: "c"}
    assert slots(made(system({RABBIT: computes}), drives=18)) == {"a": 0, "b": 7, "c": 15}
    assert slots(made(node(computes, slots=16))) == {"a": 0, "b": 7, "c": 15}


def test_a_person_can_say_how_many_drives_there_are() -> None:
    hostmap = hostfile.parse(tomllib.loads(made(system(), drives=18)), "map")
    assert (hostmap.expected.count, hostmap.expected.serials) == (18, ())


@pytest.mark.parametrize(
    "document",
    [
        listed(system(), node()),
        {"apiVersion": "v1", "kind": "List", "items": [listed(system()), listed(node())]},
        listed({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}, system(), node()),
    ],
)
def test_lists_and_what_else_is_in_them_are_taken(document: Any) -> None:
    found = layout(documents.read(json.dumps(document), "f"), None)
    assert [one.name for one in found.computes] == ["c1", "c2"]


def test_a_list_of_the_raw_api_names_the_kind_once() -> None:
    items = [{k: v for k, v in node().items() if k not in ("kind", "apiVersion")}]
    raw = {"apiVersion": "nnf.cray.hpe.com/v1alpha11", "kind": "NnfNodeList", "metadata": {}, "items": items}
    (one,) = documents.read(json.dumps(raw), "f")
    assert (one.kind, one.version, one.namespace) == ("NnfNode", "v1alpha11", RABBIT)


def test_yaml_of_several_documents_and_json_after_json_are_taken() -> None:
    several = f"---\n{yaml.safe_dump(system())}---\n{yaml.safe_dump(node())}---\n"
    after = json.dumps(system()) + "\n" + json.dumps(node(), indent=2)
    for text in (several, after):
        assert slots(as_map(layout(documents.read(text, "f"), None), None)) == {"c1": 0, "c2": 1}


def test_json_needs_no_pyyaml_and_yaml_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert slots(made(node())) == {"c1": 0, "c2": 1}
    with pytest.raises(AccessError, match=r"PyYAML is not installed.*kubectl get"):
        documents.read("kind: NnfNode\n", "f.yaml")


def changed(resource: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy in which one value is another; None: is gone."""
    copied = copy.deepcopy(resource)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place: Any = copied
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return copied


ACCESS = "spec/storageNodes/0/computesAccess"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([system({"r1": {0: "a"}, "r2": {0: "b"}})], r"2 Rabbits are there: r1, r2; choose one with --rabbit NAME"),
        ([node(), node(rabbit="r2")], "2 Rabbits are there"),
        ([system(), system()], "two resources say who is where"),
        ([node(), node()], "there twice"),
        ([system({RABBIT: {0: "a", 1: "a"}})], "a is there twice, in slots 0 and 1"),
        ([system({RABBIT: {0: "a", 1: "A"}})], "A is there twice, in slots 0 and 1"),
        ([system({RABBIT: {0: "a"}, "r2": {3: "a"}}), node({0: "a"})], "a is attached to rabbit-1 and to another"),
        ([changed(system(), f"{ACCESS}/1/index", 0)], r"computesAccess\[1\]: slot 0 is that of c1 too"),
        ([changed(system(), f"{ACCESS}/1/index", 16)], r"index must be a slot from 0 to 15, is 16"),
        ([changed(system(), f"{ACCESS}/1/index", -1)], "index must be a slot from 0 to 15, is -1"),
        ([changed(system(), f"{ACCESS}/1/index", True)], "index must be a slot from 0 to 15, is True"),
        ([changed(system(), f"{ACCESS}/1/index", "1")], "index must be a slot"),
        ([changed(system(), f"{ACCESS}/1/index", None)], "index must be a slot from 0 to 15, is None"),
        ([changed(system(), f"{ACCESS}/1/name", 12)], "name must be text, is 12; in YAML, put it into quotation"),
        ([changed(system(), f"{ACCESS}/1/name", "a b")], "is no host name"),
        ([changed(system(), f"{ACCESS}/1/name", "x]\n[drives")], "is no host name"),
        ([changed(system(), "spec/storageNodes", None)], "spec.storageNodes is missing"),
        ([changed(system(), "spec/storageNodes/0/type", "Lustre")], "has no storage node of type Rabbit"),
        ([changed(system(), "apiVersion", "dataworkflowservices.github.io/v1alpha8")],
         "version 'v1alpha8' is not known; known are v1alpha1 to v1alpha7; ask the server"),
        ([changed(node(), "apiVersion", "nnf.cray.hpe.com/v1")], "version 'v1' is not known"),
        ([changed(node(), "apiVersion", "example.org/v1alpha10")], "API group 'example.org' is not known"),
        ([changed(node(), "status", None)], "status.servers is missing, so nothing says who is where"),
        ([system(), changed(node(), "status", None)], "nothing says which drives rabbit-1 has; give its"),
        ([system()], r"nothing says which drives rabbit-1 has.*or --drives N"),
        ([node({})], "no compute is attached to rabbit-1"),
        ([system(), node({0: "c1", 1: "other"})], "slot 1: SystemConfiguration says c2 and NnfNode says other"),
        ([system(), node({0: "c1"})], "slot 1: SystemConfiguration says c2 and NnfNode says nobody"),
        ([node({0: "c1", 1: "c1"})], "c1 is there twice, in slots 0 and 1"),
        ([changed(node(), "status/servers/2/id", "1")], "the id '1' is there twice"),
        ([changed(node(), "status/servers/2/id", "17")], "id must be a server from 0 to 16, is '17'"),
        ([changed(node(), "status/servers/2/id", "x")], "id must be a server from 0 to 16"),
        ([changed(node(), "status/drives/1/serialNumber", "SIM00000")], "serial number SIM00000 is there twice"),
        ([changed(node(), "status/drives/1/serialNumber", None)],
         r"1 of 3 drives of rabbit-1 have no serial number: slot 2 \(Ready\); a drive that the map leaves out"),
        ([changed(node(), "status/drives", [])], "nothing says which drives"),
        ([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}], "only: Pod; get them: kubectl get"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_refused_with_what_where_and_what_to_do(found: list[Any], says: str) -> None:
    with pytest.raises(FileError, match=says):
        made(*found)


def test_a_rabbit_that_is_not_there_is_refused_and_one_that_is_asked_for_is_taken() -> None:
    two = system({"r1": {0: "a"}, "r2": {0: "b"}})
    assert slots(made(two, rabbit="r2", drives=1)) == {"b": 0}
    assert "there is no Rabbit r3; there are: r1, r2" in refused(two, rabbit="r3")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON: .* line 1"),
        ('{"kind": "NnfNode", "kind": "Pod"}', "a key is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "document 1 is no Kubernetes resource"),
        ("kind: [", "not YAML that can be read: .* at line"),
        ("kind: A\nkind: B\n", "the key 'kind' is there twice at line 2"),
        ("a: &x [1]\nb: *x\n", r"a reference \(\*\) at line 2"),
        ("a: !!python/object/apply:os.system [x]\n", "not YAML that can be read"),
        ("just words", "is no Kubernetes resource"),
        ('{"kind": "NnfNode", "metadata": {"name": "x"}}', "apiVersion is missing"),
        ('{"kind": "NnfNode", "apiVersion": "v1"}', "has no metadata"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_resource_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(FileError, match=f"^f: .*{says}"):
        documents.read(text, "f")


def test_names_from_a_file_cannot_steer_a_terminal_or_become_keys(tmp_path: Path) -> None:
    evil = changed(node(), "metadata/name", "x\x1b[2J\nversion = 2")
    text = made(evil)
    assert "\x1b" not in text
    assert slots(text) == {"c1": 0, "c2": 1}
    (tmp_path / "map.toml").write_text(text)
    assert hostfile.load(tmp_path / "map.toml").expected.serials == SERIALS


_ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 20)
    | st.sampled_from(["", "c1", "Rabbit", "0", "1", "x y", "\x1b", "9" * 5000, 2**70, float("nan"), float("inf")]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "index", "id"]), inner),
    max_leaves=4,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in items for place in _places(one, (*path, key)))]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_is_in_a_resource_a_map_is_good_or_refused(data: st.DataObject) -> None:
    document = listed(system(), node())
    for place in data.draw(st.lists(st.sampled_from(_places(document)[1:]), min_size=1, max_size=3)):
        here: Any = document
        try:
            for key in place[:-1]:
                here = here[key]
            here[place[-1]] = data.draw(_ODD)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took that place away
    drives = data.draw(st.none() | st.just(3))
    text, refusal = "", ""
    try:
        text = as_map(layout(documents.read(json.dumps(document), "f"), None), drives)
    except FileError as error:
        refusal = str(error)
    assert "\x1b" not in refusal
    assert refusal or hostfile.parse(tomllib.loads(text), "map").hosts


BREAKING = (
    "a: !!timestamp x",
    "a: !!bool x", "a: !!int ''", "a: !!float ''", "? [a]\n: 1", "? {a: 1}\n: 2", "a: 2001-99-99",
    "a: 0x" + "f" * 6000, "a: -0x" + "f" * 6000, "a: " + "9" * 5000, "a: " + "[" * 3000, "a: " + "{b: " * 3000,
    "- " * 3000, "[" * 100_000, '{"a":' * 100_000, '{"a":' * 200 + "1" + "}" * 200, '{"a": ' + "9" * 5000 + "}",
    "!!python/object:os.system x", "%YAML 9.9\n--- a", "<<: 1", "a: &x [*x]", "&a b: *a", "a: \x07", "\0",
    "a: 1\na: 2",
    '{"a": 1, "a": 2}', "{} [", '"', "? ? ? ?", "!<!> a",
)  # fmt: skip


@pytest.mark.parametrize("text", BREAKING, ids=lambda text: text[:20])
def test_a_resource_that_breaks_its_parser_is_refused_by_its_file_s_name(text: str) -> None:
    with pytest.raises(FileError) as refused:
        layout(documents.read(text, "f"), None)
    assert str(refused.value).startswith("f: ")
    assert str(refused.value).isprintable()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_whatever_a_file_of_yaml_has_it_is_read_or_refused_in_a_line(data: st.DataObject) -> None:
    text = yaml.safe_dump(node())
    tokens = ("", "\n", "- ", ": ", "[", "*a ", *(one for one in BREAKING if len(one) < 100))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.sampled_from((at, at, at + 1, at + 20)))
        text = text[:at] + data.draw(st.sampled_from(tokens)) + text[end:]
    refusal, made = "", ""
    try:
        made = as_map(layout(documents.read(text, "f"), None), 3)
    except FileError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert refusal or hostfile.parse(tomllib.loads(made), "map").hosts


def test_thousands_of_small_documents_and_of_keys_are_read_soon() -> None:
    start = time.monotonic()
    with pytest.raises(FileError):
        documents.read("[] " * 100_000, "f")
    assert len(documents.read(json.dumps(system()) * 3000, "f")) == 3000
    with pytest.raises(FileError, match="kind is missing"):
        documents.read("".join(f"k{n}: 1\n" for n in range(3000)), "f")
    assert time.monotonic() - start < 10
