"""A whole cluster: one room a node with corosync and pacemakerd, joined by a bridge; ready in five seconds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

from tests.cluster import machine
from tests.cluster.room import Room, RoomError, wait_for

_PREPARED_S = 20.0
_ONLINE_S = 60.0
_NETWORK = "10.99.0."
_TOKEN_MS = 1000
# dc-deadtime: a node that finds no coordinator waits this long before it becomes one, by default 20 s.
# load-threshold 0: the cluster does not slow down because this machine is busy with other tests.
_CIB = """\
<cib validate-with="pacemaker-3.9" crm_feature_set="3.0.0" admin_epoch="0" epoch="1" num_updates="0">
  <configuration>
    <crm_config>
      <cluster_property_set id="cib-bootstrap-options">
        <nvpair id="cib-bootstrap-options-dc-deadtime" name="dc-deadtime" value="2s"/>
        <nvpair id="cib-bootstrap-options-load-threshold" name="load-threshold" value="0%"/>
      </cluster_property_set>
    </crm_config>
    <nodes/>
    <resources/>
    <constraints/>
  </configuration>
  <status/>
</cib>
"""


class Cluster:
    """Nodes by name; the first is the one that commands are given on unless another is said."""

    def __init__(self, names: list[str], folder: Path, *, token_ms: int = _TOKEN_MS, at_home: str = "") -> None:
        """`token_ms`: so long a node may be silent before the others count it as lost.

        The node `at_home` lives in this machine's own network: the kernel's DLM knows no other.
        """
        self._folder = folder
        self._names = names
        self._token_ms = token_ms
        self._at_home = at_home
        self._authkey = os.urandom(128)
        self.nodes: dict[str, Room] = {}
        self._switch: Room | None = None
        try:
            self._bring_up()
        except BaseException:
            self.stop()
            raise

    def _bring_up(self) -> None:
        self._switch = Room("switch", self._folder / "switch", "switch.sh")
        for name in self._names:
            self._make(name)
        for room in (self._switch, *self.nodes.values()):
            wait_for(f"{room.name} has its files", partial(_prepared, room), _PREPARED_S)
        for number, room in enumerate(self.nodes.values(), 1):
            self._plug_in(number, room)
        wait_for("all nodes are online", self._all_online, _ONLINE_S, 0.2)

    def _make(self, name: str) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prepared").unlink(missing_ok=True)
        (folder / "authkey").write_bytes(self._authkey)
        (folder / "cib.xml").write_text(_CIB)
        (folder / "corosync.conf").write_text(self._corosync())
        (folder / "hosts").write_text(self._hosts())
        namespaces = [one for one in machine.NAMESPACES if one != "--net" or name != self._at_home]
        self.nodes[name] = Room(name, folder, "node.sh", machine.agents(), namespaces=namespaces)

    def start(self, name: str) -> None:
        """Start a node that was killed, and wait until all are online."""
        self._make(name)
        wait_for(f"{name} has its files", partial(_prepared, self.nodes[name]), _PREPARED_S)
        self._plug_in(self._names.index(name) + 1, self.nodes[name])
        wait_for("all nodes are online", self._all_online, _ONLINE_S, 0.2)

    def _corosync(self) -> str:
        lines = ["totem {", "version: 2", "cluster_name: test", "transport: knet", f"token: {self._token_ms}"]
        lines += ["crypto_cipher: none", "crypto_hash: none", "}", "nodelist {"]
        for number, name in enumerate(self._names, 1):
            lines += ["node {", f"ring0_addr: {_NETWORK}{number}", f"name: {name}", f"nodeid: {number}", "}"]
        lines += ["}", "quorum {", "provider: corosync_votequorum"]
        if len(self._names) == 2:
            lines += ["two_node: 1", "wait_for_all: 0"]
        lines += ["}", "logging {", "to_stderr: yes", "to_logfile: no", "to_syslog: no", "}"]
        return "\n".join(lines) + "\n"

    def _hosts(self) -> str:
        lines = ["127.0.0.1 localhost"]
        lines += [f"{_NETWORK}{number} {name}" for number, name in enumerate(self._names, 1)]
        return "\n".join(lines) + "\n"

    def _plug_in(self, number: int, room: Room) -> None:
        """Give a node its link. Both ends are made inside: this machine's own network sees neither."""
        assert self._switch is not None
        port, address = f"port{number}", f"{_NETWORK}{number}/24"
        link = ("link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", str(room.init))
        self._switch.ip(*link)
        self._switch.ip("link", "set", port, "master", "switch", "up")
        room.ip("address", "add", address, "dev", "eth0")
        room.ip("link", "set", "eth0", "up")

    def _all_online(self) -> bool:
        for room in self.nodes.values():
            room.check()
            with contextlib.suppress(RoomError):
                states = self.states(room.name)
                if sorted(states) == sorted(self._names) and all(s["online"] == "true" for s in states.values()):
                    continue
            return False
        return True

    def room(self, node: str = "") -> Room:
        """Return a node's room."""
        return self.nodes[node or next(iter(self.nodes))]

    def run(self, *command: str, node: str = "", limit_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on a node to its end."""
        return self.room(node).run(*command, limit_s=limit_s)

    def pcs(self, *words: str, node: str = "", limit_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run pcs on a node to its end."""
        return self.run("pcs", *words, node=node, limit_s=limit_s)

    def monitor(self, node: str = "") -> ET.Element:
        """Return what crm_mon says as XML. Raises RoomError while the cluster does not answer."""
        return ET.fromstring(self.room(node).must("crm_mon", "--one-shot", "--inactive", "--output-as=xml"))

    def states(self, node: str = "") -> dict[str, dict[str, str]]:
        """Return the attributes of each node in a node's view: online, unclean and others, "true" or "false"."""
        nodes = self.monitor(node).find("nodes")
        return {found.attrib["name"]: found.attrib for found in nodes or ()}

    def log(self, node: str = "") -> str:
        """Return a node's pacemaker.log."""
        return self.room(node).inside("/var/log/pacemaker/pacemaker.log").read_text(errors="replace")

    def kill(self, node: str) -> None:
        """End a node as a power cut does: nothing of it says goodbye."""
        self.nodes[node].kill()

    def stop(self) -> None:
        """End everything."""
        for room in (*self.nodes.values(), self._switch):
            if room is not None:
                room.kill()


def _prepared(room: Room) -> bool:
    room.check()
    return (room.folder / "prepared").exists()
