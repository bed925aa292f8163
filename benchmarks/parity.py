"""Parity with reference implementations: ``python benchmarks/parity.py --fixtures DIR``.

DIR holds numbers that the references made on small random CLIPs: a ``meta.json`` that names those of CLIPtrase and SAN,
or an .npz file with an entry "meta", those of dense rules and refinements. The weights are drawn again, our code runs,
and the largest deviation of each quantity is printed. Exit status 1 if one is above tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.parity_cliptrase import cliptrase_deviations
from benchmarks.parity_rules import load_rules, rules_deviations
from benchmarks.parity_san import san_deviations
from benchmarks.parity_weights import Row

CHECKS = {"cliptrase": cliptrase_deviations, "san": san_deviations}


def format_table(rows: list[Row]) -> str:
    """The rows as text, one a line."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'quantity':{width}}  {'deviation':>9}  {'tolerance':>9}"]
    for row in rows:
        verdict = "ok" if row.passed else "ABOVE TOLERANCE"
        lines.append(f"{row.name:{width}}  {row.deviation:9.1e}  {row.tolerance:9.1e}  {verdict}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the checks that the fixtures have numbers for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fixtures", type=Path, required=True, metavar="DIR", help="folder of parity fixtures")
    fixtures = parser.parse_args(arguments).fixtures
    if (fixtures / "meta.json").is_file():
        meta = json.loads((fixtures / "meta.json").read_text())
        rows = [row for name, check in CHECKS.items() if name in meta for row in check(fixtures)]
        if not rows:
            parser.error(f"{fixtures / 'meta.json'} has none of the entries {', '.join(CHECKS)}")
    elif rules := load_rules(fixtures):
        rows = rules_deviations(rules)
    else:
        parser.error(
            f"{fixtures} has neither a meta.json nor an .npz with an entry meta: give a folder of parity fixtures"
        )
    print(format_table(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
