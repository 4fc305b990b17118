"""Write manual pages and bash completion: `python packaging/manual FOLDER [--doc PLACE]`.

    FOLDER/man/man8/*.8, FOLDER/man/man5/*.5, FOLDER/completions/PROGRAM
    FOLDER/nnf-report/man/..., FOLDER/nnf-report/completions/...    of the reporter, which is installed by itself

All of it comes from the program itself: the parser of its command line, the metadata of its agents, its settings as
docs/hosts-toml.md tells them. What cannot, examples above all, is in parts/NAME.SECTION.md and goes to the end of
the page. Pages carry the date of the newest entry in CHANGELOG.md, so that the same sources give the same pages.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import commands
import completion
import others
from roff import Page, bold

from nvmefence import __version__

ROOT = Path(__file__).resolve().parents[2]
PARTS = Path(__file__).resolve().parent / "parts"
EVERYWHERE = (
    ("nvmefence", 8),
    ("nvmefence.toml", 5),
    ("nvmefence-hosts.toml", 5),
    ("nvmefence-watcher.service", 8),
)
"""Pages that all others name."""
REPORTER = "nnf-report"
"""The folder of what belongs to the reporter to Kubernetes; no package has it."""


def date() -> str:
    """Return the date of the newest entry in the change log."""
    found = re.search(r"^## .*\((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit("CHANGELOG.md: no entry has a date")
    return found[1]


def pages(doc: str) -> Iterator[tuple[str, Page]]:
    """Yield all pages, complete, each with its folder; `doc` is where the operator's guide is installed."""
    when = date()
    service = Page("nvmefence-watcher.service", 8, "the watcher as a service of systemd", when, __version__)
    made = [
        *commands.pages(when, __version__),
        *others.agent_pages(when, __version__),
        *others.file_pages(ROOT / "docs/hosts-toml.md", when, __version__),
        service,
    ]
    alone = commands.reporter_page(when, __version__)
    strangers = {path.name for path in PARTS.iterdir()} - {f"{page.file}.md" for page in [*made, alone]}
    if strangers:
        raise SystemExit(f"{PARTS}: no page is made for {', '.join(sorted(strangers))}")
    for page in [*made, alone]:
        part = PARTS / f"{page.file}.md"
        if part.exists():
            page.markdown(part.read_text("utf-8"))
        page.heading("See also")
        names = EVERYWHERE if page.name != "nvmefence" else [(one.name, one.section) for one in made]
        page.paragraph(", ".join(f"{bold(name)}({number})" for name, number in names if name != page.name))
        page.paragraph(f"The operator's guide is in {bold(doc)}.".replace("'", "\\(cq"))
        yield REPORTER if page is alone else "", page


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description="Write manual pages and bash completion.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--doc", default="/usr/share/doc/nvmefence", help="where the operator's guide will be")
    arguments = parser.parse_args()
    for place, page in pages(arguments.doc):
        folder = arguments.folder / place / "man" / f"man{page.section}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / page.file).write_text(str(page), "ascii")
    for place, scripts in (("", completion.scripts()), (REPORTER, completion.reporter_scripts())):
        folder = arguments.folder / place / "completions"
        folder.mkdir(parents=True, exist_ok=True)
        for name, script in scripts.items():
            (folder / name).write_text(script, "utf-8")


if __name__ == "__main__":
    main()
