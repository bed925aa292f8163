"""``python -m san_cliptrase.data``."""

from san_cliptrase.entry import start

if __name__ == "__main__":
    start("san_cliptrase.data.command")
