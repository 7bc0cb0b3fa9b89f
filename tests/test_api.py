"""The API page is what the docstrings say."""

import pytest

import otel_logging
from otel_logging import _names
from tests import api, readme
from tests.lines import ROOT


def test_the_page_is_made_from_the_docstrings() -> None:
    """Where it is not: python3 -m tests.api > docs/api.md."""
    assert (ROOT / "docs" / "api.md").read_text("utf-8") == api.page()


def test_everything_public_is_on_it_with_a_docstring() -> None:
    entries = api.page().split("\n### ")[1:]
    described = {name: text for name, _, text in (entry.partition("\n") for entry in entries)}
    assert set(otel_logging.__all__) <= set(described) & set(dir(otel_logging))
    for name, text in described.items():
        assert len(text.rpartition("```")[2].strip()) > 20, name


def test_the_page_of_integrations_names_each() -> None:
    page = (ROOT / "docs" / "instrumentations.md").read_text("utf-8")
    assert [name for name in _names.INTEGRATIONS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", ["stages.md", "instrumentations.md"])
def test_each_code_block_of_the_page_runs(page: str) -> None:
    for block in readme.blocks("python", ROOT / "docs" / page):
        exec(block, {})
