"""Packaging of san_cliptrase; `make setup` installs it with detectron2, which no index carries under that name."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "san_cliptrase/__init__.py").read_text())[1]
README = ROOT / "README.md"
SAM = ["transformers>=5.0"]
COCO = ["pycocotools>=2.0.8"]
ONNX = ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5"]
SUPERVISION = ["supervision>=0.25"]
APP = ["gradio>=6.0"]

setup(
    name="san_cliptrase",
    version=VERSION,
    description="Open-vocabulary semantic segmentation: training-free CLIPtrase, and SAN trained from its regions",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    # The versions that the whole test suite has been run on.
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)],
    packages=find_packages(include=["san_cliptrase", "san_cliptrase.*"]),
    package_data={
        "san_cliptrase.clip": ["models/*.json", "models/*.safetensors"],
        "san_cliptrase.data": ["class_names/*.txt", "background_words/*.txt"],
        "san_cliptrase.evaluation": ["paper_numbers.json"],
        "san_cliptrase.lab": ["five_seeds.csv"],
        "san_cliptrase.lab.reproduce": ["other_papers.json"],
        "san_cliptrase.patches": ["page.html"],
    },
    entry_points={"console_scripts": ["san-cliptrase = san_cliptrase.commands.main:main"]},
    install_requires=[
        "ftfy>=6.1.0",
        "fvcore>=0.1.5.post20211023",
        "matplotlib>=3.7",
        "numpy>=1.26",
        "open_clip_torch>=3.1",
        "pillow>=11.0",
        "pyyaml>=6.0",
        "regex>=2022.1.18",
        "safetensors>=0.4.3",
        "scikit-learn>=1.3",
        "scipy>=1.11.1",
        "tabulate>=0.10",
        "tensorboard>=2.14",
        "timm>=1.0.26",
        "torch>=2.4",
        "torchvision>=0.19",
        "tqdm>=4.60",
    ],
    extras_require={
        "app": [*APP, *COCO],
        "coco": COCO,
        "onnx": ONNX,
        "sam": SAM,
        "supervision": SUPERVISION,
        "test": [
            "hypothesis>=6.100",
            "pytest>=9.1",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            *SAM,
            *COCO,
            *ONNX,
            *SUPERVISION,
        ],
        # Apart from "test": gradio needs an older Pillow than the newest.
        "test-app": [*APP, *COCO, "playwright>=1.50"],
    },
)
