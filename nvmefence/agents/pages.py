"""What an agent tells of itself: metadata for Pacemaker and pcs, a manual page, a summary of its options."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nvmefence.agents.convention import Agent, Option


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def metadata(agent: Agent) -> str:
    """Return the metadata as XML, valid by the schema `metadata.rng` of ClusterLabs' fence-agents."""
    lines = [
        '<?xml version="1.0" ?>',
        f'<resource-agent name="{_xml(agent.name)}" shortdesc="{_xml(agent.shortdesc)}">',
        f"<longdesc>{_xml(agent.longdesc)}</longdesc>",
        f"<vendor-url>{_xml(agent.url)}</vendor-url>",
        "<parameters>",
    ]
    for option in _shown(agent):
        lines += _parameter(option)
    lines += ["</parameters>", "<actions>"]
    lines += [f'\t<action name="{name}"{" " + more if more else ""}/>' for name, more in agent.actions]
    return "\n".join([*lines, "</actions>", "</resource-agent>"])


def _shown(agent: Agent) -> list[Option]:
    return [option for option in agent.options if not option.hidden]


def _parameter(option: Option) -> list[str]:
    more = ' deprecated="1"' if option.deprecated else ""
    more += f' obsoletes="{_xml(option.obsoletes)}"' if option.obsoletes else ""
    default = f' default="{_xml(option.default)}"' if option.default else ""
    return [
        f'\t<parameter name="{_xml(option.name)}" unique="0" required="0"{more}>',
        f'\t\t<getopt mixed="{_xml(option.getopt)}"/>',
        f'\t\t<content type="{option.kind}"{default}/>',
        f'\t\t<shortdesc lang="en">{_xml(option.shortdesc)}</shortdesc>',
        "\t</parameter>",
    ]


def usage(agent: Agent) -> str:
    """Return what --help shows."""
    lines = [f"Usage: {agent.name} [options]", agent.shortdesc, "", "Options:"]
    for option in _shown(agent):
        lines += [f"  {option.getopt}", f"        {option.shortdesc}{_environment(option)}"]
    lines += ["", "Actions: " + ", ".join(name for name, _ in agent.actions)]
    lines += ["Without arguments, options are read from standard input, one key=value a line."]
    return "\n".join(lines)


def _environment(option: Option) -> str:
    return f"; environment {option.environment} takes precedence" if option.environment else ""


def manpage(agent: Agent) -> str:
    """Return a manual page (section 8) as roff."""
    lines = [
        f'.TH {_roff(agent.name.upper())} 8 "" "nvmefence {agent.version}"',
        ".SH NAME",
        f"{_roff(agent.name)} \\- {_roff(agent.shortdesc)}",
        ".SH DESCRIPTION",
    ]
    for paragraph in agent.longdesc.split("\n\n"):
        lines += [".P", _roff(paragraph)]
    lines += [
        ".P",
        _roff(f"{agent.name} reads options from standard input, one key=value a line, or from its words."),
    ]
    lines.append(".SH OPTIONS")
    for option in _shown(agent):
        lines += [".TP", f"\\fB{_roff(option.getopt)}\\fR", _roff(option.shortdesc + _environment(option) + ".")]
    lines += [".SH STANDARD INPUT"]
    lines += [_roff(", ".join(option.name for option in _shown(agent) if option.name not in ("help", "version")))]
    lines += [".SH ACTIONS", _roff(", ".join(name for name, _ in agent.actions))]
    lines += [".SH EXIT STATUS", "0 success, 1 everything else; of status: 0 on, 2 off, 1 not known."]
    return "\n".join(lines)


def _roff(text: str) -> str:
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in safe.split("\n"))
