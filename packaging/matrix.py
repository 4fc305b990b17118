"""Unit tests on every interpreter and with every compiler that can be had here, and the C core for aarch64.

    python packaging/matrix.py [--only 3.12] [--require]

An interpreter is looked for on the PATH, among pyenv's, and in NVMEFENCE_PYTHONS (paths, separated by colons); what
is not found there comes from a release of Debian that has it, with debootstrap, if this is root. What cannot be had
is named; with --require that is a failure. The C core is compiled with warnings as errors. Nothing of a person's
environment reaches the tests. It takes minutes for each interpreter; all stays in .cache/matrix and .cache/roots.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PLACE: Final = ROOT / ".cache" / "matrix"
ROOTS: Final = ROOT / ".cache" / "roots"
VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
RELEASES: Final = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}
"""Debian's release that has a version and will keep it. 3.12 was in none."""
NEEDED: Final = ("setuptools", "cffi", "pyudev", "pytest", "hypothesis", "rich", "shtab")
PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
TESTS: Final = ("tests/unit", "--ignore=tests/unit/test_queue_sanitized.py")
"""The other one compiles for itself, and is run below for aarch64."""
CORE_TESTS: Final = ("tests/unit/test_queue.py", "tests/unit/test_conformance_emulated.py")
STRICT: Final = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror")
FOREIGN: Final = "aarch64-linux-gnu"
STRESS: Final = (("2000", "1"), ("2000", "2"), ("2000", "3", "no-fork"))
_LIMIT_S: Final = 1200


class Failed(Exception):
    """A step did not succeed; the text is its output."""


@dataclass(frozen=True)
class Interpreter:
    """An interpreter, of this machine or in a root of another release."""

    version: str
    path: str
    origin: str
    root: Path | None = None

    def run(self, script: str, **environment: str) -> str:
        """Run a shell's commands in its folder, which is /mnt in a root; return the last line of their output."""
        folder = PLACE / self.version
        if self.root is None:
            return shell(script, folder, **environment)
        inside = (
            f"mount --bind {shlex.quote(str(folder))} {self.root}/mnt; mount --rbind /dev {self.root}/dev; "
            f"mount -t proc none {self.root}/proc; mount -t tmpfs none {self.root}/tmp; "
            f"exec chroot {self.root} sh -ec {shlex.quote(f'cd /mnt; {script}')}"
        )
        words = "unshare --mount --propagation private sh -ec"
        return shell(f"exec {words} {shlex.quote(inside)}", folder, **environment)


def shell(script: str, folder: Path, **environment: str) -> str:
    """Run a shell's commands; return the last line of their output. Raises Failed."""
    plain = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "LC_ALL": "C.UTF-8"}
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    try:
        done = subprocess.run(
            ["nice", "sh", "-ec", script], cwd=folder, env={**plain, **pip, **environment}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_LIMIT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end within {_LIMIT_S} s: {script}\n{error.output!r}") from None
    if done.returncode:
        raise Failed(f"{script}: {done.returncode}\n{done.stdout}")
    return done.stdout.strip().rpartition("\n")[2]


def find(version: str) -> Interpreter | str:
    """Return an interpreter, or why there is none."""
    given = [Path(path) for path in os.environ.get("NVMEFENCE_PYTHONS", "").split(":") if path]
    for path in [*given, *(Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python{version}")]:
        if path.name == f"python{version}" and path.exists():
            return Interpreter(version, str(path), str(path))
    for place in os.environ["PATH"].split(":"):
        path = Path(place) / f"python{version}"
        if path.exists() and ".pyenv" not in place:
            return Interpreter(version, str(path), str(path))
    release = RELEASES.get(version)
    if release is None:
        return "neither on this machine nor in a release of Debian"
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        return f"not on this machine; Debian {release} has it, which takes root and debootstrap"
    try:
        return Interpreter(version, f"/usr/bin/python{version}", f"Debian {release}", debian(release, version))
    except Failed as failed:
        return f"Debian {release} has it, and cannot be had: {str(failed).strip().rpartition(chr(10))[2]}"


def debian(release: str, version: str) -> Path:
    """Return a root with an interpreter, a compiler and headers, making it if it is not there. Raises Failed."""
    root = ROOTS / f"{release}-python{version}"
    if not root.exists():
        making = root.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        ROOTS.mkdir(parents=True, exist_ok=True)
        packages = f"gcc,libc6-dev,libudev1,python{version}-dev,python{version}-venv"
        known = Path("/usr/share/debootstrap/scripts") / release
        script = "" if known.exists() else "'' /usr/share/debootstrap/scripts/sid"
        shell(f"debootstrap --variant=minbase --include={packages} {release} {making} {script}", ROOTS)
        making.rename(root)
    return root


def prepare(one: Interpreter) -> None:
    """Give an interpreter a folder with the sources, and an environment with what tests need. Raises Failed."""
    folder = PLACE / one.version
    folder.mkdir(parents=True, exist_ok=True)
    (source,) = (path for path in (ROOT / "build/source").iterdir() if path.is_dir())
    shutil.rmtree(folder / "source", ignore_errors=True)
    shutil.copytree(source, folder / "source", symlinks=True)
    if not (folder / "venv").exists():
        _make_environment(one, folder)
    # The sources are found as an installed package is: from everywhere, and without a word in the environment.
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "source.pth").write_text("/mnt/source\n" if one.root else f"{folder}/source\n")


def _make_environment(one: Interpreter, folder: Path) -> None:
    """Give an interpreter a virtual environment; what goes into it is fetched from outside a root."""
    options = " ".join(f"--platform={platform}" for platform in PLATFORMS)
    shell(
        f"{sys.executable} -m pip download -q --only-binary=:all: --python-version={one.version} {options} "
        f"-d wheels {' '.join(NEEDED)}",
        folder,
    )
    one.run(
        f"rm -rf made; {one.path} -m venv made; "
        f"made/bin/python -m pip install -q --no-index --find-links=wheels {' '.join(NEEDED)}; mv made venv"
    )


def compile_core(one: Interpreter, compiler: str) -> None:
    """Build the extension module in the folder's sources. Raises Failed."""
    one.run(
        f"cd source; rm -rf build nvmefence/nvme/_queue*.so; {compiler} --version; "
        "../venv/bin/python setup.py -q build_ext --inplace --force",
        CC=compiler,
        NVMEFENCE_WERROR="1",
    )


def test(one: Interpreter, *tests: str) -> str:
    """Run tests; return what pytest sums up. Raises Failed."""
    words = " ".join(tests)
    return one.run(f"cd source; $(realpath -s ../venv)/bin/python -m pytest -q -p no:cacheprovider {words}").strip(
        "= "
    )


def rows(one: Interpreter) -> Iterator[tuple[str, str, str]]:
    """Yield compiler, result and what it says for each that is there."""
    try:
        prepare(one)
    except Failed as failed:
        yield "", "FAILED", str(failed)
        return
    for compiler, tests in (("clang", CORE_TESTS), ("gcc", TESTS)):
        if one.root is None and shutil.which(compiler) is None:
            yield compiler, "left out", f"{compiler} is not installed"
        elif one.root is not None and compiler != "gcc":
            yield compiler, "left out", f"not installed in {one.origin}"
        else:
            try:
                compile_core(one, compiler)
                yield compiler, "passed", f"{'core: ' * (tests is CORE_TESTS)}{test(one, *tests)}"
            except Failed as failed:
                yield compiler, "FAILED", str(failed)


def foreign() -> Iterator[tuple[str, str, str]]:
    """Yield compiler, result and what it says of the C core for aarch64."""
    folder = PLACE / FOREIGN
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    core = " ".join(str(path) for path in sorted((ROOT / "csrc").glob("*.c")) if path.name != "_queue.c")
    support = ROOT / "tests/unit/queue_support"
    compilers = {"gcc": f"{FOREIGN}-gcc", "clang": f"clang --target={FOREIGN}"}
    for name, command in compilers.items():
        if shutil.which(command.split()[0]) is None or not Path(f"/usr/{FOREIGN}/include").exists():
            yield name, "left out", f"{command.split()[0]} or the headers of {FOREIGN} are not installed"
            continue
        try:
            shell(f"{command} {' '.join(STRICT)} -I{ROOT}/csrc -c {core}", folder)
            yield name, "passed", "compiled without a warning"
        except Failed as failed:
            yield name, "FAILED", str(failed)
    if shutil.which(compilers["gcc"]) is None or shutil.which("qemu-aarch64-static") is None:
        yield "gcc", "left out", "qemu-aarch64-static is not installed"
        return
    try:
        sources = f"{core} {support}/shim.c {support}/stress.c"
        flags = "-std=gnu11 -D_GNU_SOURCE -g -O1 -DNVMEFENCE_LARGE_STACKS"
        shell(f"{compilers['gcc']} {flags} -I{ROOT}/csrc -o stress {sources} -ldl -pthread", folder)
        said = [
            shell(f"qemu-aarch64-static -L /usr/{FOREIGN} ./stress {' '.join(words)}", folder) for words in STRESS
        ]
        yield "gcc", "passed", f"random life under qemu, ioctl backend: {'; '.join(said)}"
    except Failed as failed:
        yield "gcc", "FAILED", str(failed)


def main() -> int:
    """Run the matrix, print it, and return 1 if something failed."""
    parser = argparse.ArgumentParser(
        description="Unit tests on every interpreter and with every compiler there is."
    )
    parser.add_argument("--only", metavar="VERSION", action="append", choices=[*VERSIONS, "aarch64"])
    parser.add_argument("--require", action="store_true", help="what cannot be had is a failure")
    arguments = parser.parse_args()
    wanted = arguments.only or [*VERSIONS, "aarch64"]
    failed, missing = [], []

    def tell(what: str, origin: str, compiler: str, result: str, text: str) -> None:
        shown = text if result != "FAILED" else "see below"
        print(f"{what:8} {compiler:6} {result:9} {shown}  ({origin})", flush=True)
        if result == "FAILED":
            failed.append(f"== {what} {compiler}\n{text}")
        elif result != "passed":
            missing.append(what)

    for version in wanted:
        if version == "aarch64":
            for row in foreign():
                tell(version, "cross", *row)
        elif isinstance(found := find(version), str):
            tell(version, "-", "", "left out", found)
        else:
            for row in rows(found):
                tell(version, found.origin, *row)
    print("\n".join(failed))
    return 1 if failed or (arguments.require and missing) else 0


if __name__ == "__main__":
    sys.exit(main())
