"""Kubernetes resources out of files: JSON or YAML, one or several in a file, or lists as from `kubectl get`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from nvmefence.errors import AccessError, FileError
from nvmefence.plain import escaped

LIMIT: Final = 32 * 1024 * 1024
"""Bytes of a file that are read at most."""
_MAX_LISTS: Final = 4
"""Lists within lists."""
_MAX_DEPTH: Final = 64
"""Objects and lists within each other."""
_MOST: Final = 1 << 64
"""A whole number is less than that; Python reads any, and then cannot write it."""
_SPACE: Final = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource, as it was read."""

    kind: str
    group: str
    version: str
    name: str
    namespace: str
    body: dict[str, Any]
    source: str
    """The file's name."""

    def words(self) -> str:
        """Say which one it is, and where it came from."""
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return escaped(f"{self.kind} {where} ({self.group}/{self.version}) in {self.source}")


def read(text: str, source: str) -> list[Resource]:
    """Return the resources in a file's text. Raises FileError: file, place, reason; AccessError without PyYAML."""
    found: list[Resource] = []
    for number, document in enumerate(_documents(text, source), 1):
        if document is not None:
            _check_inside(document, source, f"document {number}")
            found += _resources(document, "", source, f"document {number}", _MAX_LISTS)
    return found


def _documents(text: str, source: str) -> Iterator[Any]:
    if text.lstrip().startswith(("{", "[")):
        yield from _json_documents(text, source)
    elif text.strip():
        yield from _yaml_documents(text, source)


def _json_documents(text: str, source: str) -> Iterator[Any]:
    """Yield one value after the other, as `cat` puts files of them together."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_doubles)
    place = _behind_space(text, 0)
    try:
        while place < len(text):
            document, place = decoder.raw_decode(text, place)
            yield document
            place = _behind_space(text, place)
    except json.JSONDecodeError as error:
        raise _refused(source, f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except _Double as error:
        raise _refused(source, str(error)) from None
    except (RecursionError, ValueError):
        raise _refused(source, "not JSON that can be read: nested too deeply, or a number too long") from None


def _behind_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


class _Double(Exception):
    """A key is there twice, so that nobody can tell which value is meant."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Double("a key is there twice in one object")
    return made


def _yaml_documents(text: str, source: str) -> Iterator[Any]:
    try:
        import yaml
    except ImportError:
        raise AccessError(
            f"{source} is YAML, and PyYAML is not installed",
            "install it (Debian: python3-yaml; pip: nvmefence[nnf]), or use kubectl get ... -o json",
        ) from None

    class Loader(yaml.SafeLoader):
        """Takes plain data only, no key twice, and no references, which `kubectl` never writes."""

        def compose_node(self, parent: Any, index: int) -> Any:
            if self.check_event(yaml.AliasEvent):
                event: Any = self.peek_event()  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem="a reference (*)", problem_mark=event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys: set[Any] = set()
            for node_of_key, _ in node.value:
                key = self.construct_object(node_of_key, deep=True)
                keys_before = len(keys)
                keys.add(key)
                if len(keys) == keys_before:
                    mark = node_of_key.start_mark
                    raise yaml.MarkedYAMLError(problem=f"the key {key!r} is there twice", problem_mark=mark)
            return super().construct_mapping(node, deep=deep)

    try:
        yield from yaml.load_all(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" at line {mark.line + 1} column {mark.column + 1}"
        raise _refused(source, f"not YAML that can be read: {error.problem}{where}") from None
    except Exception as error:  # of a tag such as !!timestamp it raises whatever comes of the text behind it
        raise _refused(source, f"not YAML that can be read: {type(error).__name__}") from None


def _check_inside(document: Any, source: str, where: str) -> None:
    """Raise FileError for what could be read and cannot be shown."""
    level: list[Any] = [document]
    for _depth in range(_MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list | tuple | set):
                below.extend(value)
            elif isinstance(value, int) and abs(value) >= _MOST:
                raise _refused(source, f"{where}: a number has too many digits")
        if not below:
            return
        level = below
    raise _refused(source, f"{where}: nested more than {_MAX_DEPTH} levels deep")


def _resources(document: Any, kind_of_list: str, source: str, where: str, lists: int) -> Iterator[Resource]:
    if not isinstance(document, dict):
        raise _refused(source, f"{where} is no Kubernetes resource", "give what kubectl get ... -o json prints")
    kind = _text(document, "kind", source, where, kind_of_list)
    items = document.get("items")
    if kind.endswith("List") and isinstance(items, list):
        if not lists:
            raise _refused(source, f"{where}: lists within lists")
        of = kind.removesuffix("List")
        for number, one in enumerate(items):
            # A list of the raw API does not repeat kind and version for its items.
            bare = isinstance(one, dict) and of and "kind" not in one
            item = {**one, "kind": of, "apiVersion": document.get("apiVersion")} if bare else one
            yield from _resources(item, of, source, f"{where}, items[{number}]", lists - 1)
        return
    group, _, version = _text(document, "apiVersion", source, where).rpartition("/")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise _refused(source, f"{where} ({kind}) has no metadata")
    name = _text(metadata, "name", source, f"{where} ({kind}), metadata")
    namespace = metadata.get("namespace", "")
    if not isinstance(namespace, str):
        raise _refused(source, f"{where} ({kind}): metadata.namespace must be text")
    yield Resource(kind, group, version, name, namespace, document, source)


def _text(table: dict[str, Any], key: str, source: str, where: str, instead: str = "") -> str:
    value = table.get(key, instead)
    if not isinstance(value, str) or not value:
        shown = f"must be text, is {_shown(value)}" if key in table else "is missing"
        raise _refused(source, f"{where}: {key} {shown}")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"


def _refused(source: str, reason: str, advice: str = "") -> FileError:
    return FileError(escaped(f"{source}: {reason}"), advice)
