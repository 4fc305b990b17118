"""One NnfNode in a Kubernetes cluster, through lightkube: read it, and change the status of its servers.

Every request has a limit in time. Nothing here is imported by what fences.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import Any, Final, Protocol

from nvmefence.errors import ConfigError
from nvmefence.nnf.layout import NODE, NODE_GROUP, NODE_VERSIONS
from nvmefence.plain import escaped

NAME: Final = "nnf-nlc"
"""Of every NnfNode; its namespace has the Rabbit's name (nnf-sos, internal/controller/nnf_node_controller.go)."""
VERSIONS: Final = tuple(reversed(NODE_VERSIONS[9:]))
"""Those that have the status "Fenced", the newest first; older ones show it as "Offline"."""
_PLURAL: Final = "nnfnodes"
_FIELD_MANAGER: Final = "nvmefence-nnf-report"


class Trouble(enum.Enum):
    """What kind of failure it is."""

    UNREACHABLE = "unreachable"
    """Nobody answers in time, or the server has a fault of its own: later."""
    CONFLICT = "conflict"
    """The resource is not what it was: read it anew."""
    MISSING = "missing"
    """There is no such resource."""
    NOT_SERVED = "not-served"
    """The server does not have this version of it."""
    FORBIDDEN = "forbidden"
    UNAUTHORIZED = "unauthorized"
    """The credentials are not, or no longer, believed."""


class ClusterError(Exception):
    """A request failed."""

    def __init__(self, kind: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class Cluster(Protocol):
    """The place that a fence is reported to."""

    def get(self) -> dict[str, Any]:
        """Return the NnfNode. Raises ClusterError."""
        ...

    def patch(self, operations: Sequence[dict[str, Any]]) -> None:
        """Change its status by a JSON Patch, all of it or nothing. Raises ClusterError."""
        ...


class NnfNodeResource:
    """The NnfNode of one Rabbit."""

    def __init__(self, client: Any, rabbit: str, version: str | None) -> None:
        """`version` of the API, or None: the newest known that the server has."""
        self._client = client
        self._rabbit = rabbit
        self._versions = VERSIONS if version is None else (version,)
        self._version: str | None = None

    def get(self) -> dict[str, Any]:
        """Return the NnfNode. Raises ClusterError."""
        if self._version is not None:
            try:
                return self._get(self._version)
            except ClusterError as error:
                if error.kind is not Trouble.NOT_SERVED:
                    raise
                self._version = None  # the server was given other software
        for version in self._versions:
            try:
                found = self._get(version)
            except ClusterError as error:
                if error.kind is not Trouble.NOT_SERVED:
                    raise
                continue
            self._version = version
            return found
        tried = ", ".join(self._versions)
        raise ClusterError(Trouble.NOT_SERVED, f"the server has NnfNode in none of the versions {tried}")

    def patch(self, operations: Sequence[dict[str, Any]]) -> None:
        """Change its status by a JSON Patch, all of it or nothing. Raises ClusterError."""
        from lightkube.types import PatchType

        if self._version is None:
            self.get()
        status = _resource(str(self._version)).Status
        try:
            self._client.patch(
                status, NAME, list(operations), namespace=self._rabbit, patch_type=PatchType.JSON,
                field_manager=_FIELD_MANAGER,
            )  # fmt: skip
        except Exception as error:
            raise _translated(error) from None

    def _get(self, version: str) -> dict[str, Any]:
        try:
            return dict(self._client.get(_resource(version), NAME, namespace=self._rabbit))
        except Exception as error:
            raise _translated(error) from None


@functools.cache
def _resource(version: str) -> Any:
    from lightkube.generic_resource import create_namespaced_resource

    return create_namespaced_resource(NODE_GROUP, version, NODE, _PLURAL)


def connect(
    rabbit: str, kubeconfig: str | None, version: str | None, limit_s: float, service_account: str | None = None
) -> NnfNodeResource:
    """Return the resource; no request is sent yet.

    Without a `kubeconfig` it is the pod's service account, else the file that KUBECONFIG names, or ~/.kube/config.
    `limit_s` is seconds for each step of a request. Raises ConfigError.
    """
    try:
        from lightkube import Client, KubeConfig
    except ImportError:
        raise ConfigError("lightkube is not installed", "install it: pip install 'nvmefence[kubernetes]'") from None
    try:
        if kubeconfig is not None:
            config = KubeConfig.from_file(kubeconfig)
        elif service_account is not None:
            config = KubeConfig.from_service_account(service_account)
        else:
            config = KubeConfig.from_env()
        single = config.get()
        if single is None:
            raise ConfigError(
                "the kubeconfig has no current context", "choose one: kubectl config use-context NAME"
            )
        client = Client(config=single, timeout=limit_s)  # type: ignore[arg-type]
    except ConfigError:
        raise
    except Exception as error:  # whatever is wrong in a file that other programs wrote
        source = kubeconfig or "the service account, or KUBECONFIG, or ~/.kube/config"
        raise ConfigError(
            escaped(f"no way to the cluster by {source}: {_words(error)}"), "name a kubeconfig with --kubeconfig"
        ) from None
    return NnfNodeResource(client, rabbit, version)


def _translated(error: Exception) -> ClusterError:
    """Return what any failure of the client means. Its HTTP library was another one once, so none is named here."""
    answer = getattr(error, "response", None)
    told = getattr(error, "status", None)
    code = getattr(answer, "status_code", None) or getattr(told, "code", None)
    reason = escaped(_words(error))
    if code == 401:
        return ClusterError(Trouble.UNAUTHORIZED, f"the server does not believe our credentials: {reason}")
    if code == 403:
        return ClusterError(Trouble.FORBIDDEN, reason)
    if code == 404:
        # For a resource that is not there the server says which one; for a version that it has not, nothing.
        details = getattr(told, "details", None)
        missing = getattr(details, "name", None) == NAME
        return ClusterError(Trouble.MISSING if missing else Trouble.NOT_SERVED, reason)
    if code in (409, 422):
        return ClusterError(Trouble.CONFLICT, reason)
    return ClusterError(Trouble.UNREACHABLE, reason)


def _words(error: Exception) -> str:
    text = str(error).split("\n", 1)[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
