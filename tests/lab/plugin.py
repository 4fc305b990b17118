"""Runs the tests of `tests/lab/guest` inside the emulated Rabbit, and reports each as if it had run here.

On the host, the first test of a shape boots a guest of that shape and has a pytest in there run all the
selected tests of it. That pytest leaves its reports in a file, line by line; the host replays them. So `-k`,
`-m`, node ids, `--junitxml` and failure texts are what they are for any other test. Environment:

NVMEFENCE_LAB=off leaves the lab out, =require makes its absence a failure, else such tests are skipped with
the reason. NVMEFENCE_LAB_COVERAGE=FOLDER has the guest's pytest run under coverage and brings its data there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.lab import boot
from tests.lab.host import LabError
from tests.lab.shape import SHAPES

GUEST_TESTS = Path(__file__).parent / "guest"
IN_GUEST = "NVMEFENCE_LAB_GUEST"
"""Environment of the guest's pytest: the name of the shape."""
REPORTS = "NVMEFENCE_LAB_REPORTS"
"""Environment of the guest's pytest: the file its reports go to."""
TEST_LIMIT = 120
"""Seconds for one test inside; the mark `limit` gives another figure."""
SESSION_LIMIT = 3600
_BOOTS = 2
"""Guests for a shape, at the most. QEMU 7.2 has a fault that a secondary controller's reset under load may hit."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks, and take this process's part."""
    config.addinivalue_line(
        "markers", "shape(*names): the emulated Rabbits this lab test runs on (tests/lab/shape.py)"
    )
    config.addinivalue_line("markers", "limit(seconds): this lab test's time limit, instead of 120 s")
    if reports := os.environ.get(REPORTS):
        config.pluginmanager.register(Guest(config, Path(reports)), "lab-guest")
    elif IN_GUEST not in os.environ:
        config.pluginmanager.register(Host(config), "lab-host")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test run once on each shape it names."""
    names = _names(metafunc.definition)
    if names:
        metafunc.fixturenames.append("shape_name")
        metafunc.parametrize("shape_name", names, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the lab's tests, refuse unknown shapes, and leave out, in a guest, what is for another shape."""
    here = os.environ.get(IN_GUEST)
    kept = []
    for item in items:
        if is_guest_test(item):
            item.add_marker("lab")
            if shape_of(item) not in SHAPES:
                raise pytest.UsageError(f"{item.nodeid}: its shape mark names one of {', '.join(SHAPES)}")
            if here in SHAPES and shape_of(item) != here:
                continue
        kept.append(item)
    items[:] = kept


def is_guest_test(item: pytest.Item) -> bool:
    """Whether a test belongs into the guest."""
    return GUEST_TESTS in item.path.parents


def shape_of(item: pytest.Item) -> str:
    """Return the name of the shape a guest test runs on."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "shape_name" in callspec.params:
        return str(callspec.params["shape_name"])
    return ""


def _names(node: Any) -> list[str]:
    mark = node.get_closest_marker("shape")
    return [str(name) for name in mark.args] if mark else []


class Guest:
    """The part of the pytest inside: reports to a file, a time limit on each test."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._file = path.open("w", buffering=1)
        # Tests make device nodes in their folders.
        subprocess.run(["mount", "-o", "remount,dev", os.environ["PYTEST_DEBUG_TEMPROOT"]], check=True, timeout=60)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Leave a trace of the test that is running, for when the guest does not come back."""
        self._file.write(json.dumps({"started": nodeid}) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Leave a report for the host."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._file.write(json.dumps(data, default=str) + "\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Interrupt a test that takes too long."""
        mark = item.get_closest_marker("limit")
        seconds = float(mark.args[0]) if mark else TEST_LIMIT

        def late(_number: int, _frame: FrameType | None) -> None:
            raise TimeoutError(f"the test took longer than its limit of {seconds:g} s")

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


class Host:
    """The part of this machine's pytest: boots guests, replays their reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reports: dict[str, dict[str, list[pytest.TestReport]]] = {}
        self._trouble: dict[str, str] = {}
        self._left_out: dict[str, int] = {}
        self._figures: list[str] = []
        self._absent: str | None = None
        self._last = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Replay what the guest reported of a guest test."""
        if not is_guest_test(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports_of(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports_of(self, item: pytest.Item) -> list[pytest.TestReport]:
        name = shape_of(item)
        if name not in self._reports:
            if self._absent is None:
                self._absent = self._why_absent()
            if self._absent:
                return [self._left_out_report(item, self._absent)]
            same = [other for other in item.session.items if is_guest_test(other) and shape_of(other) == name]
            self._boot(name, [other.nodeid for other in same])
        reports = self._reports[name].get(item.nodeid, [])
        if not reports or reports[-1].when != "teardown":
            trouble = self._trouble.get(name) or "the guest's pytest left no report of this test"
            return [*reports, _report(item, "failed", trouble)]
        return reports

    def _why_absent(self) -> str:
        if os.environ.get("NVMEFENCE_LAB") == "off":
            return "NVMEFENCE_LAB=off"
        try:
            boot.check(self._say)
        except LabError as error:
            return str(error)
        return ""

    def _left_out_report(self, item: pytest.Item, reason: str) -> pytest.TestReport:
        if os.environ.get("NVMEFENCE_LAB") == "require":
            return _report(item, "failed", f"NVMEFENCE_LAB=require, but: {reason}")
        self._left_out[reason] = self._left_out.get(reason, 0) + 1
        return _report(item, "skipped", f"lab: {reason}")

    def _boot(self, name: str, nodeids: list[str]) -> None:
        """Run tests in a guest; those that QEMU's own death cut off, a fault of the emulator, in another."""
        self._reports[name] = {}
        for attempt in range(_BOOTS):
            left = [nodeid for nodeid in nodeids if not self._complete(name, nodeid)]
            for nodeid in left:
                self._reports[name].pop(nodeid, None)
            crashed = self._boot_once(name, left)
            if not crashed:
                return
            again = "booted again" if attempt + 1 < _BOOTS else "given up"
            self._figures.append(f"{name}: QEMU died of {crashed} in {self._last}; {again}")

    def _complete(self, name: str, nodeid: str) -> bool:
        reports = self._reports[name].get(nodeid, [])
        return bool(reports) and reports[-1].when == "teardown"

    def _boot_once(self, name: str, nodeids: list[str]) -> str:
        """Return the signal that QEMU died of, else an empty string."""
        folder = boot.new_folder()
        command = [sys.executable, "-m"]
        coverage = os.environ.get("NVMEFENCE_LAB_COVERAGE")
        if coverage:
            command += ["coverage", "run", f"--data-file={folder}/.coverage", "--parallel-mode", "-m"]
        command += ["pytest", "-p", "no:cacheprovider", "-q", f"--rootdir={self._config.rootpath}"]
        if self._config.inipath:
            command += ["-c", str(self._config.inipath)]
        command += [str(self._config.rootpath / nodeid) for nodeid in nodeids]
        env = {IN_GUEST: name, REPORTS: str(folder / "reports"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        # Its /tmp shows this machine's, where other pytests make and remove folders: 9p fails to list that
        # meanwhile. /var/tmp is the guest's own, in memory; a cluster's room has another /run and /dev/shm.
        env["PYTEST_DEBUG_TEMPROOT"] = "/var/tmp"
        # The first for tests in there that need more of this machine than the guest.
        env |= {key: os.environ[key] for key in ("NVMEFENCE_LAB", "NVMEFENCE_LAB_ROUNDS") if key in os.environ}
        try:
            result = boot.run(boot.Plan(SHAPES[name], command, SESSION_LIMIT, env), self._say, folder)
        except LabError as error:
            self._trouble[name] = str(error)
            return ""
        self._figures.append(f"{name} ({SHAPES[name].describe()}): {result.figures()}")
        self._last = self._replay(name, folder / "reports") or "the boot"
        self._trouble[name] = _trouble(result, self._last)
        if coverage:
            for data in folder.glob(".coverage*"):
                shutil.copy(data, coverage)
        return result.crashed if result.exit_code is None else ""

    def _replay(self, name: str, path: Path) -> str:
        """Read the guest's reports; return the last test it started."""
        started = ""
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                data = json.loads(line)
            except ValueError:  # the guest ended while writing it
                break
            if "started" in data:
                started = str(data["started"])
                continue
            if isinstance(data.get("longrepr"), list):  # JSON has no tuples; pytest wants one for a skip
                data["longrepr"] = tuple(data["longrepr"])
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
            self._reports[name].setdefault(report.nodeid, []).append(report)
        return started

    def _say(self, text: str) -> None:
        """Show what is going on, where someone watches."""
        capture = self._config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            return
        with capture.global_and_fixture_disabled():
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\x1b[Klab: {text}\r")
                sys.stderr.flush()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was left out and why, and how long the guests took."""
        for line in self._figures:
            terminalreporter.write_line(f"lab: {line}")
        for reason, count in self._left_out.items():
            terminalreporter.write_line(f"lab tests left out: {reason} ({count} tests)", yellow=True)


def _trouble(result: boot.Result, started: str) -> str:
    if result.exit_code is None:
        why = result.trouble()
    else:
        output = result.stdout + result.stderr
        why = f"the guest's pytest ended with {result.exit_code} ({result.folder})\n{output}"
    return f"no result; the last test that was started: {started or 'none'}\n{why}"


def _report(item: pytest.Item, outcome: Any, text: str) -> pytest.TestReport:
    path, line, _ = item.location
    longrepr: Any = (path, line or 0, f"Skipped: {text}") if outcome == "skipped" else text
    return pytest.TestReport(
        nodeid=item.nodeid, location=item.location, keywords=dict.fromkeys(item.keywords, 1), outcome=outcome,
        longrepr=longrepr, when="setup",
    )  # fmt: skip
