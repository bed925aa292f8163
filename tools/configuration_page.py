"""Write ``docs/configuration.md`` from the table of configuration keys: ``python tools/configuration_page.py``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(ROOT))

from san_cliptrase.config import render_page  # noqa: E402 (the line above comes first)

PAGE = ROOT / "docs" / "configuration.md"

if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
