"""docs/settings.md: made from the code, current, and complete."""

import io
import re

import pytest
from django.core.management import CommandError, call_command

from shop.management.commands.settings_reference import Variable, read_by_code, reference
from tests.pages import ROOT
from tests.test_compose import documented, read_by_settings


def test_the_page_about_settings_is_what_the_code_makes_of_it() -> None:
    printed = io.StringIO()

    call_command("settings_reference", stdout=printed)

    assert (ROOT / "docs" / "settings.md").read_text() == printed.getvalue()


def test_the_page_names_each_variable_once_and_so_does_the_example() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    names = re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)

    assert len(names) == len(set(names))
    assert set(names) == set(documented()) >= read_by_settings()


def test_a_default_of_the_code_is_the_default_on_the_page() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()

    for row in (
        r"BODY_TIMEOUT_S.* whole number, seconds \| `10`",
        r"FLOWER`.* or `false` \| `true`",
        "HTTPS.*`false` ",
    ):
        assert re.search(row, page), row


def test_a_variable_that_the_example_does_not_name_is_missed() -> None:
    example = (ROOT / ".env.example").read_text()

    with pytest.raises(CommandError, match="says nothing about NEW_ONE"):
        reference(example, read_by_code() | {"NEW_ONE": Variable("int", "1")})
