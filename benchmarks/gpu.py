"""Everything that needs a GPU, in order of value: ``python benchmarks/gpu.py --minutes 25 --output DIR``.

Each row is written as soon as it is measured, to ``rows.jsonl`` and ``report.md`` in DIR, and the program ends before
the time is over. What fails is a row too; the sections after it run. Exit status 1 if a row failed or is above its
bound. On a machine without a GPU it measures a miniature, which shows that it runs and nothing else.

GPU machines are often cut off: ``--requirements`` prints the packages that it needs, as pip reads them; it runs with
nothing but these, and fetches nothing. detectron2 is on no index under that name: ``tools/install_detectron2.py``.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_report import Report, Row

logger = logging.getLogger(__name__)

REQUIREMENTS = (
    "cloudpickle",
    "detectron2>=0.6",
    "fvcore>=0.1.5",
    "iopath>=0.1.7",
    "matplotlib>=3.7",
    "numpy>=1.26",
    "omegaconf>=2.1",
    "open_clip_torch>=3.0",
    "pillow>=10.1",
    "pycocotools>=2.0.2",
    "pyyaml>=6.0",
    "safetensors>=0.4",
    "scikit-learn>=1.3",
    "scipy>=1.11",
    "tabulate",
    "tensorboard>=2.14",
    "termcolor>=1.1",
    "timm>=1.0",
    "torch>=2.4",
    "torchvision>=0.19",
    "tqdm>=4.60",
    "yacs>=0.1.8",
)
MARGIN = 5
"""Seconds before the end at which measuring stops."""


class TimeIsUp(BaseException):
    """Not an ``Exception``: nothing on the way up handles it as a failure."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises ``TimeIsUp`` inside when so many seconds have passed."""

    def stop(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(argv: list[str] | None = None) -> int:
    """Command line: 0 if every row that was measured is within its bound."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25, help="time to end in")
    parser.add_argument("--output", type=Path, help="folder of the report")
    parser.add_argument("--sections", nargs="+", metavar="NAME", help="only these; default: all, in order of value")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--requirements", action="store_true", help="print the packages that are needed, and end")
    args = parser.parse_args(argv)
    if args.requirements:
        print("\n".join(REQUIREMENTS))
        return 0
    if args.output is None:
        parser.error("name the folder of the report with --output")

    # Here, so that --requirements works where they are missing.
    from benchmarks.gpu_sections import SECTIONS, Setting, describe_machine

    unknown = sorted(set(args.sections or ()) - set(SECTIONS))
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    logging.disable(logging.WARNING)  # that weights are random
    setting = Setting.of(args.device)
    report = Report(args.output, describe_machine(setting))
    waiting = [name for name in SECTIONS if name in (args.sections or SECTIONS)]
    try:
        with time_limit(60 * args.minutes - MARGIN - (time.monotonic() - started)):
            while waiting:
                try:
                    for row in SECTIONS[waiting[0]](setting):
                        report.add(row)
                except Exception as error:  # whatever it is, the sections after it do not need this one
                    logger.exception("section %s", waiting[0])
                    report.add(Row(waiting[0], "the rest", note=f"{type(error).__name__}: {error}", failed=True))
                waiting.pop(0)
    except TimeIsUp:
        report.say(f"\nThe time was over; not finished: {', '.join(waiting)}.")
    return int(not all(row.passed for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
