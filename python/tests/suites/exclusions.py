"""Tests of other projects that cannot pass, each with its reason, and the comparison with a run.

A line of the file is `SETTINGS TEST REASON`. SETTINGS and TEST are patterns as of fnmatch; a
comma separates several SETTINGS. A test that is excluded must fail or be skipped in each of the
settings, otherwise the exclusion is out of date and the comparison fails. A reason that begins with
`django-redis too:` says that the test does not pass with the original either.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["Comparison", "Exclusion", "compared", "read"]

_OF_THE_ORIGINAL = "django-redis too: "


@dataclass(frozen=True)
class Exclusion:
    """A line of the file."""

    settings: tuple[str, ...]
    test: str
    reason: str

    @property
    def is_of_the_original(self) -> bool:
        """Whether the test does not pass with django-redis either."""
        return self.reason.startswith(_OF_THE_ORIGINAL)

    def covers(self, settings: str, test: str) -> bool:
        """Returns whether it excludes a test under these settings."""
        return self.applies_to(settings) and fnmatchcase(test, self.test)

    def applies_to(self, settings: str) -> bool:
        """Returns whether it excludes a test under these settings at all."""
        return any(fnmatchcase(settings, pattern) for pattern in self.settings)


@dataclass(frozen=True)
class Comparison:
    """The outcomes of one run beside what is excluded."""

    # Tests that neither passed nor are excluded.
    failed: list[str]
    # Exclusions of this run whose tests all passed, or that match no test.
    outdated: list[Exclusion]


def read(path: Path) -> list[Exclusion]:
    """Returns the exclusions of a file."""
    found = []
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            settings, test, reason = line.split(maxsplit=2)
            found.append(Exclusion(tuple(settings.split(",")), test, reason))
    return found


def compared(exclusions: list[Exclusion], settings: str, outcomes: dict[str, str]) -> Comparison:
    """Compares the outcomes of a run, `passed`, `failed` or `skipped` by test."""
    failed = [
        test
        for test, outcome in outcomes.items()
        if outcome != "passed" and not any(each.covers(settings, test) for each in exclusions)
    ]
    outdated = [
        each
        for each in exclusions
        if each.applies_to(settings) and not _is_confirmed(each, settings, outcomes)
    ]
    return Comparison(failed, outdated)


def _is_confirmed(exclusion: Exclusion, settings: str, outcomes: dict[str, str]) -> bool:
    covered = [outcome for test, outcome in outcomes.items() if exclusion.covers(settings, test)]
    return bool(covered) and "passed" not in covered
