"""Manual pages of the fence agents, from what they tell Pacemaker, and of the files, from the operator's guide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from roff import Page, bold, italic, plain

from nvmefence.agents import fence_gfs2_recorder, fence_nvmefence
from nvmefence.agents.convention import Agent

AGENTS = (fence_gfs2_recorder.AGENT, fence_nvmefence.AGENT)
_STATUS = (
    ("0", "Done; a fence: confirmed. Of the action status: the node is on."),
    ("1", "Everything else: the node may still be able to write. Of status: it could not be told."),
    ("2", "Of status alone: the node is cut off."),
)
_FILES = (
    ("nvmefence.toml", "settings of nvmefence", "Settings"),
    ("nvmefence-hosts.toml", "host map of nvmefence: whose controllers are whose", "hosts.toml"),
)
"""Name, summary, section of the guide."""


def agent_pages(date: str, version: str) -> Iterator[Page]:
    """Yield a page for each fence agent."""
    for agent in AGENTS:
        yield _agent_page(agent, date, version)


def _agent_page(agent: Agent, date: str, version: str) -> Page:
    page = Page(agent.name, 8, agent.shortdesc, date, version)
    page.heading("Synopsis")
    page.paragraph(f"{bold(agent.name)} {bold('--action')}={italic('ACTION')} [{italic('OPTION')} ...]")
    page.heading("Description")
    for text in agent.longdesc.split("\n\n"):
        page.paragraph(plain(text))
    page.paragraph("Without words, options are read from standard input, one " + bold("key=value") + " a line.")
    page.heading("Actions")
    page.paragraph(", ".join(bold(name) for name, _ in agent.actions) + ".")
    page.heading("Options")
    shown = [option for option in agent.options if not option.hidden]
    for option in shown:
        term = bold("--" + option.name.replace("_", "-")) + ("" if option.flag else f"={italic(option.value)}")
        if option.short:
            term = f"{bold('-' + option.short)}, {term}"
        more = [f"On standard input: {bold(option.name)}."] if "_" in option.name else []
        page.item(term, plain(option.shortdesc.rstrip(".")) + ".", *more)
    variables = [option for option in shown if option.environment]
    if variables:
        page.heading("Environment")
        page.paragraph("These take precedence over the options:")
        for option in variables:
            page.item(bold(option.environment), f"As {bold('--' + option.name.replace('_', '-'))}.")
    page.heading("Exit status")
    for code, text in _STATUS:
        page.item(bold(code), plain(text))
    return page


def file_pages(guide: Path, date: str, version: str) -> Iterator[Page]:
    """Yield a page for each file that a person writes; `guide` is docs/hosts-toml.md."""
    text = guide.read_text("utf-8")
    for name, summary, section in _FILES:
        page = Page(name, 5, summary, date, version)
        _, _, after = text.partition(f"\n## {section}\n")
        content, _, _ = after.partition("\n## ")
        page.markdown("## Description\n\n" + content.strip().replace("\n### ", "\n## "))
        yield page
