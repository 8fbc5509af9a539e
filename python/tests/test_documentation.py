"""What docs/django.md and its translation state is what the package has."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import lockstock.django.checks
import lockstock.django.options
from lockstock.django import option_values
from suites import exclusions

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = Path(lockstock.django.options.__file__).parent
GUIDES = [REPOSITORY / "docs" / "django.md", REPOSITORY / "docs" / "django.ko.md"]
PAGES = [
    *GUIDES,
    REPOSITORY / "README.md",
    REPOSITORY / "README.ko.md",
    REPOSITORY / "python" / "README.md",
]

pytestmark = pytest.mark.skipif(
    not GUIDES[0].exists(), reason="the documentation is not beside the tests"
)


def code() -> str:
    return "".join(path.read_text() for path in sorted(SOURCES.rglob("*.py")))


def table_of_exclusions() -> str:
    """Returns the table in docs/django.md: tests with the same settings and reason in one row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for each in exclusions.read(Path(__file__).parent / "suites" / "exclusions.txt"):
        settings = ", ".join("all" if name == "*" else f"`{name}`" for name in each.settings)
        rows.setdefault((settings, each.reason), []).append(f"`{each.test}`")
    lines = [
        f"| {settings} | {', '.join(rows[settings, reason])} | {reason} |"
        for settings, reason in rows
    ]
    return "\n".join(["| settings | tests | reason |", "|---|---|---|", *lines])


def test_each_exclusion_of_django_redis_suite_is_documented_with_its_reason() -> None:
    start = "| settings | tests | reason |"
    _, _, rest = GUIDES[0].read_text().partition(start)
    assert (start + rest.partition("\n\n")[0]).rstrip("\n") == table_of_exclusions()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_each_system_check_is_documented(guide: Path) -> None:
    pattern = r"lockstock\.[EW]\d{3}"
    assert set(re.findall(rf"\| `({pattern})`", guide.read_text())) == set(
        re.findall(pattern, code())
    )


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_each_option_is_documented(guide: Path) -> None:
    read = set(re.findall(r'ptions(?:\.get\(|\[)\s*"([A-Z_]+)"', code()))
    read |= set(re.findall(r'"([A-Z_]+)" (?:not )?in options', code()))
    read |= set(re.findall(r'_timeout\("([A-Z_]+)"', code()))
    # It is refused by a check, because it belongs beside LOCATION.
    read -= {"KEY_PREFIX"}
    assert {"SERIALIZER", "PICKLE_VERSION", "SOCKET_TIMEOUT", "CLEAR"} <= read
    rows = [line for line in guide.read_text().splitlines() if line.startswith("| `")]
    documented = set(re.findall(r"`([A-Z_]+)`", "".join(row.split(" | ")[0] for row in rows)))
    refused = set(lockstock.django.options.REFUSED)
    assert documented - refused == (read - refused) | {"USERNAME", "PASSWORD"}
    assert refused <= documented
    assert option_values.OPTIONS == documented - refused


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_each_option_of_a_connection_is_documented(guide: Path) -> None:
    (row,) = (
        line
        for line in guide.read_text().splitlines()
        if line.startswith("| `CONNECTION_POOL_KWARGS` |")
    )
    assert set(re.findall(r"`([a-z_]+)`", row)) - {"required"} == set(
        lockstock.django.options._POOL_KWARGS
    )


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_each_setting_of_a_project_is_documented(guide: Path) -> None:
    pattern = r"\b(DJANGO_REDIS_[A-Z_]+|CACHE_HERD_TIMEOUT)\b"
    assert set(re.findall(pattern, guide.read_text())) == set(re.findall(pattern, code()))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_and_names_of_tests_are_right(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert (Path(__file__).parent / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_examples_are_python(page: Path) -> None:
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        # A part of a function, or of a dictionary.
        body = textwrap.dedent(block)
        if body.startswith('"'):
            body = f"{{{body}}}"
        is_async = "await " in body or "async with " in body
        header = "async def example():" if is_async else "def example():"
        compile(f"{header}\n{textwrap.indent(body, '    ')}", str(page), "exec")


def anchors(page: Path) -> set[str]:
    """Returns the anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
