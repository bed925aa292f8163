"""What ``san-cliptrase app`` does: make a folder, build the page, serve it, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from argparse import Namespace
from pathlib import Path

from san_cliptrase.errors import OptionError

QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""gradio asks nobody for its latest version, reports to nobody and keeps no history."""


def execute(options: Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        OptionError: gradio is not installed, or the address cannot be listened on.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder is removed then too
    with tempfile.TemporaryDirectory(prefix="san-cliptrase-app-") as folder:
        os.environ.update(QUIET, GRADIO_TEMP_DIR=str(Path(folder) / "cache"))  # read when gradio is imported
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise OptionError(
                "the page needs the package gradio: pip install 'san_cliptrase[app]' (in a clone: '.[app]')"
            ) from error

        from san_cliptrase.app.offers import Offers
        from san_cliptrase.app.page import build_page
        from san_cliptrase.app.server import is_local, listen, serve

        with listen(options.host, options.port) as listening:
            port = listening.getsockname()[1]
            local = is_local(options.host)
            page = build_page(Offers.of(options.clip, options.san, local), options.device, Path(folder))
            threading.Thread(target=_prepare, daemon=True).start()
            host = f"[{options.host}]" if ":" in options.host else options.host
            sys.stdout.write(f"http://{host}:{port} (Ctrl-C stops it)\n")
            sys.stdout.flush()
            serve(page, listening, local, options.max_upload)


def _prepare() -> None:
    """Import torch and what needs it while the reader looks at the page."""
    from san_cliptrase.app import work  # noqa: F401
