"""What figures mean: an answer to each question, and what they justify as `quiesce`. Never more than was seen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nvmefence.fencing.quiesce import DEFAULT_WAIT
from nvmefence.qualify.figures import Cut, Measured

ENOUGH: Final = 20
"""Rounds below which nothing is proposed for use."""
MARGIN: Final = 2
"""A wait is so many times the longest that a write was seen to take."""
_LEAST_WAIT: Final = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """One question answered."""

    question: str
    answer: str
    """A word for programs."""
    text: str
    """The same in words, with its figures."""
    good: bool | None
    """Whether that is as one would wish; None: neither, or not known."""

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {"question": self.question, "answer": self.answer, "text": self.text, "good": self.good}


@dataclass(frozen=True, slots=True)
class Rule:
    """One value of `quiesce`, and whether the figures justify it."""

    quiesce: str
    verdict: str
    """ "justified", "ruled_out" or "not_known"."""
    why: str

    def to_json(self) -> dict[str, str]:
        """Return plain data."""
        return {"quiesce": self.quiesce, "verdict": self.verdict, "why": self.why}


def answers(measured: Measured) -> Iterator[Answer]:
    """Yield an answer to each question."""
    yield _late(measured, "none", "writes", "Do late writes land after a detach and its read-back?")
    yield _fate(measured)
    yield _late(measured, "drain", "drain", "Do late writes land after offline, detach and read-back?")
    yield _steps(measured)
    yield from _resets(measured)
    yield from _times(measured)


def _late(measured: Measured, method: str, key: str, question: str) -> Answer:
    cuts = measured.of(method)
    why = measured.not_measured.get(key, "")
    late = [seconds for cut in cuts for seconds in cut.late]
    if any(cut.still_attached for cut in measured.cuts if cut.method == method):
        return Answer(
            question, "not_cut", "the read-back shows what a detach, by its status, took away", good=False
        )
    if sum(cut.accepted_after for cut in cuts):
        count = sum(cut.accepted_after for cut in cuts)
        text = (
            f"the drive took {count} writes that were begun after the read-back: a detach does not cut a host off"
        )
        return Answer(question, "not_cut", text, good=False)
    if late:
        hit = sum(bool(cut.late) for cut in cuts)
        text = (
            f"yes: {len(late)} in {hit} of {_rounds(cuts)}, the last one at most {max(late):.2f} s after the "
            f"read-back{_broken(why)}"
        )
        return Answer(question, "late_writes", text, good=False)
    if not cuts:
        return Answer(
            question, "not_measured", f"not measured: {why or 'no cut found writes under way'}", good=None
        )
    writes = sum(cut.under_way for cut in cuts)
    text = (
        f"none was seen in {_rounds(cuts)} with {writes} writes under way, watched for "
        f"{min(cut.watched_s for cut in cuts):.1f} s each; that is not the same as that there is none"
        f"{_bound(len(cuts))}{_broken(why)}"
    )
    return Answer(question, "none_seen", text, good=None)


def _rounds(cuts: Sequence[Cut]) -> str:
    return f"{len(cuts)} round{'s' if len(cuts) != 1 else ''}"


def _bound(rounds: int) -> str:
    """Say what so many rounds without an event exclude (the rule of three, with 95% confidence)."""
    return f" (with 95% confidence, fewer than {100 * min(3 / rounds, 1):.0f}% of cuts)" if rounds >= 3 else ""


def _broken(why: str) -> str:
    return f"; broken off: {why}" if why else ""


def _fate(measured: Measured) -> Answer:
    question = "What becomes of writes under way at a detach?"
    cuts = measured.of("none")
    if not cuts:
        why = measured.not_measured.get("writes", "no cut found writes under way")
        return Answer(question, "not_measured", f"not measured: {why}", good=None)
    total = sum(cut.under_way for cut in cuts)
    counts = {
        "on the medium when the read-back was done": sum(cut.landed for cut in cuts),
        "later": sum(cut.landed_late for cut in cuts),
        "never": sum(cut.failed for cut in cuts),
    }
    before = sum(cut.before_answer for cut in cuts)
    parts = ", ".join(f"{count} {what}" for what, count in counts.items())
    text = f"of {total} when the cut began: {parts}; the host had {before} answers before the detach had its own"
    landed, late, never = counts.values()
    if late:
        word = "left_running"
    elif landed and never:
        word = "finished_or_failed"
    else:
        word = "finished" if landed else "failed"
    return Answer(question, word, text, good=not late if late else None)


def _steps(measured: Measured) -> Answer:
    question = "Does each step of a drain work?"
    cuts = [cut for cut in measured.cuts if cut.method == "drain"]
    why = measured.not_measured.get("drain", "")
    if not cuts:
        return Answer(question, "not_measured", f"not measured: {why or 'no cut was made'}", good=None)
    names = dict.fromkeys(step.name for cut in cuts for step in cut.steps)
    parts = []
    for name in names:
        steps = [step for cut in cuts for step in cut.steps if step.name == name]
        good = [step for step in steps if not step.status]
        slowest = f", at most {max(step.seconds for step in good) * 1000:.1f} ms" if good else ""
        parts.append(f"{name} {len(good)} of {len(steps)}{slowest}")
    unseen = sum(cut.offline_seen is False for cut in cuts)
    away = sum(cut.online_again is False for cut in cuts)
    if unseen:
        parts.append(f"{unseen} times not seen offline at the read-back")
    if away:
        parts.append(f"{away} times not seen online again")
    works = not (unseen or away or any(step.status for cut in cuts for step in cut.steps))
    text = f"{'yes' if works else 'no'}: {'; '.join(parts)}{_broken(why)}"
    return Answer(question, "works" if works else "fails", text, good=works)


_RESETS: Final = {
    "host": "a reset of the host's controller",
    "own": "a reset of our controller",
    "subsystem": "an NVM subsystem reset",
}


def _resets(measured: Measured) -> Iterator[Answer]:
    if not measured.resets:
        why = measured.not_measured.get("resets", "no reset was made")
        yield Answer("Do attachments survive a reset?", "not_measured", f"not measured: {why}", good=None)
    for reset in measured.resets:
        state = "attached" if reset.attached else "detached"
        question = f"Does {_RESETS[reset.what]} leave attachments as they are, the host {state}?"
        if reset.why_not:
            yield Answer(question, "not_measured", f"not measured: {reset.why_not}", good=None)
            continue
        parts = [f"lost: {', '.join(reset.lost)}"] if reset.lost else []
        parts += [f"gained: {', '.join(reset.gained)}"] if reset.gained else []
        text = "yes" if reset.kept else f"no: {'; '.join(parts)}"
        if reset.offline:
            text += f"; secondary controllers went offline: {', '.join(map(str, reset.offline))}"
        yield Answer(question, "kept" if reset.kept else "changed", text, good=reset.kept)


def _times(measured: Measured) -> Iterator[Answer]:
    if not measured.times:
        why = measured.not_measured.get("times", "no time was taken")
        yield Answer("How long do detach and attach take?", "not_measured", f"not measured: {why}", good=None)
    for times in measured.times:
        text = (
            f"p50 {times.percentile(0.5) * 1000:.2f} ms, p99 {times.percentile(0.99) * 1000:.2f} ms, max "
            f"{max(times.seconds) * 1000:.2f} ms in {len(times.seconds)} rounds without writes"
        )
        yield Answer(f"How long does {_a(times.action)} take by {times.backend}?", "measured", text, good=None)


def _a(action: str) -> str:
    return f"an {action}" if action[0] in "aeiou" else f"a {action}"


# What it means for quiesce


def longest(measured: Measured) -> float:
    """Return the longest time in seconds that a write was under way before any drain, or late."""
    took = [cut.longest_s for cut in measured.cuts if cut.method == "none"]
    return max([*took, *(late for cut in measured.cuts for late in cut.late)], default=0.0)


def wait_for(measured: Measured) -> int:
    """Return the seconds of a wait that the figures justify: `MARGIN` times the longest, in whole seconds."""
    return max(math.ceil(MARGIN * longest(measured)), _LEAST_WAIT)


def rules(measured: Measured) -> list[Rule]:
    """Say of each value of `quiesce` whether it is justified."""
    return [*_drain_rules(measured), _wait_rule(measured), _none_rule(measured)]


def _cuts_nothing(measured: Measured) -> bool:
    return any(cut.accepted_after or cut.still_attached for cut in measured.cuts)


def _drain_rules(measured: Measured) -> list[Rule]:
    cuts = measured.of("drain")
    if any(cut.late or cut.accepted_after for cut in cuts):
        verdict, why = "ruled_out", "writes landed after it"
    elif _cuts_nothing(measured):
        verdict, why = "ruled_out", "a detach does not cut"
    elif _steps(measured).answer == "fails":
        verdict, why = "ruled_out", "not every step of it works"
    elif not cuts:
        verdict, why = (
            "not_known",
            f"not measured: {measured.not_measured.get('drain', 'no writes were under way')}",
        )
    else:
        verdict, why = "justified", f"every step worked, and no late write was seen in {_rounds(cuts)}"
    return [Rule("drain", verdict, why), Rule("offline", verdict, why)]


def _wait_rule(measured: Measured) -> Rule:
    seconds = wait_for(measured)
    cuts = measured.of("none")
    if _cuts_nothing(measured):
        return Rule("wait:SECONDS", "ruled_out", "a detach does not stop new writes")
    if not cuts:
        return Rule("wait:SECONDS", "not_known", "no detach was made with writes under way")
    took = f"{longest(measured):.2f} s"
    why = f"{MARGIN} times the longest that a write was under way or late, {took}: a bound, no proof"
    return Rule(f"wait:{seconds}", "justified", why)


def _none_rule(measured: Measured) -> Rule:
    cuts = measured.of("none")
    late = sum(len(cut.late) for cut in cuts)
    if late or _cuts_nothing(measured):
        return Rule("none", "ruled_out", f"{late} late writes were seen" if late else "a detach does not cut")
    if not cuts:
        return Rule("none", "not_known", "not measured")
    why = f"no late write was seen in {_rounds(cuts)}, which proves nothing: only with the vendor's word for it"
    return Rule("none", "not_known", why)


def settings(measured: Measured, model: str, firmware: str) -> list[str]:
    """Return lines for the settings file; empty where the figures justify none. Of few rounds they are comments."""
    lines = _settings(measured, model, firmware)
    few = min((len(measured.of(method)) for method in ("none", "drain") if measured.of(method)), default=0)
    if not lines or few >= ENOUGH:
        return lines
    return [
        f"# of {few} round{'s' if few != 1 else ''}, too few to rely on: {ENOUGH} at least",
        *(line if not line or line.startswith("#") else f"# {line}" for line in lines),
    ]


def _settings(measured: Measured, model: str, firmware: str) -> list[str]:
    by_name = {rule.quiesce.partition(":")[0]: rule for rule in rules(measured)}
    drain, wait = by_name["drain"].verdict, by_name["wait"]
    if wait.verdict != "justified":
        return []
    seconds = wait.quiesce.partition(":")[2]
    of = f"measured on {_printable(model)}, firmware {_printable(firmware)}"
    if drain == "ruled_out":  # "auto" would drain it
        return [f"# {of}: a drain does not hold, so that every drive waits", f'quiesce = "wait:{seconds}"']
    lines = [f"# {of}"]
    if drain == "justified":
        lines += ["# drains where our controller can take others offline, else waits", 'quiesce = "auto"']
    if int(seconds) > DEFAULT_WAIT:
        lines.append(f"# the default of {DEFAULT_WAIT:g} s is too short for this model")
    return [*lines, "", "[quiesce_models]", f'{json.dumps(_pattern(model))} = "wait:{seconds}"']


def _pattern(model: str) -> str:
    """Return a shell pattern that matches this model alone."""
    return re.sub(r"([*?\[])", r"[\1]", model)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
