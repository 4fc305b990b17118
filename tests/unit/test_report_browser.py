"""The page of a report in a real browser: light and dark, wide and narrow, readable, and without a complaint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmefence.fencing.survey import DriveSurvey, HostOnDrive, State, Survey
from nvmefence.report.gather import Fleet
from tests.unit.browser import PROGRAM, Browser
from tests.unit.test_report import fenced, made

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")
GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}
"""What nvmefence/report/style.py has for the page's ground."""
WIDTHS = (360, 800, 1600)
"""CSS pixels: a telephone, half a screen, a screen."""
READABLE = 4.5
"""Contrast that text has at least: WCAG 2.1, success criterion 1.4.3, level AA."""
FAINT = """
(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const color = parts(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), one = walker.currentNode.parentElement;
    if (!text || !one.getClientRects().length) continue;
    const style = getComputedStyle(one);
    const [a, b] = [parts(one.closest("svg") ? style.fill : style.color), ground(one)].map(light);
    found.push([text.slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
})()
"""
"""Each text that is shown, with its contrast (WCAG 2.1, "contrast ratio")."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report that has something of everything: a fleet of 16 hosts, fences confirmed and not, a warning."""
    folder = tmp_path_factory.mktemp("page")
    hosts = [f"compute-{number}" for number in range(16)]
    states = {
        host: HostOnDrive((State.NONE, State.ATTACHED, State.UNKNOWN)[number % 3], reason="no answer")
        for number, host in enumerate(hosts)
    }
    drives = [DriveSurvey(f"S64HNX0T5{n:05}", "nqn", "M", namespaces=[1], hosts=states) for n in range(18)]
    fleet = Fleet(Survey(drives, [], "io_uring"), hosts, fenced=hosts[:1], back=hosts[1:2])
    failed = fenced(5, confirmed=False) | {"result": "not-fenced", "message": "NOT fenced c1: " + "long" * 99}
    path = folder / "report.html"
    path.write_text(made(folder, fenced(), fenced(3, simulated=True), failed, fleet=fleet))
    return path


@pytest.mark.parametrize("scheme", GROUNDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_readable_as_a_person_prefers_it(scheme: str, width: int, browser: Browser, page: Path) -> None:
    browser.shows(page, width=width, scheme=scheme)
    browser.says("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert browser.says("innerWidth") == width
    assert browser.says("getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]
    assert browser.says("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
    shown = browser.says(FAINT)
    assert len(shown) > 300
    faint = {(text, round(contrast, 2)) for text, contrast in shown if contrast < READABLE}
    assert not faint
    assert browser.complaints == [], "its own policy must not forbid its style"


def test_light_and_dark_are_painted(browser: Browser, page: Path) -> None:
    pictures = {}
    for scheme in GROUNDS:
        browser.shows(page, width=800, scheme=scheme)
        pictures[scheme] = browser.picture()
        assert len(pictures[scheme]) > 20_000, "not blank"
    assert pictures["light"] != pictures["dark"]


def test_a_page_with_a_script_or_a_style_that_its_policy_forbids_is_noticed(
    browser: Browser, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.html"
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
    bad.write_text(f"<!DOCTYPE html>{policy}<style>body {{ margin: 0 }}</style><script>alert(1)</script>")
    browser.shows(bad, width=800, scheme="light")
    assert len(browser.complaints) >= 2
