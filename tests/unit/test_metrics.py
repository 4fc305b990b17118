"""The figures for monitoring: the format, and a file that is never seen half-written."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from nvmefence.watcher import metrics
from nvmefence.watcher.metrics import Figures, Sample

LINE = re.compile(r'[a-z_]+(\{[a-z_]+="([^"\\\n]|\\["\\n])*"\})? [0-9.e+-]+')


def test_every_line_is_of_the_text_format() -> None:
    figures = Figures(returned={'c"1\\\n': True, "c2": False}, looks=7, last_look=1795633129.25, cut_again=2)
    text = metrics.render(figures.samples())
    assert text.endswith("\n")
    names = set()
    for line in text.splitlines():
        if line.startswith("# "):
            _, kind, name, rest = line.split(" ", 3)
            assert kind in ("HELP", "TYPE")
            assert rest
            names.add(name)
        else:
            assert LINE.fullmatch(line), line
            assert re.split(r"[ {]", line)[0] in names
    assert r'nvmefence_host_returned{host="c\"1\\\n"} 1' in text
    assert "nvmefence_vigil_last_look_timestamp_seconds 1795633129.25\n" in text
    assert 'nvmefence_enforced_total{result="confirmed"} 2\n' in text


def test_a_gauge_without_values_has_its_head_only() -> None:
    assert metrics.render([Sample("a", "gauge", "Text.", ())]) == "# HELP a Text.\n# TYPE a gauge\n"


def test_the_file_is_replaced_whole_and_can_be_read_by_all(tmp_path: Path) -> None:
    path = tmp_path / "nvmefence.prom"
    path.write_text("old\n")
    held = path.open()
    (tmp_path / ".nvmefence.prom.tmp").symlink_to(tmp_path / "elsewhere")  # what a dead writer, or worse, left
    before = os.umask(0o077)
    try:
        metrics.write(str(path), "new\n")
    finally:
        os.umask(before)
    assert (path.read_text(), held.read()) == ("new\n", "old\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [one.name for one in tmp_path.iterdir()] == ["nvmefence.prom"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "nvmefence.prom"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        metrics.write(str(path), "new\n")
    assert [one.name for one in tmp_path.iterdir()] == ["nvmefence.prom"]
