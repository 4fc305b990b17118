"""One hostile host map, settings file or fleet file at a time through its reader: what must hold of each.

Whatever is in it, what comes of it is a ConfigError in a printable line, or something valid: a map by which no host
ever has a controller of another, settings within their bounds.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from nvmefence import settings, tomlfile
from nvmefence.errors import ConfigError
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import Host, HostMap
from nvmefence.inventory.selectors import ByController, DriveView, Refusal
from nvmefence.nvme import fleet_file
from nvmefence.nvme.structures import SecondaryController
from nvmefence.settings import MAX_DEADLINE, MAX_HOSTS, Settings
from tests.fuzz.siege import MEMORY
from tests.fuzz.texts import Fate, Text
from tests.fuzz.toml_texts import Hostile, host_map, settings_file
from tests.fuzz.toml_texts import fleet_file as good_fleet

T = TypeVar("T")
PATH: Final = f"{MEMORY or '/tmp'}/nvmefence-fuzz-{os.getpid()}.toml"
"""Where a text becomes a file."""
_LONGEST: Final = 2000
"""Characters that may be said of a file."""
_VFS: Final = (3, 1, 2, 5, 4, 0)
"""The controller of each virtual function on the drives of this world, from function 1 on."""
_SECONDS: Final = ("deadline", "max_request_age_s", "after_timeout_s", "mass_fence_s")
_DIRECTORIES: Final = ("request_dir", "response_dir", "log_dir", "audit", "records", "hooks_dir", "run_dir")


def make_map(seed: int, number: int) -> Text:
    """Return the host map that a number stands for."""
    return Hostile(random.Random(seed << 40 | number | 1 << 36), host_map).any()


def make_settings(seed: int, number: int) -> Text:
    """Return the settings file that a number stands for."""
    return Hostile(random.Random(seed << 40 | number | 1 << 35), settings_file).any()


def make_fleet(seed: int, number: int) -> Text:
    """Return the fleet file that a number stands for."""
    return Hostile(random.Random(seed << 40 | number | 1 << 34), good_fleet).any()


def map_holds(text: Text, number: int) -> str:
    """Check what becomes of a host map, and return how it ended. Raises AssertionError, or anything."""
    if number % 8 == 0:
        made = _read(text, lambda: hostfile.load(PATH))
    else:
        made = _taken(text, lambda: hostfile.parse(tomlfile.parse_toml(text.data, PATH), PATH))
    if made is None:
        return "refused"
    document = tomllib.loads(text.data.decode())
    _names_hold(made)
    for view in _views():
        _controllers_hold(made, view, document)
    _drives_hold(made, document["drives"])
    return "valid"


def settings_hold(text: Text, _number: int) -> str:
    """Do as `map_holds` with a settings file; what the environment says is refused or taken like it."""
    made = _read(text, lambda: settings.load({"config": PATH}, {}))
    if made is None:
        return "refused"
    document = tomllib.loads(text.data.decode())
    assert document.keys() <= set(settings.KEYS)
    _settings_hold(made)
    untouched = set(settings.KEYS) - document.keys() - {"quiesce"}
    assert all(getattr(made, key) == getattr(Settings(), key) for key in untouched - {"quiesce_models"})
    for key, value in document.items():
        if isinstance(value, str) and key not in settings.FILE_KEYS:
            again = getattr(settings.load({key: value}, {settings.variable(key): value}, spool=True), key)
            there = dataclasses.replace(made.quiesce, models=()) if key == "quiesce" else getattr(made, key)
            assert again == there, f"{key} is {again!r} by the environment, and {there!r} by the file"
    return "valid"


def fleet_holds(text: Text, _number: int) -> str:
    """Do as `map_holds` with a fleet file."""
    made = _read(text, lambda: fleet_file.read_plan(PATH))
    if made is None:
        return "refused"
    assert 0 <= made.latency < math.inf
    assert len({drive.serial for drive in made.drives}) == len({drive.nqn for drive in made.drives}) > 0
    for drive in made.drives:
        ids = (*drive.controllers, *drive.secondaries)
        assert drive.controllers
        assert len(set(ids)) == len(ids)
        assert all(0 <= cntlid <= 0xFFFF for cntlid in ids)
        assert 0 <= drive.late < math.inf
    return "valid"


def _read(text: Text, load: Callable[[], T]) -> T | None:
    """Have a text read out of a file."""
    path = Path(PATH)
    path.write_bytes(text.data)
    try:
        return _taken(text, load)
    finally:
        path.unlink()


def _taken(text: Text, load: Callable[[], T]) -> T | None:
    """Return what was made of a text; None where it was refused as it should be."""
    try:
        made = load()
    except ConfigError as error:
        refused = error
    else:
        assert text.fate is not Fate.MALFORMED, "taken, and it is none"
        return made
    for said in (refused.what, refused.advice, str(refused)):
        assert said.isprintable(), f"not printable: {said!a}"
        assert len(said) <= _LONGEST, f"{len(said)} characters are said"
    assert refused.what.startswith(PATH), f"the file is not named: {refused.what}"
    return None


def _views() -> Sequence[DriveView]:
    """Return drives as they may be read: with and without secondary controllers, and one that nobody named."""
    secondaries = [SecondaryController(cntlid, 0, 1, vf, 2, 2) for vf, cntlid in enumerate(_VFS, 1)]
    own = (LocalController("nvme7", "/dev/nvme7", 7, "", "live", False),)
    return [
        DriveView(Drive(f"nqn.{serial}", serial, "Model", "1", own), range(9), entries)
        for serial, entries in (("S1", secondaries), ("S2", secondaries), ("S1", []), ("S3", secondaries))
    ]


def _names_hold(made: HostMap) -> None:
    names = [name.lower() for host in made.hosts.values() for name in (host.name, *dict.fromkeys(host.aliases))]
    for host in made.hosts.values():
        assert made.find(host.name) is host
        assert all(made.find(alias) is host for alias in host.aliases)
        others = [one for one in made.hosts.values() if one is not host]
        assert not any(host.name.lower() == name.lower() for one in others for name in (one.name, *one.aliases))
    assert all(name.isascii() and name.isprintable() for name in names)


def _controllers_hold(made: HostMap, view: DriveView, document: dict[str, Any]) -> None:
    """Check that each host has the controllers that its table names, and that they are nobody else's."""
    owner: dict[int, str] = {}
    own = {one.cntlid for one in made.own_controllers(view.drive)}
    for host in made.hosts.values():
        try:
            ids = made.resolve(host, view)
        except Refusal:
            continue
        assert ids, f"{host.name} has no controller, and that is no refusal"
        assert ids == _meant(host, view.drive, document), f"{host.name} has others than those of the map"
        assert not ids & own, f"{host.name} has our own"
        assert 0 not in ids or document["drives"]["allow_controller_zero"] is True, f"{host.name} has controller 0"
        for cntlid in ids:
            other = owner.setdefault(cntlid, host.name)
            assert other == host.name, f"controller {cntlid} is that of {host.name} and of {other}"


def _meant(host: Host, drive: Drive, document: dict[str, Any]) -> set[int]:
    """Return what the text says, read another way than the product reads it."""
    table = document["hosts"][host.name]
    if "slot" in table:
        return {_VFS[table["slot"] + 1]}
    value = table["vf"] if "vf" in table else table["controllers"]
    if isinstance(value, dict):
        value = next(value[name] for name in (drive.serial, drive.nqn, "*") if name in value)
    numbers = value if isinstance(value, list) else [value]
    assert isinstance(host.selector, ByController) == ("controllers" in table)
    return {_VFS[number - 1] for number in numbers} if "vf" in table else set(numbers)


def _drives_hold(made: HostMap, document: dict[str, Any]) -> None:
    """Check that nothing is missing only if every drive that is expected is there."""
    expected = made.expected
    assert expected.count == document.get("count")
    assert list(expected.serials) == [name.strip() for name in document.get("serials", [])]
    assert list(expected.nqns) == [name.strip() for name in document.get("nqns", [])]
    assert sum(bool(one) for one in (expected.count, expected.serials, expected.nqns)) == 1
    found = [Drive(f"nqn.{serial}", serial, model, "1", ()) for serial, model in (("S1", "M"), ("S2", "Boot disk"))]
    for there in (found, found[:1], []):
        drives, missing = made.select(there)
        assert set(drives) <= set(there)
        if not missing:
            names = {drive.serial for drive in drives} if expected.serials else {drive.nqn for drive in drives}
            wanted = set(expected.serials or expected.nqns)
            assert len(drives) == expected.count if expected.count else names == wanted


def _settings_hold(made: Settings) -> None:
    assert all(0 < getattr(made, key) <= MAX_DEADLINE for key in _SECONDS)
    assert 0 <= made.vigil_s <= MAX_DEADLINE
    assert made.backend in settings.BACKENDS
    assert 0 <= made.quiesce.seconds < math.inf
    assert all(0 <= seconds < math.inf for _, seconds in made.quiesce.models)
    assert set(made.after) <= set(settings.AFTER)
    assert type(made.mass_fence_hosts) is int
    assert 0 <= made.mass_fence_hosts <= MAX_HOSTS
    assert made.mass_fence_action in settings.MASS_FENCE_ACTIONS
    assert all(type(getattr(made, key)) is bool for key in ("escalate", "agents_may_restore", "enforce"))
    for key in _DIRECTORIES:
        path = getattr(made, key)
        assert os.path.isabs(path)
        assert "\0" not in path
    assert made.metrics == "" or os.path.isabs(made.metrics)
    assert not any("\0" in path for path in (made.hosts, made.simulate, made.metrics))
