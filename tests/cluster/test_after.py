"""After a fence, with a real cluster: Pacemaker takes our word for a node that it could not fence itself."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cluster.nodes import Cluster
from tests.cluster.room import wait_for
from tests.cluster.test_node_loss import VICTIM, fenced

pytestmark = pytest.mark.cluster
TELL = """
import json, sys
from nvmefence.after.actions import Fence, Options, tell_cluster
options = Options(("dlm", "stonith"), "/nowhere", "/etc/corosync/corosync.conf", 20.0)
name = sys.argv[1]
fence = Fence("c-1", ("c-1", name), name, "off", "Fenced", "2026-11-25T12:00:00Z", False)
print(json.dumps([done.to_json() for done in tell_cluster(options, fence)]))
"""


def test_pacemaker_takes_our_word_for_a_node_that_nobody_fenced(pair: Cluster) -> None:
    pair.pcs("property", "set", "stonith-enabled=true")
    pair.kill(VICTIM)
    wait_for("the dead node is unclean", lambda: pair.states()[VICTIM]["unclean"] == "true", 60)
    done = pair.run(sys.executable, "-c", TELL, VICTIM)
    assert done.returncode == 0, done.stderr
    dlm, stonith = json.loads(done.stdout)
    assert (stonith["good"], stonith["text"]) == (True, f"{VICTIM} confirmed"), stonith
    assert not dlm["good"]  # there is no dlm_controld here
    wait_for("the dead node counts as fenced", lambda: fenced(pair), 60)


def test_a_node_that_the_cluster_does_not_have_is_not_confirmed(pair: Cluster) -> None:
    done = pair.run(sys.executable, "-c", TELL, "compute-node-9")
    _, stonith = json.loads(done.stdout)
    assert (stonith["good"], stonith["exit"]) == (False, None)
    assert "no node is called c-1, compute-node-9" in stonith["text"]
