"""A Kubernetes API server that has one NnfNode: it takes what a real one would take, and fails on demand.

What it does is what the API conventions say (kubernetes/community, sig-architecture/api-conventions.md: Status
objects, optimistic concurrency) and RFC 6902: a patch that does not apply is 422, a version that is not served is a
404 that is no Status object.
"""

from __future__ import annotations

import base64
import copy
import ctypes
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import jsonschema

from tests.nnf.schema import check_node

TOKEN: Final = "a-token-of-the-reporter"
_PATH: Final = re.compile(r"/apis/nnf\.cray\.hpe\.com/(\w+)/namespaces/([^/]+)/nnfnodes/([^/]+)(/status)?")
_CLONE_NEWNET: Final = 0x40000000
_JSON_PATCH: Final = "application/json-patch+json"


class ApiServer:
    """The server's state, what was asked of it, and what it shall do wrong."""

    def __init__(self, node: dict[str, Any], *, versions: tuple[str, ...] = ("v1alpha10",)) -> None:
        self.node = node
        self.versions = versions
        self.token = TOKEN
        self.forbidden = False
        self.faults: list[str] = []
        """What becomes of the next requests, one each: a status code, "slow", "drop", "html" or "" (well)."""
        self.delay_s = 0.0
        self.requests: list[tuple[str, str]] = []
        self.patches: list[list[dict[str, Any]]] = []
        """Those that were taken."""
        self.refused: list[str] = []
        """Why a request broke the rules; a test looks that there is nothing."""
        self.changed: Callable[[dict[str, Any]], None] = lambda _node: None
        """What a controller does after a change, on the resource itself."""
        self.lock = threading.Lock()
        self.url = ""

    def statuses(self) -> dict[str, str]:
        """Return what the resource says of each host."""
        with self.lock:
            servers = self.node["status"]["servers"]
            return {one["hostname"]: one["status"] for one in servers if "hostname" in one and one["id"] != "0"}

    def put(self, host: str, status: str) -> None:
        """Set a host's status, as a node manager does."""
        with self.lock:
            for server in self.node["status"]["servers"]:
                if server.get("hostname") == host:
                    server["status"] = status
            self.bump()

    def bump(self) -> None:
        self.node["metadata"]["resourceVersion"] = str(int(self.node["metadata"]["resourceVersion"]) + 1)

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Return status code and body of the answer."""
        url = urlsplit(target)
        if headers.get("Authorization") != f"Bearer {self.token}":
            return _failed(401, "Unauthorized", "Unauthorized")
        match = _PATH.fullmatch(url.path)
        if not match or match[1] not in self.versions:
            return 404, "404 page not found\n"
        version, namespace, name, subresource = match.groups()
        if self.forbidden:
            return _failed(403, "Forbidden", f'nnfnodes "{name}" is forbidden: User "reporter" cannot {method}')
        metadata = self.node["metadata"]
        if (namespace, name) != (metadata["namespace"], metadata["name"]):
            return _failed(404, "NotFound", f'nnfnodes.nnf.cray.hpe.com "{name}" not found', name)
        return self.serve(method, subresource, version, headers, parse_qs(url.query), body)

    def serve(
        self, method: str, subresource: str, version: str, headers: Any, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, Any]:
        if method == "GET" and not subresource:
            return 200, {**self.node, "apiVersion": f"nnf.cray.hpe.com/{version}"}
        if method == "PATCH" and subresource:
            return self.patch(headers.get("Content-Type", ""), query, body)
        self.refused.append(f"{method} of {subresource or 'the resource'}")
        return _failed(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def patch(self, kind: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if kind != _JSON_PATCH:
            self.refused.append(kind)
            return _failed(415, "UnsupportedMediaType", f"{kind} is not what the test is about")
        if not query.get("fieldManager"):
            self.refused.append("no fieldManager")
        operations = json.loads(body)
        patched = copy.deepcopy(self.node)
        try:
            for operation in operations:
                apply(patched, operation)
        except (KeyError, IndexError, ValueError, Mismatch) as error:
            return _failed(
                422, "Invalid", f"the server rejected our request due to an error in our request: {error}"
            )
        try:
            check_node(patched)
        except jsonschema.ValidationError as error:
            self.refused.append(error.message)
            return _failed(422, "Invalid", error.message)
        if {**patched, "status": 0} != {**self.node, "status": 0}:
            self.refused.append("more than the status is changed")
        self.node = patched
        self.bump()
        self.patches.append(operations)
        self.changed(self.node)
        return 200, self.node


class Mismatch(Exception):
    """A test of a patch does not hold."""


def apply(document: Any, operation: dict[str, Any]) -> None:
    """Apply one operation of a JSON Patch (RFC 6902), of the kinds that are used here, to an object's members."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if operation["op"] == "test":
        if place[last] != operation["value"]:
            raise Mismatch(operation["path"])
    elif operation["op"] == "add" and isinstance(place, dict):
        place[last] = operation["value"]
    else:
        raise ValueError(operation["op"])


def _failed(code: int, reason: str, message: str, name: str = "") -> tuple[int, Any]:
    details = {"details": {"name": name, "group": "nnf.cray.hpe.com", "kind": "nnfnodes"}} if name else {}
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return code, {**head, "message": message, "reason": reason, **details, "code": code}


def _handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.serve()

        def do_PATCH(self) -> None:
            self.serve()

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.requests.append((self.command, self.path))
            fault = server.faults.pop(0) if server.faults else ""
            if fault == "drop":
                self.close_connection = True
                return
            time.sleep(server.delay_s if fault == "slow" else 0)
            if fault == "html":
                code, answer = 503, "<html>no upstream</html>"
            elif fault.isdigit():
                code, answer = _failed(int(fault), "Fault", f"fault {fault} on demand")
            else:
                with server.lock:
                    code, answer = server.answer(self.command, self.path, self.headers, body)
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(code)
            kind = "text/plain" if isinstance(answer, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Be silent."""

    return Handler


@contextmanager
def _network_of(process: int | None) -> Iterator[None]:
    """Have what this thread opens be in the network namespace of a process (setns(2))."""
    if process is None:
        yield
        return
    setns = ctypes.CDLL(None, use_errno=True).setns
    with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{process}/ns/net") as theirs:
        assert setns(theirs.fileno(), _CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert setns(ours.fileno(), _CLONE_NEWNET) == 0


@contextmanager
def serving(server: ApiServer, keys: Path | None = None, process: int | None = None) -> Iterator[ApiServer]:
    """Serve on a port of 127.0.0.1; over TLS with the `keys` that `make_keys` made; where `process` is."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is no error."""

    with _network_of(process):
        http = Quiet(("127.0.0.1", 0), _handler(server))
    if keys is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(keys / "tls.crt", keys / "tls.key")
        http.socket = context.wrap_socket(http.socket, server_side=True)
    server.url = f"{'http' if keys is None else 'https'}://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)


def make_keys(folder: Path) -> Path:
    """Make a key and a certificate of its own for 127.0.0.1, and return the folder."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "tls.key", "-out", "tls.crt"],
        cwd=folder, check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return folder


def kubeconfig(
    server: ApiServer, path: Path, keys: Path | None = None, token: str = TOKEN, *, embedded: bool = False
) -> Path:
    """Write a kubeconfig for the server; with the certificate in it, or the certificate's path."""
    cluster: dict[str, Any] = {"server": server.url}
    if keys is not None and embedded:
        cluster["certificate-authority-data"] = base64.b64encode((keys / "tls.crt").read_bytes()).decode()
    elif keys is not None:
        cluster["certificate-authority"] = str(keys / "tls.crt")
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(document))  # which is YAML as well
    return path
