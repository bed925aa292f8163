"""The page in a real browser, as a reader uses it. Run by ``make test-app``, which installs what it needs."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from san_cliptrase.commands.main import main
from san_cliptrase.scenes import make_scene
from tests.conftest import ROOT

pytest.importorskip("gradio", reason="needs gradio: pip install 'san_cliptrase[app]'")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install 'san_cliptrase[test-app]'"
)

PATIENCE = 120_000
"""Milliseconds: the first answer waits for torch."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Process and address of ``san-cliptrase app``, and the folder that has its temporary files."""
    temporary = tmp_path_factory.mktemp("temporary")
    process = subprocess.Popen(
        [sys.executable, "-m", "san_cliptrase", "app", "--port", "0", "--device", "cpu", "--max-upload", "1"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    address = re.match(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert address, "the command did not say where the page is"
    yield process, address[0], temporary
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def chromium(browser):
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(server, chromium):
    """The page with the first example in it; requests to elsewhere and errors of its scripts are collected."""
    opened = chromium.new_page(viewport={"width": 400, "height": 800}, accept_downloads=True)
    opened.set_default_timeout(PATIENCE)
    opened.elsewhere, opened.errors = [], []
    for event in ("requestfinished", "requestfailed"):
        opened.on(event, lambda request: opened.elsewhere.extend(_elsewhere(request, server[1])))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(server[1])
    opened.get_by_role("button", name="lava, grass").click()
    opened.wait_for_function("document.querySelector('#words textarea').value.includes('lava')")
    opened.get_by_role("button", name="Segment").click()
    opened.get_by_role("status").filter(has_text="lava").wait_for()
    return opened


def _elsewhere(request, address):
    """The address of a request that was sent to another machine; "csp": the page's own policy stopped it."""
    if not request.url.startswith((address, "data:", "blob:")) and request.failure != "csp":
        yield request.url, request.failure


def test_words_become_names_under_the_pointer(page):
    view = page.frame_locator("#result iframe")
    image = view.get_by_role("application")
    view.locator("#status").filter(has_text="Patch row 6").wait_for()
    image.hover(position={"x": 60, "y": 30})
    assert re.fullmatch(r"lava, region \d+, confidence [01]\.\d\d", view.locator("#tip").inner_text())
    for layer in ("regions", "confidence", "segments"):
        view.get_by_label(layer, exact=True).check()


def test_a_point_is_chosen_by_click_and_by_keys(page):
    view = page.frame_locator("#result iframe")
    image, status, maps = view.get_by_role("application"), view.locator("#status"), view.get_by_role("img")
    image.click(position={"x": 5, "y": 5})
    status.filter(has_text="Patch row 0, column 0: lava").wait_for()
    labels = [maps.nth(index).get_attribute("aria-label") for index in range(4)]
    assert labels[0].startswith("self-correlation from row 0, column 0")
    assert labels[1].startswith("suppressed correlation from row 0, column 0")
    image.press("End")
    status.filter(has_text="Patch row 0, column 11").wait_for()
    assert maps.nth(0).get_attribute("aria-label") != labels[0]


def test_what_is_downloaded_can_be_read(page, tmp_path):
    files = []
    for name in ("Overlay", "Label map", "COCO"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).or_(page.get_by_role("button", name=name)).first.click()
        files.append(tmp_path / download.value.suggested_filename)
        download.value.save_as(files[-1])
    overlay, labels, coco = files
    assert [path.name for path in files] == ["scene_25_overlay.png", "scene_25_labels.png", "scene_25_coco.json"]
    assert Image.open(overlay).width > 192
    assert (Image.open(labels).mode, Image.open(labels).size) == ("P", (192, 192))
    read = COCO(coco)
    assert sum(annotation["area"] for annotation in read.loadAnns(read.getAnnIds())) == 192 * 192


def message_of_the_command(arguments, capsys, tmp_path):
    words = [*arguments, "--output", str(tmp_path / "out"), "--model", "scenes_vit", "--pretrained", "scenes"]
    assert main(["predict", *words]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_a_bad_word_is_told_as_the_command_tells_it(page, capsys, tmp_path):
    Image.fromarray(make_scene((2, 25)).image).save(tmp_path / "scene.png")
    said = message_of_the_command([str(tmp_path / "scene.png"), "--vocabulary", "lava, , Lava"], capsys, tmp_path)
    page.locator("#words textarea").fill("lava, , Lava")
    page.locator("#words textarea").press("Enter")
    page.get_by_role("alert").filter(has_text="error").wait_for()
    assert page.get_by_role("alert").inner_text() == said


def test_a_bad_image_is_told_as_the_command_tells_it(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_scene((2, 25)).image).save("whole.png")
    Path("half.png").write_bytes(Path("whole.png").read_bytes()[:3000])
    said = message_of_the_command(["half.png", "--vocabulary", "lava"], capsys, tmp_path)
    page.locator("#photo input[type=file]").set_input_files("half.png")
    page.get_by_role("alert").filter(has_text="half.png").wait_for()
    assert page.get_by_role("alert").inner_text() == said


def test_nothing_is_wider_than_a_telephone_and_nothing_comes_from_elsewhere(page):
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 400
    assert page.elsewhere == [] and page.errors == []
    assert "no photographs" in page.locator("#about").inner_text()


def test_too_large_a_file_and_a_foreign_name_are_refused(page, server):
    _, address, _ = server
    request = page.request
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(2**20 + 1)}
    assert request.post(f"{address}/gradio_api/upload", multipart={"files": large}).status == 413
    assert request.get(address, headers={"Host": "elsewhere.example"}).status == 400
    assert "default-src 'self'" in request.get(address).headers["content-security-policy"]


def test_no_name_of_a_session_leads_out_of_the_folder(tmp_path):
    from san_cliptrase.app.page import results_folder

    for session in ("../../home", "/etc", "", None, "a/b"):
        assert results_folder(tmp_path, session).parent == tmp_path / "results"
    assert results_folder(tmp_path, "a") != results_folder(tmp_path, "b")


def test_on_another_address_only_what_is_offered_can_be_chosen(tmp_path):
    import gradio

    from san_cliptrase.app.offers import Offers
    from san_cliptrase.app.page import build_page

    for others in (True, False):
        blocks = build_page(Offers(("scenes_vit@scenes",), ("run",), others), "cpu", tmp_path / str(others)).blocks
        for label, value in (("CLIP, MODEL@WEIGHTS", "a@b"), ("Folder of its run, or a file that export wrote", "/x")):
            (choice,) = [block for block in blocks.values() if getattr(block, "label", None) == label]
            if others:
                assert choice.preprocess(value) == value
            else:
                with pytest.raises(gradio.Error, match="not in the list of choices"):
                    choice.preprocess(value)


def test_nothing_is_left_behind(server, page):
    process, _, temporary = server
    assert any(temporary.rglob("scene_25.png"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    assert [path.name for path in temporary.iterdir() if path.name.startswith("san-cliptrase-app")] == []
