"""Numbers on the pages follow from the tables of evaluations in the repository.

``<!-- from ccp/curves.csv -->``, of docs/convergence, stands before a block. Every row of a table there is a row of
the report that is made from the file, or some columns of it; every number with brackets in a paragraph stands there.
Of several files, the first column of the table names their data sets.
"""

import re
from functools import cache
from itertools import pairwise

import pytest

from san_cliptrase.lab.convergence.curves_file import study_of_table
from san_cliptrase.lab.convergence.frontier import frontier_of, render_frontier
from san_cliptrase.lab.convergence.markdown import render_markdown
from san_cliptrase.lab.convergence.report import build_report, describe
from tests.conftest import ROOT

DOCS = ROOT / "docs" / "convergence"
PAGES = ("README.md", "docs/convergence.md", "docs/convergence/details.md")
BLOCK = re.compile(r"^<!-- from (.+) -->\n+((?:.+\n)+)", flags=re.MULTILINE)
BLOCKS = [
    pytest.param(*block, id=f"{page}-{index}")
    for page in PAGES
    for index, block in enumerate(BLOCK.findall((ROOT / page).read_text(encoding="utf-8")))
]


@cache
def report(name):
    study = study_of_table(DOCS / name)
    frontier = frontier_of(study)
    if frontier:
        return render_frontier(frontier, describe(study, None, "today"), [])
    return render_markdown(build_report(study, None, "today"))


def tables(text):
    """(head, rows) of each table, without bold."""
    for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        cells = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        yield cells[0], cells[2:]


def projections(name, head):
    """The rows of a report's tables that have these columns, in this order."""
    for columns, rows in tables(report(name)):
        if set(head) <= set(columns):
            yield from ([row[columns.index(column)] for column in head] for row in rows)


def test_there_are_blocks_with_numbers_of_tables():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize(("files", "block"), BLOCKS)
def test_numbers_follow_from_the_evaluations(files, block):
    files = files.split(", ")
    if not block.startswith("|"):
        numbers = re.findall(r"[+-]?[\d.]+ \[[^]]+\]", block)
        assert numbers
        assert not [number for number in numbers if not any(number in report(name) for name in files)]
        return
    ((head, rows),) = tables(block)
    if len(files) == 1:
        sources = files * len(rows)
    else:
        first = [row.pop(0) for row in rows]
        head = head[1:]
        places = [0]
        for before, own in pairwise(first):
            places.append(places[-1] + (own not in ("", before)))
        sources = [files[place] for place in places]
    wrong = [row for row, name in zip(rows, sources, strict=True) if row not in list(projections(name, head))]
    assert not wrong
