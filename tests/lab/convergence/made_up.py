"""Studies of curves whose answers are known."""

import numpy as np

from san_cliptrase.lab.convergence.curves import Curve
from san_cliptrase.lab.convergence.experiment import Variant
from san_cliptrase.lab.convergence.study import Run, Study

CONFIG = {
    "SOLVER.BASE_LR": 0.002,
    "SOLVER.MAX_ITER": 100,
    "SOLVER.IMS_PER_BATCH": 16,
    "DATASETS.TRAIN": ["demo_scenes_train"],
    "MODEL.SAN.QUERY_INIT.NAME": "off",
}
PART = {"processor": "P", "cores": 2, "gpu": None, "torch": "2", "python": "3", "threads": 1, "jobs": 2}


def ramp(end, top, metrics=("mIoU", "mIoU seen", "mIoU unseen"), seconds=1.0):
    """Rises from 0 to ``top`` until iteration ``end`` of 100 and stays there; evaluated every 10."""
    iterations = np.arange(0, 101, 10.0)
    values = top * np.minimum(iterations / end, 1)
    return Curve(iterations, seconds * iterations, dict.fromkeys(metrics, values))


def study(curves, **changes):
    """Of variant -> seed -> curve; the first variant is the baseline."""
    runs = {name: {s: Run(c, CONFIG, [PART]) for s, c in seeds.items()} for name, seeds in curves.items()}
    variants = {name: Variant(name, f"the {name}", {}, tuple(seeds)) for name, seeds in curves.items()}
    known = {"source": "made_up.yaml", "base": "san.yaml", "overrides": {}, "levels": (0.5, 1.0), "dataset": "demo"}
    return Study(baseline=next(iter(curves)), variants=variants, runs=runs, **{**known, **changes})
