"""The page: what can be chosen on the left, what comes of it on the right."""

from __future__ import annotations

import hashlib
import html
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from san_cliptrase.app.offers import ABOUT_EMBEDDED, ABOUT_OTHERS, EMBEDDED, EMBEDDED_SIZE, Example, Offers, examples
from san_cliptrase.choices import ATTENTION_RULES, CLASSIFY, DEFAULT_READING, READINGS, REFINEMENTS
from san_cliptrase.errors import OptionError
from san_cliptrase.images import load_image
from san_cliptrase.terminal import told
from san_cliptrase.texts import words_in

# Fonts of the reader's system: those of gradio's themes come from a server.
THEME = gr.themes.Default(
    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue", radius_size="sm"
)
CSS = """
.gradio-container { max-width: 90rem !important; }
.gradio-container > main { padding: 0 1rem; }
#examples { display: grid; gap: 0.4rem; grid-template-columns: 1fr 1fr; }
#examples button { flex-wrap: nowrap; font-weight: 400; justify-content: flex-start; min-width: 0; padding: 0.2rem; }
#examples button { text-align: left; }
#examples img { border-radius: 3px; flex: none; height: 2.6rem; margin: 0 0.4rem 0 0; object-fit: cover; width: 2.6rem }
#model input[role=combobox] { padding-right: 1.6rem !important; text-overflow: ellipsis; }
#message .html-container, #result .html-container { padding: 0 !important; }
#result iframe { border: 0; display: block; height: 30rem; width: 100%; }
#message p { margin: 0; overflow-wrap: anywhere; }
#message .problem { border: 2px solid #c62828; border-radius: 4px; padding: 0.5rem 0.7rem; }
"""
TRAINING_FREE, TRAINED = "training-free", "trained SAN"
LONGEST_PREVIEW = 1024
LARGEST_SIZE = 2048
FORGET_EVERY, FORGET_AFTER = 600, 3600
"""Seconds: files that were uploaded or made are looked for so often, and deleted when they are so old."""
EMPTY = "<p>Here your image will be: names under the pointer, regions, confidence, and points to click on.</p>"
DOWNLOADS = ("Overlay (PNG)", "Label map (PNG)", "COCO (JSON)")


def build_page(offers: Offers, device: str, folder: Path) -> gr.Blocks:
    """The page.

    Args:
        offers: The models to choose from.
        device: See ``Segmenter.from_clip``.
        folder: For the files of examples and results; whoever calls removes it.
    """
    shipped = examples(folder / "examples")
    gr.set_static_paths(folder / "examples")  # served from there: what gradio copies is deleted after an hour
    with gr.Blocks(title="san_cliptrase", analytics_enabled=False, delete_cache=(FORGET_EVERY, FORGET_AFTER)) as page:
        gr.Markdown("# Segment an image by words")
        about = gr.Markdown(_about(offers.clips[0]), elem_id="about")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                source = gr.State(None)
                photo = gr.Image(label="Image", sources=["upload", "clipboard"], height=240, elem_id="photo")
                # The file as it is: it is read, or refused, as the command does it. (A subclass would say this better,
                # but gradio writes a stub file beside the source of one.)
                photo.preprocess = _path_of
                gr.Markdown("Examples: two demo scenes, two photographs")
                with gr.Row(elem_id="examples"):
                    pictures = [gr.Button(example.about, icon=example.path, size="sm") for example in shipped]
                words = gr.Textbox(label="Words", placeholder="sky, sea, boat", elem_id="words")
                background = gr.Textbox(
                    label="Words that mean background",
                    placeholder="may be empty",
                    elem_id="background",
                )
                run = gr.Button("Segment", variant="primary", elem_id="run")
                settings = _settings(offers, about)
            with gr.Column(scale=3, min_width=300):
                message = gr.HTML(elem_id="message", padding=False)
                with gr.Row():
                    downloads = [
                        gr.DownloadButton(text, interactive=False, size="sm", min_width=130) for text in DOWNLOADS
                    ]
                result = gr.HTML(EMPTY, elem_id="result", padding=False)

        def segment(
            request: gr.Request,
            path: str | None,
            typed: str,
            typed_background: str,
            kind: str,
            clip: str | None,
            attention: str | None,
            classify: str | None,
            size: float | None,
            san: str | None,
            refine: str,
            progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
        ) -> list[Any]:
            own = results_folder(folder, request.session_hash)
            shutil.rmtree(own, ignore_errors=True)
            progress(0, desc="Reading the choices")  # the first word takes the time of importing torch
            try:
                from san_cliptrase.app.work import Choice, show

                if path is None:
                    raise OptionError("there is no image: drop one, paste one, or take an example")
                if not Path(path).exists():
                    raise OptionError("the image was deleted, as every upload is after an hour: choose it again")
                choice = Choice(
                    clip or "",
                    attention or "",
                    classify or "",
                    refine,
                    None if size is None else int(size),
                    device=device,
                )
                if kind == TRAINED:
                    if not san:
                        raise OptionError(
                            "there is no trained SAN: name the folder of its run, or choose training-free"
                        )
                    choice = Choice(san=san, refine=refine, device=device)
                shown = show(Path(path), words_in(typed), words_in(typed_background), choice, own, progress)
            except Exception as error:
                return [
                    _problem(error, path),
                    EMPTY,
                    *(gr.DownloadButton(value=None, interactive=False) for _ in DOWNLOADS),
                ]
            frame = f'<iframe title="Segments of the image" srcdoc="{html.escape(shown.html)}"></iframe>'
            files = (shown.overlay, shown.labels, shown.coco)
            return [
                f'<p role="status">{html.escape(shown.about)}</p>',
                frame,
                *(gr.DownloadButton(value=str(file), interactive=True) for file in files),
            ]

        def forget(request: gr.Request) -> None:
            shutil.rmtree(results_folder(folder, request.session_hash), ignore_errors=True)

        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        gr.on([photo.input, photo.clear], _take, photo, [source, photo, message], **quiet)
        for example, button in zip(shipped, pictures, strict=True):
            button.click(partial(_take_example, example), None, [source, photo, words, background, message], **quiet)
        gr.on(
            [run.click, words.submit, background.submit],
            segment,
            [source, words, background, *settings],
            [message, result, *downloads],
            api_visibility="private",
            show_progress_on=result,
            concurrency_limit=1,
        )
        page.unload(forget)
    return page


def _settings(offers: Offers, about: gr.Markdown) -> list[Any]:
    """The components of the model's settings, in the order of ``segment``'s arguments."""
    named = READINGS[DEFAULT_READING]
    with gr.Accordion("Model", open=False, elem_id="model"):
        kind = gr.Radio([TRAINING_FREE, TRAINED], value=TRAINING_FREE, label="Method")
        with gr.Group() as training_free:
            clip = gr.Dropdown(
                list(offers.clips), label="CLIP, MODEL@WEIGHTS", allow_custom_value=offers.others, elem_id="clip"
            )
            reading = gr.Dropdown(
                [(f"{name}: {one.about}", name) for name, one in READINGS.items()],
                value=DEFAULT_READING,
                label="Reading, which chooses the next two and the refinement",
            )
            attention = gr.Dropdown(
                _named(ATTENTION_RULES),
                value=named.attention,
                label="Attention rule of the last block",
                allow_custom_value=True,
            )
            classify = gr.Dropdown(
                _named(CLASSIFY), value=named.classify, label="What names a region", allow_custom_value=True
            )
            size = gr.Number(
                _size(offers.clips[0]),
                precision=0,
                minimum=1,
                maximum=LARGEST_SIZE,
                label="Shorter side that CLIP sees, in pixels (empty: as trained)",
            )
        san = gr.Dropdown(
            list(offers.sans),
            value=offers.sans[0] if offers.sans else None,
            label="Folder of its run, or a file that export wrote",
            allow_custom_value=offers.others,
            visible=False,
        )
        refine = gr.Dropdown(_named(REFINEMENTS), value=named.refine, label="Refinement")
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    kind.change(
        lambda kind, reading: [
            gr.Group(visible=kind == TRAINING_FREE),
            gr.Dropdown(visible=kind == TRAINED),
            gr.Markdown(visible=kind == TRAINING_FREE),
            READINGS[reading].refine if kind == TRAINING_FREE else "none",
        ],
        [kind, reading],
        [training_free, san, about, refine],
        **quiet,
    )
    reading.change(
        lambda name: [READINGS[name].attention, READINGS[name].classify, READINGS[name].refine],
        reading,
        [attention, classify, refine],
        **quiet,
    )
    clip.change(lambda clip: [_about(clip), _size(clip)], clip, [about, size], **quiet)
    return [kind, clip, attention, classify, size, san, refine]


def _named(names: dict[str, str]) -> list[tuple[str, str]]:
    return [(f"{name}: {about}", name) for name, about in names.items()]


def _about(clip: str | None) -> str:
    return ABOUT_EMBEDDED if clip == EMBEDDED else ABOUT_OTHERS


def _size(clip: str | None) -> int | None:
    return EMBEDDED_SIZE if clip == EMBEDDED else None


def _path_of(payload: Any) -> str | None:
    """The path of an uploaded file."""
    return None if payload is None else payload.path


def _take(path: str | None) -> list[Any]:
    """What becomes of an image that was chosen: its file, a preview, and why it cannot be used if that is so."""
    if path is None:
        return [None, None, ""]
    try:
        preview = Image.fromarray(load_image(path))
    except Exception as error:
        return [None, None, _problem(error, path)]
    preview.thumbnail((LONGEST_PREVIEW, LONGEST_PREVIEW))
    return [path, preview, ""]


def _take_example(example: Example) -> list[Any]:
    path, preview, message = _take(example.path)
    return [path, preview, example.words, "", message]


def _problem(error: Exception, path: str | None) -> str:
    """The message that the command would print.

    Raises:
        Exception: The error itself, if it was not raised on purpose.
    """
    message = told(error)
    if message is None:
        raise error
    if path is not None:
        message = message.replace(f"{Path(path).parent}/", "")  # where the upload lies is nobody's business
    return f'<p class="problem" role="alert">error: {html.escape(message)}</p>'


def results_folder(folder: Path, session: str | None) -> Path:
    """Where the results of one open page lie. The browser names its session: no such name may lead elsewhere."""
    return folder / "results" / hashlib.sha256(str(session).encode()).hexdigest()
