"""The Hugging Face Hub where it does not answer: found out once and fast, in place of a page of retries a file."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from huggingface_hub import constants, get_session

from san_cliptrase.texts import one_line

ANSWERS_WITHIN = 5.0
"""Seconds in which the hub has to answer."""


def why_unreachable() -> str | None:
    """Why the hub cannot be reached; None if it answers."""
    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE:
        return f"{host} is not asked, as HF_HUB_OFFLINE is set"
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=ANSWERS_WITHIN)
            answers.put(None)
        except Exception as error:  # the errors of whichever library huggingface_hub speaks through
            answers.put(one_line(error, 120) or type(error).__name__)

    # In a thread, since a name server that is silent holds the call up for longer than any time limit of it.
    threading.Thread(target=ask, daemon=True).start()
    try:
        reason = answers.get(timeout=ANSWERS_WITHIN)
    except queue.Empty:
        reason = f"no answer within {ANSWERS_WITHIN:g} s"
    return f"{host} cannot be reached ({reason})" if reason else None


@contextlib.contextmanager
def without_retries() -> Iterator[str | None]:
    """Asks whether the hub answers; if not, everything in this context takes its files from the hub's cache or fails.

    open_clip and transformers fetch through huggingface_hub, which else tries every file for half a minute.

    Yields:
        Why the hub cannot be reached; None if it answers.
    """
    trouble, before = why_unreachable(), constants.HF_HUB_OFFLINE
    # What the environment variable HF_HUB_OFFLINE sets; huggingface_hub and transformers read it at each request.
    constants.HF_HUB_OFFLINE = before or trouble is not None
    try:
        yield trouble
    finally:
        constants.HF_HUB_OFFLINE = before
