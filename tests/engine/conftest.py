import logging

import pytest
from detectron2.utils.logger import setup_logger


@pytest.fixture(autouse=True)
def fresh_logging():
    """detectron2 sets a logger up once a process, on the screen and the file of the first run."""
    yield
    for name in ("fvcore", "detectron2", "san_cliptrase"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.propagate = True
    setup_logger.cache_clear()
