"""``python -m san_cliptrase.reproduce``."""

from san_cliptrase.entry import start

if __name__ == "__main__":
    start("san_cliptrase.reproduce.command")
