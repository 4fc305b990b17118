"""What is made of the figures elsewhere: exposition format, alerts, dashboard, the table in the docs."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvmefence.watcher import counting
from nvmefence.watcher.answers import Result
from nvmefence.watcher.counting import Reason
from tests.docs import manual
from tests.docs.manual import ROOT
from tests.monitoring import figures
from tests.monitoring.figures import Told
from tests.monitoring.test_publishing import VIGIL_S, Scene, play

FOLDER = ROOT / "packaging" / "monitoring"
RULES = FOLDER / "nvmefence.rules.yml"
DASHBOARD = FOLDER / "nvmefence-dashboard.json"
CASES = Path(__file__).with_name("rules_test.yml")
PAGE = "docs/metrics.md"
PROMTOOL = shutil.which("promtool") or ""
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="not installed: promtool (Debian's prometheus)")
_NAME = re.compile(r"\bnvmefence_\w+")


def promtool(*words: str, given: str = "") -> str:
    """Run it; fail with what it says unless it is content."""
    done = subprocess.run(
        [PROMTOOL or "promtool", *words], input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures with a value of every metric."""
    place = tmp_path_factory.mktemp("figures")

    async def story(scene: Scene) -> None:
        await scene.world.fence("c1")
        await scene.world.fence("c2")
        await asyncio.sleep(VIGIL_S + 1)

    play(place, story)
    return place / "nvmefence.prom"


@pytest.fixture(scope="module")
def told(file: Path) -> Told:
    return figures.read(file)


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def queries(dashboard: Any) -> Iterator[tuple[str, str]]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


@needs_promtool
def test_the_exposition_format_is_that_of_prometheus(file: Path) -> None:
    assert promtool("check", "metrics", given=file.read_text()) == ""


@needs_promtool
def test_the_alert_rules_are_well_formed() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


@needs_promtool
def test_the_alerts_come_when_they_should_and_only_then(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yml"
    cases.write_text(CASES.read_text().replace("[RULES]", f"[{RULES}]"))
    assert "SUCCESS" in promtool("test", "rules", str(cases))


def test_every_alert_has_a_case_in_which_it_comes() -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert alerts
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts", CASES.read_text())) == alerts


@needs_promtool
def test_the_queries_of_the_dashboard_are_well_formed(dashboard: Any, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__interval", "5m").replace("$instance", ".*")}
        for number, (_, expr) in enumerate(queries(dashboard))
        if not expr.startswith("label_values(")
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_alerts_and_dashboard_name_only_metrics_that_exist(told: Told, dashboard: Any) -> None:
    asked = set(_NAME.findall(re.sub(r"#.*", "", RULES.read_text())))
    asked |= {name for _, expr in queries(dashboard) for name in _NAME.findall(expr)}
    assert len(asked) > 10
    assert asked - told.names == set()
    assert set(_NAME.findall(CASES.read_text())) - told.names == set()


def test_alerts_and_dashboard_ask_for_labels_that_exist(told: Told, dashboard: Any) -> None:
    known = set[str]().union(*told.labels.values()) | {"instance"}
    values = {key.partition("=")[2] for labels in told.values for key in re.findall(r'\w+="[^"]*"', labels)}
    texts = [expr for _, expr in queries(dashboard)] + re.findall(r"expr: (.*)", RULES.read_text())
    for text in texts:
        for label, sign, value in re.findall(r'(\w+)(=~?)("[^"]*")', text):
            assert label in known, text
            assert sign == "=~" or value in values | {'"true"'}, text
        for label in re.findall(r"by \(([^)]*)\)", text):
            assert set(label.replace(" ", "").split(",")) <= known, text


def test_every_metric_is_on_the_dashboard_or_of_use_to_nobody_there(told: Told, dashboard: Any) -> None:
    shown = {name for _, expr in queries(dashboard) for name in _NAME.findall(expr)}
    beside = {
        "nvmefence_start_time_seconds", "nvmefence_written_timestamp_seconds", "nvmefence_passes_lost_total",
        "nvmefence_vigil_looks_total", "nvmefence_fences_under_way",
    }  # fmt: skip
    assert told.names - shown == beside


def test_the_dashboard_is_one_that_grafana_takes(dashboard: Any) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie on one another"
    assert max(x for x, _ in cells) < 24
    for panel in panels:
        assert panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_the_table_in_the_docs_is_that_of_the_program(told: Told) -> None:
    rows = {}
    for cell, kind, unit, meaning in manual.table(PAGE, "The figures"):
        (name,) = manual.code(cell)
        rows[name] = (kind, unit, meaning)
    documented = {name.partition("{")[0]: set(re.findall(r"[{,]\s*(\w+)", name)) for name in rows}
    assert documented == {name: labels - {"le"} for name, labels in told.labels.items()}
    for name, (kind, unit, meaning) in rows.items():
        base = name.partition("{")[0]
        assert kind == told.kinds[base], name
        assert (unit == "seconds") == ("_seconds" in base and "timestamp" not in base and "start" not in base), name
        assert meaning


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("Reasons", [reason.value for reason in Reason]),
        ("Steps", list(counting.STEPS)),
    ],
)
def test_the_values_of_labels_in_the_docs_are_those_of_the_program(heading: str, known: list[str]) -> None:
    assert [manual.code(row[0])[0] for row in manual.table(PAGE, heading)] == known


def test_the_results_in_the_docs_are_those_of_the_program() -> None:
    page = (ROOT / PAGE).read_text()
    for result in Result:
        assert f"`{result.value.replace('-', '_')}`" in page


def test_every_alert_is_in_the_docs() -> None:
    rows = manual.table(PAGE, "Alerts and dashboard")
    assert {manual.code(row[0])[0] for row in rows} == set(re.findall(r"alert: (\w+)", RULES.read_text()))
