import json
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from benchmarks import gpu, gpu_sections
from benchmarks.gpu_report import Row

ROOT = Path(__file__).parents[2]


def rows(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_it_stops_in_time_and_keeps_what_it_has(tmp_path, monkeypatch):
    def endless(setting):
        yield Row("first", "quick", (1.0,))
        time.sleep(30)

    monkeypatch.setattr(gpu_sections, "SECTIONS", {"first": endless, "second": endless})
    started = time.monotonic()
    gpu.main(["--device", "cpu", "--minutes", str((gpu.MARGIN + 1) / 60), "--output", str(tmp_path)])
    assert time.monotonic() - started < 5
    assert [row["name"] for row in rows(tmp_path)] == ["quick"]
    assert "not finished: first, second" in (tmp_path / "report.md").read_text()


def test_a_section_that_fails_is_a_row_and_the_next_one_runs(tmp_path, monkeypatch):
    def failing(setting):
        yield Row("first", "good", (1.0,), at_most=1.0)
        raise RuntimeError("no such kernel")

    sections = {"first": failing, "second": lambda setting: iter([Row("second", "bad", (2.0,), at_most=1.0)])}
    monkeypatch.setattr(gpu_sections, "SECTIONS", sections)
    assert gpu.main(["--device", "cpu", "--output", str(tmp_path)]) == 1
    assert [(row["name"], row["passed"]) for row in rows(tmp_path)] == [
        ("good", True),
        ("the rest", False),
        ("bad", False),
    ]
    assert "RuntimeError: no such kernel" in (tmp_path / "report.md").read_text()


def test_requirements_are_printed_where_none_of_them_is_installed():
    command = [sys.executable, "-I", "-S", gpu.__file__, "--requirements"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(gpu.REQUIREMENTS)


def normal(name):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def with_what_they_need(names):
    found, waiting = set(), [normal(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            try:
                needed = requires(name) or []
            except PackageNotFoundError:  # of another platform
                continue
            waiting += [normal(need) for need in needed if "extra ==" not in need]
    return found


WITHOUT = """
import sys

sys.modules.update(dict.fromkeys(sys.argv[2:]))  # importing them fails
from benchmarks import gpu
sys.exit(gpu.main(["--device", "cpu", "--minutes", "5", "--output", sys.argv[1]]))
"""


def test_the_miniature_needs_nothing_but_the_requirements_has_every_section_and_equals_itself(tmp_path):
    there = {"san-cliptrase", *with_what_they_need(gpu.REQUIREMENTS)}
    absent = [module for module, names in packages_distributions().items() if not there & {*map(normal, names)}]
    assert {"hypothesis", "transformers"} & {*absent}
    subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path), *absent], check=True, cwd=ROOT)
    found = rows(tmp_path)
    assert list(dict.fromkeys(row["section"] for row in found)) == list(gpu_sections.SECTIONS)
    assert all(row["values"] and row["passed"] for row in found)
    assert all(row["values"] == [0.0] for row in found if row["section"] == "parity")
    table = (tmp_path / "report.md").read_text()
    assert all(f"| {row['name']} |" in table for row in found)
