"""What must hold on a machine where a package was installed, whichever kind it was."""

from __future__ import annotations

import re

from tests.packages.root import ASK, CleanRoot

UNIT = "nvmefence-watcher.service"
PROGRAMS = ("nvmefence", "fence_gfs2_recorder", "fence_nvmefence")
MISSING = 'version = 1\n[drives]\nserials = ["NONE"]\n[hosts.c]\ncontrollers = 2\n'
"""A host map whose drive is not there."""
EXAMPLES = (
    "hosts-rabbit.toml",
    "hosts-dual-port.toml",
    "nvmefence.toml",
    "after-fence.conf",
    "nvmefence.rules.yml",
    "nvmefence-dashboard.json",
    "nvmefence-nnf-report.yaml",
)
DIRECTORIES = {
    "/localdisk/gfs2-fencing/requests": "750 root:root",
    "/localdisk/gfs2-fencing/responses": "750 root:root",
    "/var/log/gfs2-fencing": "755 root:root",
    "/var/lib/nvmefence": "750 root:root",
    "/run/nvmefence": "750 root:root",
    "/etc/nvmefence": "755 root:root",
}


def files_are_in_place(machine: CleanRoot, modules: str) -> None:
    """`modules` is where the package nvmefence is."""
    assert {path: machine.mode(path) for path in DIRECTORIES} == DIRECTORIES
    for program in PROGRAMS:
        assert machine.mode(f"/usr/sbin/{program}") == "755 root:root"
        first = machine.must("head", "-1", f"/usr/sbin/{program}")
        assert first == "#!/usr/bin/python3 -IS\n", "nothing is looked for that is not needed"
        assert machine.has(f"/usr/share/bash-completion/completions/{program}")
    compiled = machine.must("find", f"{modules}/nvmefence", "-name", "*.pyc")
    assert "/agents/__pycache__/fence_gfs2_recorder.cpython-3" in compiled, "an agent starts slowly otherwise"
    for example in EXAMPLES:
        assert machine.has(f"/usr/share/doc/nvmefence/examples/{example}")
    assert machine.has("/etc/logrotate.d/nvmefence")


def every_command_has_a_page(machine: CleanRoot) -> None:
    listed = re.findall(r"^    ([a-z-]+)(?: {2,}\w.*)?$", machine.must("nvmefence", "--help"), re.MULTILINE)
    assert len(listed) > 10
    pages = machine.must("find", "/usr/share/man", "-name", "*.[58]*")
    for name in (*(f"nvmefence-{command}" for command in listed), *PROGRAMS, UNIT):
        assert f"/man8/{name}.8" in pages
    for name in ("nvmefence.toml", "nvmefence-hosts.toml"):
        assert f"/man5/{name}.5" in pages


def programs_work(machine: CleanRoot) -> None:
    """The agents describe themselves, and a fence by hand cuts, on the emulated drives."""
    for agent in PROGRAMS[1:]:
        assert f'<resource-agent name="{agent}"' in machine.must(agent, "--action=metadata")
    assert re.search(r"^ioctl +available$", machine.must("nvmefence", "version"), re.MULTILINE), (
        "the C core is loaded"
    )
    # Real drives are looked for: pyudev is there, and finds none.
    machine.write(
        "/etc/nvmefence/hosts.toml", 'version = 1\n[drives]\nserials = ["NONE"]\n[hosts.c]\ncontrollers = 2\n'
    )
    done = machine.run("fence_nvmefence", "--action=monitor")
    assert (done.returncode, "drive NONE missing" in done.stderr) == (1, True), done.stderr
    machine.rehearse()
    assert "Fenced compute-1" in machine.must("nvmefence", "detach", "--host", "compute-1")
    machine.must("nvmefence", "restore", "--host", "compute-1")


def the_service_is_off_until_a_person_enables_it(machine: CleanRoot) -> None:
    assert machine.systemctl("is-enabled", UNIT).strip() == "disabled"
    assert machine.shows(UNIT, "ActiveState") == "inactive"


def the_service_fences(machine: CleanRoot) -> None:
    """With the emulated drives; an agent asks."""
    machine.must("systemctl", "enable", "--now", UNIT)
    assert machine.shows(UNIT, "ActiveState") == "active"
    machine.must("fence_gfs2_recorder", "--action=monitor", *ASK)
    machine.must("fence_gfs2_recorder", "--action=off", *ASK)
    assert machine.run("fence_gfs2_recorder", "--action=status", *ASK).returncode == 2
    assert "Fenced compute-1" in machine.shows(UNIT, "StatusText")


def process(machine: CleanRoot) -> int:
    """Return the watcher's process."""
    return int(machine.shows(UNIT, "MainPID"))


def nothing_runs_and_the_records_stay(machine: CleanRoot) -> None:
    for program in PROGRAMS:
        assert not machine.has(f"/usr/sbin/{program}")
    assert "nvmefence" not in machine.must("sh", "-c", "cat /proc/[0-9]*/cmdline")
    assert machine.shows(UNIT, "ActiveState") in ("inactive", "failed")
    assert machine.has("/localdisk/fleet.toml.fenced/compute-1.json"), "what was taken can still be given back"
    assert machine.has("/var/lib/nvmefence/audit.jsonl")
    assert machine.has("/etc/nvmefence/hosts.toml")
