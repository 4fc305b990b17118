"""What the directories tell besides one request: are they usable, and which nodes are fenced."""

from __future__ import annotations

import os

from nvmefence.agents import reading
from nvmefence.spool import files
from nvmefence.spool.errors import ReadFailed, Refused, UnsafeName


def unusable(request_dir: str, response_dir: str) -> str:
    """Return why the directories cannot be used for a fence, else an empty string.

    A file is really created in the request directory and removed again: permission bits tell root nothing, and
    neither do they tell of a full disk or of NFS.
    """
    path = request_dir
    try:
        probe = os.path.join(path, f".probe-{os.getpid()}-{os.urandom(4).hex()}.tmp")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
        path = response_dir
        os.listdir(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def fenced_nodes(response_dir: str) -> set[str]:
    """Return the nodes whose successful response stands in the directory: these are cut off.

    Counts as the NNF node manager does: any `*.json` with a target_node and success true or status "success". The
    response to an `on` does not count, nor one that contradicts itself. A file that is no response at all says
    nothing about a node. Raises ReadFailed or DirectoryLost if the directory or
    a file that might tell cannot be read.
    """
    nodes = set()
    with files.open_directory(response_dir) as place:
        try:
            names = os.listdir(place.fd)
        except OSError as error:
            raise ReadFailed(f"cannot list {response_dir!a}: {error.strerror}", error.errno or 0) from None
        for name in names:
            if name.startswith(".") or not name.endswith(".json"):
                continue
            try:
                answer = reading.read_object_in(place, name) or {}
            except (Refused, UnsafeName, reading.Unfinished):
                continue
            node = answer.get("target_node")
            if isinstance(node, str) and _fences(answer):
                nodes.add(node)
    return nodes


def _fences(answer: dict[str, object]) -> bool:
    success, status = answer.get("success"), answer.get("status")
    if "on" in (answer.get("action"), answer.get("action_performed")):
        return False
    if success is False or status == "error":
        return False
    return success is True or status == "success"
