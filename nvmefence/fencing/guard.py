"""What keeps a fence and a restore of one host apart."""

from __future__ import annotations

from typing import Protocol


class Guard(Protocol):
    """Makes known that hosts are being fenced. Whoever made it also ends it, some time after the fence."""

    def enter(self, host: str) -> str:
        """Say who may be giving `host` storage back; empty: nobody, from now on until the guard is ended.

        Never waits. Whoever it is learns of it before his next command, and gives up; call again until he has.
        """
        ...
