"""A SAN in SAN's own format: ``python -m san_cliptrase.export --config FILE --output FILE MODEL.WEIGHTS FILE``."""

from san_cliptrase.entry import start

if __name__ == "__main__":
    start("san_cliptrase.engine.export")
