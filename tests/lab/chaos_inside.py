"""The laboratory's long run, inside the guest: faults, fences and restores of many hosts, and a witness.

    python -m tests.lab.chaos_inside --seed 7 --budget 3600

Round after round: a drive, a fault and some hosts are chosen; the hosts are fenced by agents, by request files
and by `nvmefence detach` while the fault is there or comes; it is mended; who is not surely cut is fenced again;
all get their storage back. Exit code 1 if anything did not hold. The last line of the output is a JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.lab import bringup, faults, observer
from tests.lab.chaos_faults import FAULTS, WATCHER_DEADLINE_S, Fault, Scene, by_name
from tests.lab.chaos_rest import Resting, is_refused
from tests.lab.chaos_tally import Asked, Tally
from tests.lab.guest.product import hosts_toml
from tests.lab.guest.watching import WATCHER, Place
from tests.lab.shape import SHAPES, Shape
from tests.lab.witness import Claim, Witness

FIRST_VF: Final = 2
TIMEOUT_S: Final = 45.0
"""Seconds that an agent waits for its answer."""
SHORT_S: Final = 4.0
SLACK_S: Final = 20.0
"""Seconds beyond its time in which an emulated processor must have an answer or an end."""
RESTART_EVERY: Final = 10
MOST_HOSTS: Final = 4
UNTOLD: Final = "which namespace it was is not on record"
"""Why a restore leaves out what was taken when the drive, or the process, went away: documented."""


class Campaign:
    """Rounds on one Rabbit with one watcher."""

    def __init__(
        self, folder: Path, shape: Shape, seed: int, program: Sequence[str] = (WATCHER,), timeout: float = TIMEOUT_S
    ) -> None:
        """`program` is the module that runs as the watcher, and words for it; `timeout` is what agents give it."""
        self._shape = shape
        self._seed = seed
        self._timeout = timeout
        self._slack = min(SLACK_S, 2 * timeout)
        drives = observer.drives()
        self._serials = [drive.serial for drive in drives]
        self._baseline = bringup.survey()
        self._hosts = [f"compute-{slot}" for slot in range(shape.secondaries - 1)]
        self._ids: dict[str, dict[str, int]] = {host: {} for host in self._hosts}
        for drive in drives:
            with observer.Device(drive.primary.path) as device:
                ids = {found.function: found.cntlid for found in device.secondaries()}
            for slot, host in enumerate(self._hosts):
                self._ids[host][drive.serial] = ids[FIRST_VF + slot]
        self._place = Place(folder, hosts_toml(shape, drives=f"serials = {json.dumps(self._serials)}"), program)
        nodes = folder / "nodes"
        nodes.mkdir()
        self.witness = Witness(self._place.responses, self._ids, nodes)
        self._resting = Resting(self.witness)
        self.tally = Tally(seed)

    def run(self, chosen: list[Fault], budget: float = 0.0, rounds: int = 0) -> dict[str, Any]:
        """Play until the time is over, or so many rounds; return the document."""
        began = time.monotonic()
        deck: list[Fault] = []
        order = random.Random(f"{self._seed} order")
        with contextlib.closing(self._place), self.witness:
            while self.tally.rounds < rounds if rounds else time.monotonic() < began + budget:
                if not deck:  # each fault comes once before any comes again
                    deck = order.sample(chosen, len(chosen))
                self._round(deck.pop())
                self.tally.seconds = time.monotonic() - began
                if self.witness.trouble:
                    self.tally.broken.append(f"the witness gave up: {self.witness.trouble}")
                    break
            else:
                self._wake(all_hosts=True)
            if self._place.stop() != 0:
                self.tally.broken.append("the watcher did not end well")
        self.tally.seconds = time.monotonic() - began
        return self.tally.document(self.witness)

    # One round

    def _round(self, fault: Fault) -> None:
        self._wake()
        number = self.tally.rounds
        rng = random.Random(f"{self._seed} {number} {fault.name}")
        hosts = rng.sample(self._awake, rng.randint(max(2, fault.hosts), MOST_HOSTS))
        scene = Scene(
            rng, self._place, self._shape, rng.choice(self._serials), hosts, self._ids, self.witness
        )  # fmt: skip
        early = fault.timing == "early" or (fault.timing == "any" and rng.random() < 0.5)
        before = self._counts()
        began = time.monotonic()
        try:
            if number % RESTART_EVERY == 0:
                self._restart(scene)
            scene.interrupted = not early or fault.timing == "early" or scene.killed
            asked = self._under_fault(fault, scene, early)
            self._heal()
            if any(one.success is None for one in asked):
                self._put_right()
            else:
                self._recover(scene, fault)
                self._give_back(scene)
        except Exception as error:  # one finding ends its round, not the run
            self.tally.broken.append(f"{fault.name}: {type(error).__name__}: {error}")
            asked = []
            self._put_right()
        self.tally.rounds += 1
        self.tally.of(fault.name)["rounds"] += 1
        after = self._counts()
        where = f"round {number}, {fault.name}, {'before' if early else 'amid'}, {scene.serial}"
        if after != before:
            self._mark(before, where)
        good = sum(a.success is True for a in asked)
        said = "" if after == before else f"  BROKEN: {self._latest(before)}"
        print(f"{where}: {good} of {len(asked)} in {time.monotonic() - began:.1f} s{said}", flush=True)

    def _counts(self) -> tuple[int, int, int]:
        return len(self.tally.broken), len(self.witness.false), len(self.tally.missing)

    def _mark(self, before: tuple[int, int, int], where: str) -> None:
        for found, since in zip((self.tally.broken, self.witness.false, self.tally.missing), before, strict=True):
            found[since:] = [f"{where}: {text}" for text in found[since:]]

    def _latest(self, before: tuple[int, int, int]) -> str:
        lists = (self.tally.broken, self.witness.false, self.tally.missing)
        return " | ".join(text for found, since in zip(lists, before, strict=True) for text in found[since:])

    def _restart(self, scene: Scene) -> None:
        if self.tally.rounds and self._place.stop() != 0:
            self.tally.broken.append("the watcher did not end well")
        self.tally.watchers[scene.start_watcher()] += 1

    def _under_fault(self, fault: Fault, scene: Scene, early: bool) -> list[Asked]:
        with contextlib.ExitStack() as stack:
            if early:
                stack.enter_context(fault.strike(scene))
            asked = list(self._ask(scene, fault))
            if not early:
                time.sleep(0.8 * scene.rng.random() ** 2)
                stack.enter_context(fault.strike(scene))
            for one in asked:
                self._collect(one)
            for one in asked:
                self._judge(one, fault, scene, early)
        scene.unconfirmed.update(one.host for one in asked if one.success is not True)
        return asked

    def _ask(self, scene: Scene, fault: Fault) -> Iterator[Asked]:
        """Ask for each host in some way, processes first: they take a second to begin."""
        rng = scene.rng
        for host in scene.hosts:
            self.witness.asked(host)
        ways = {host: rng.choice(["agent", "request", "request", "detach"]) for host in scene.hosts}
        if fault.name == "agent killed":
            ways[scene.hosts[0]] = "agent"
        for host in sorted(scene.hosts, key=lambda host: ways[host] == "request"):
            timeout = SHORT_S if fault.short_timeout and rng.random() < 0.4 else self._timeout
            one = Asked(host, ways[host], timeout, time.monotonic())
            if one.way == "agent":
                one.agent = self._place.agent("off", host, timeout)
                scene.agents.append(one.agent)
            elif one.way == "detach":
                one.process = self._detach(host, rng, fault)
            else:
                if ways[scene.hosts[0]] != "request":
                    time.sleep(rng.uniform(0, 0.6))
                one.request = self._request("off", host, timeout)
            self.tally.asked[one.way] += 1
            yield one

    def _request(self, action: str, host: str, timeout: float) -> str:
        name = f"{uuid.uuid4()}.json"
        request = {"request_id": name.removesuffix(".json"), "action": action, "target_node": host}
        draft = self._place.requests / f".{name}.tmp"
        draft.write_text(json.dumps({**request, "timeout_s": timeout}))
        draft.chmod(0o640)
        draft.rename(self._place.requests / name)
        return name

    def _command(self, word: str, host: str, *more: str) -> list[str]:
        place = self._place
        return [
            sys.executable, "-m", "nvmefence.cli.main", word, "--hosts", str(place.hosts), "--host", host,
            "--records", str(place.records), *more,
        ]  # fmt: skip

    def _detach(self, host: str, rng: random.Random, fault: Fault) -> subprocess.Popen[str]:
        backends = ["auto", "ioctl", *(["io_uring"] if fault.timing != "early" else [])]
        command = self._command(
            "detach", host, "--json", "--deadline", str(WATCHER_DEADLINE_S), "--quiesce", "auto:0.5",
            "--backend", rng.choice(backends),
        )  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _collect(self, one: Asked) -> None:
        """Wait for the answer, as long as it may take."""
        left = one.began + one.timeout + self._slack - time.monotonic()
        try:
            if one.agent is not None:
                ended = one.agent.end(max(left, 1))
                one.success, one.reason = ended.code == 0, ended.err.strip()
            elif one.process is not None:
                out, err = one.process.communicate(timeout=max(left, 1))
                one.success = one.process.returncode == 0
                one.reason = (json.loads(out)["hosts"][0]["message"] if out else "") + err.strip()
            else:
                data = faults.wait_for(one.request, lambda: self.witness.answer(one.request), max(left, 1))
                document = json.loads(data)
                one.success, one.reason = document["success"] is True, document["message"]
        except (TimeoutError, subprocess.TimeoutExpired):
            self.tally.missing.append(
                f"{one.way} for {one.host} has no answer after {one.timeout + self._slack:g} s"
            )
            if one.process is not None:
                one.process.kill()
            if one.agent is not None:
                one.agent.kill()
        else:
            if one.success and not one.request:
                self.witness.claim(one.host, f"{one.way} for {one.host}")

    def _judge(self, one: Asked, fault: Fault, scene: Scene, early: bool) -> None:
        counter = self.tally.of(fault.name)
        if one.success is None:
            return
        counter["success" if one.success else "failure"] += 1
        if one.success:
            if fault.certain and early:
                self.witness.false.append(
                    f"{one.way} for {one.host} is a success, which nobody can know: {one.reason}"
                )
            return
        if one.agent is not None and fault.name == "agent killed":
            return
        self.tally.reasons[_plain(one.reason)] += 1
        if not fault.fits or not re.search(fault.fits.format(serial=scene.serial), one.reason):
            self.tally.broken.append(
                f"{one.way} for {one.host} failed, and the reason does not fit: {one.reason!r}"
            )
        others = [serial for serial in self._serials if serial != scene.serial and serial in one.reason]
        if "{serial}" in fault.fits and others:
            self.tally.broken.append(f"{one.way} for {one.host} blames another drive: {one.reason!r}")

    # After the fault

    def _heal(self) -> None:
        bringup.heal(self._shape, {})

    def _recover(self, scene: Scene, fault: Fault) -> None:
        """Fence whoever is not surely cut again; all is well, so that it must succeed."""
        faults.wait_for("no request to be left", lambda: not self._place.pending(), self._timeout + self._slack)
        claims = self.witness.claims
        again = [host for host in scene.hosts if host not in claims or claims[host].excused]
        for host in again:
            self.witness.asked(host)
        asked = [
            Asked(h, "request", self._timeout, time.monotonic(), request=self._request("off", h, self._timeout))
            for h in again
        ]
        for one in asked:
            self._collect(one)
            self.tally.of(fault.name)["again"] += 1
            if one.success is False:
                self.tally.broken.append(f"{one.host} was fenced again when all was well: {one.reason}")
        self.witness.settled(2)
        for host in scene.hosts:
            claim = claims.get(host)
            unread = [s for s in self._serials if claim and s not in claim.reads]
            if unread:
                self.tally.broken.append(f"the witness did not see that {host} is cut on {unread}")

    def _give_back(self, scene: Scene) -> None:
        claims = dict(self.witness.claims)
        self.witness.release(scene.hosts)
        unfenced = scene.hosts[0] if scene.rng.random() < 0.15 else ""
        by_command = scene.hosts[-1] if scene.rng.random() < 0.5 else ""
        names = [
            (host, self._request("on", host, self._timeout))
            for host in scene.hosts
            if host not in (unfenced, by_command)
        ]
        for word, host in (("unfence", unfenced), ("restore", by_command)):
            if host:
                self._by_command(scene, word, host, claims.get(host))
        for host, name in names:
            one = Asked(host, "on", self._timeout, time.monotonic(), request=name)
            self._collect(one)
            self.tally.restores["on"] += 1
            if one.success is False and not self._rests(scene, host, one.reason, claims.get(host)):
                self._left_out(scene, host, f"on for {host}: {one.reason}")
        if unfenced and unfenced not in self._resting.hosts:
            self._compare(scene, {unfenced}, allowed=True)
        self._compare(scene, set(self._awake), allowed=False)
        self._place.archive(self._resting.hosts)

    @property
    def _awake(self) -> list[str]:
        return [host for host in self._hosts if host not in self._resting.hosts]

    def _rests(self, scene: Scene, host: str, text: str, claim: Claim | None) -> bool:
        """Whether a restore was rightly refused: a drive may still carry out commands of a fence that failed."""
        if not (host in scene.unconfirmed and is_refused(text)):
            return False
        self._resting.put(host, scene, claim)
        self.tally.restores["refused for a while"] += 1
        return True

    def _wake(self, all_hosts: bool = False) -> None:
        """Give hosts back for which the time is over; wait for it where too few are left, or all are wanted."""
        most = 0 if all_hosts else len(self._hosts) - MOST_HOSTS
        self._wake_some(most)
        while len(self._resting.hosts) > most:  # some rest on, for so long as they may
            self._wake_some(most)

    def _wake_some(self, most: int) -> None:
        for host, scene in self._resting.over(most):
            before = self._counts()
            back = True
            try:
                back = self._give_back_late(host, scene)
            except Exception as error:
                self.tally.broken.append(f"{type(error).__name__}: {error}")
                self._put_right()
            self._mark(before, f"{host}, after its rest")
            said = self._latest(before) or ("has all again" if back else "rests on")
            print(f"{host}, after its rest: {said}", flush=True)

    def _give_back_late(self, host: str, scene: Scene) -> bool:
        """Return whether the host is restored, as far as that goes; False: it rests on."""
        claim = self.witness.claims.get(host)
        self.witness.release([host])
        one = Asked(host, "on", self._timeout, time.monotonic(), request=self._request("on", host, self._timeout))
        self._collect(one)
        self.tally.restores["after a while"] += 1
        if one.success is False and is_refused(one.reason) and self._resting.put(host, scene, claim):
            return False
        self._resting.forget(host)
        if one.success is False:
            self._left_out(scene, host, f"on for {host}: {one.reason}")
        self._compare(scene, {host}, allowed=False)
        self._place.archive(self._resting.hosts)
        return True

    def _left_out(self, scene: Scene, host: str, text: str) -> None:
        """A restore did not give everything back."""
        if UNTOLD in text and scene.interrupted:
            scene.untold.add(host)
            self._by_command(scene, "unfence", host)
        else:
            self.tally.broken.append(text)

    def _by_command(self, scene: Scene, word: str, host: str, claim: Claim | None = None) -> None:
        command = self._command(word, host, "--response-dir", str(self._place.responses), "--json")
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=self._timeout + self._slack, check=False
        )
        self.tally.restores[word] += 1
        text = f"{word} of {host}: exit code {done.returncode}: {done.stdout}{done.stderr}"
        if done.returncode and not self._rests(scene, host, text, claim):
            self._left_out(scene, host, text) if word == "restore" else self.tally.broken.append(text)

    def _compare(self, scene: Scene, hosts: set[str], *, allowed: bool) -> None:
        """Compare the drives with the baseline; what an unfence left, or a kill, is attached by hand."""
        now = bringup.survey()
        differing = [
            (host, serial, nsid)
            for host in hosts
            for serial, namespaces in self._baseline.items()
            for nsid, ids in namespaces.items()
            if (self._ids[host][serial] in ids) != (self._ids[host][serial] in now[serial][nsid])
        ]
        awake = hosts == set(self._awake)
        if awake and not differing and self._without(now) != self._without(self._baseline):
            self.tally.broken.append(f"not as before, though no host's: {now}")
        if not differing:
            return
        lost = set(scene.hosts) if scene.killed else scene.untold
        if not allowed and {host for host, _, _ in differing} <= lost:
            self.tally.by_hand["killed" if scene.killed else "drive went away"] += len(differing)
        elif not allowed:
            self.tally.broken.append(f"not as before after the restore: {sorted(differing)}")
        bringup.restore(self._baseline if awake and not self._resting.hosts else self._only(now, hosts))

    def _without(self, seen: dict[str, dict[int, frozenset[int]]]) -> dict[str, dict[int, frozenset[int]]]:
        """Return what is attached, but for the hosts that rest."""
        return {
            serial: {nsid: ids - {self._ids[h][serial] for h in self._resting.hosts} for nsid, ids in found.items()}
            for serial, found in seen.items()
        }

    def _only(
        self, now: dict[str, dict[int, frozenset[int]]], hosts: set[str]
    ) -> dict[str, dict[int, frozenset[int]]]:
        """Return what is attached now, with these hosts as they were at first."""
        return {
            serial: {
                nsid: ids
                | {self._ids[h][serial] for h in hosts if self._ids[h][serial] in self._baseline[serial][nsid]}
                for nsid, ids in namespaces.items()
            }
            for serial, namespaces in now.items()
        }

    def _put_right(self) -> None:
        """Begin from a known state after a round that broke off: a new watcher, nobody fenced."""
        self._place.close()
        self._resting.clear()
        self.witness.release(self._hosts)
        bringup.heal(self._shape, self._baseline)
        for path in [*self._place.requests.glob("[!.]*.json"), *self._place.records.glob("*.json")]:
            path.unlink()
        self._place.archive()
        self._place.start("auto", "auto:0.5", WATCHER_DEADLINE_S, "--agents-may-restore")


def _plain(reason: str) -> str:
    """Return a reason without what differs from one time to the next."""
    text = re.sub(r"compute-\d+", "HOST", reason.splitlines()[-1] if reason else "(nothing)")
    text = re.sub(r"RABBIT\d+", "DRIVE", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    return re.sub(r"\b(?<!h)\d+(\.\d+)?\b", "N", text)[:200]


def main(words: list[str]) -> int:
    """Run it; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.chaos_inside", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--shape", default="chaos")
    parser.add_argument("--only", action="append", default=[], choices=[fault.name for fault in FAULTS])
    parser.add_argument("--watcher", default=WATCHER, help="the module that runs as the watcher, and words for it")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        campaign = Campaign(Path(folder), SHAPES[given.shape], given.seed, given.watcher.split())
        document = campaign.run(by_name(given.only), given.budget, given.rounds)
    print(json.dumps(document), flush=True)
    return 1 if document["findings"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
