"""The page to click on: what it carries, and what a real browser does with it."""

import base64
import html
import json
import re
import subprocess

import numpy as np
import pytest

from san_cliptrase.patches.page import page_data, page_text, write_page
from san_cliptrase.patches.view import AFTER, BEFORE, CORRELATION, PatchView

# Runs in the page once it is drawn; what it sees is left in an attribute for --dump-dom.
SCRIPT = """
<script>
addEventListener("load", () => setTimeout(() => {
  const seen = [];
  const look = () => seen.push({
    status: document.getElementById("status").textContent,
    maps: [...document.querySelectorAll("canvas")].map(canvas => canvas.toDataURL()),
    labels: [...document.querySelectorAll("canvas")].map(canvas => canvas.getAttribute("aria-label")),
  });
  const map = document.querySelectorAll("canvas")[1];
  look();
  const box = map.getBoundingClientRect();
  const place = { clientX: box.left + 2.5 / 3 * box.width, clientY: box.top + 0.5 / 2 * box.height, bubbles: true };
  map.dispatchEvent(new MouseEvent("click", place));
  look();
  document.querySelector("canvas").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
  look();
  const row = document.getElementById("row");
  row.value = 0;
  row.dispatchEvent(new Event("change"));
  look();
  const canvas = document.querySelector("canvas"), frame = canvas.getBoundingClientRect();
  const middle = { clientX: frame.left + 0.5 * frame.width, clientY: frame.top + 0.75 * frame.height };
  canvas.dispatchEvent(new MouseEvent("pointermove", middle));
  seen.push({
    tip: document.getElementById("tip").textContent,
    legend: [...document.querySelectorAll("tbody tr")].map(row => row.innerText),
  });
  for (const layer of document.querySelectorAll("#layers input")) { layer.click(); look(); }
  document.body.dataset.seen = JSON.stringify(seen);
}, 200));
</script>
"""


@pytest.fixture
def view():
    """An image of 2x3 patches of 8 pixels; its title and its classes try to leave their place in the page."""
    rng = np.random.default_rng(0)
    labels = np.kron(np.array([[0, 0, 1], [0, 2, 1]]), np.ones((8, 8), dtype=int))
    regions = np.array([0, 0, 1, 0, 2, 1])
    maps = {"plain CLIP, block 1 of 2": 20 * rng.random((6, 6)) ** 4, CORRELATION: rng.uniform(-1, 1, (6, 6))}
    return PatchView(
        title="DATA.png {{ data }} <b> & </script>",
        photo=rng.integers(0, 256, (16, 24, 3), dtype=np.uint8),
        grid=(2, 3),
        cell=(8.0, 8.0),
        maps=maps,
        clusters={BEFORE: regions, AFTER: regions},
        regions=regions,
        labels=labels,
        truth=None,
        names=("sky", "sea", "<!--<script> </script>\u2028&lt;"),
    )


def test_values_are_kept_to_a_part_in_500_of_their_row(view):
    for shown in page_data(view, (0, 0))["maps"]:
        values = view.maps[shown["name"]]
        codes = np.frombuffer(base64.b64decode(shown["codes"]), np.uint8).reshape(6, 6)
        low, high = np.array(shown["low"])[:, None], np.array(shown["high"])[:, None]
        error = np.abs(low + (high - low) * codes / 255 - values)
        assert (error <= (high - low) / 500 + 1e-5).all()


def test_page_is_one_file_that_loads_nothing(view, tmp_path):
    write_page(view, (1, 2), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert not re.findall(r"https?://|src=|href=|@import|url\(", text)
    assert text.count("</script>") == 2
    data = json.loads(re.search(r'application/json">(.*?)</script>', text, re.S)[1])
    assert (data["start"], data["names"], data["classes"]) == ([1, 2], list(view.names), [0, 0, 1, 0, 2, 1])
    assert data["title"] == view.title


def test_nothing_in_the_data_can_be_taken_for_html(view, tmp_path):
    write_page(view, (1, 2), tmp_path / "page.html")
    data = re.search(r'application/json">(.*?)</script>', (tmp_path / "page.html").read_text(), re.S)[1]
    assert not set(data) & set("<>&\u2028\u2029")


def test_a_row_of_equal_values_is_no_division_by_zero(view):
    view.maps[CORRELATION][:] = 0.25
    shown = page_data(view, (0, 0))["maps"][0]
    assert set(shown["low"]) == set(shown["high"]) == {0.25}


def test_click_arrow_and_number_change_maps_and_words(view, tmp_path, browser):
    page = tmp_path / "page.html"
    data = page_data(view, (0, 0), confidence=np.full((16, 24), 0.25))
    page.write_text(page_text(data).replace("</body>", f"{SCRIPT}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser, *flags, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = re.search(r'data-seen="([^"]*)"', dom)
    assert seen, "the page's script did not run to its end"
    start, clicked, arrow, number, hover, *layers = json.loads(html.unescape(seen[1]))
    assert start["status"] == "Patch row 0, column 0: sky, region of 3 of 6 patches"
    assert clicked["status"] == "Patch row 0, column 2: sea, region of 2 of 6 patches"
    assert arrow["status"] == "Patch row 1, column 2: sea, region of 2 of 6 patches"
    assert number["status"] == clicked["status"]
    assert number["maps"] == clicked["maps"]
    for before, after in ((start, clicked), (clicked, arrow)):
        assert all(old != new for old, new in zip(before["maps"], after["maps"], strict=True))
    assert hover["tip"] == "<!--<script> </script>\u2028&lt;, region 3, confidence 0.25"
    assert hover["legend"] == ["sky\t50 %\t0.25", "sea\t33 %\t0.25", "<!--<script> </script>\u2028&lt;\t17 %\t0.25"]
    assert len({layer["maps"][0] for layer in layers}) == 4  # segments, regions, confidence, image alone
    values = view.maps[CORRELATION][2]
    own, rest = values[5], values[[0, 1, 3, 4]].mean()
    assert f"{CORRELATION} from row 0, column 2. Region {own:.2f}, elsewhere {rest:.2f};" in clicked["labels"][1]
