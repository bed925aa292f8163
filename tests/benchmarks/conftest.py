"""Benchmarks register data sets and silence logging; a process that goes on must not keep that."""

import logging

import pytest

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)


@pytest.fixture(autouse=True)
def as_before():
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from san_cliptrase.evaluation.evaluate import dataset_records

    known = set(DatasetCatalog.list())
    yield
    logging.disable(logging.NOTSET)
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    dataset_records.cache_clear()
