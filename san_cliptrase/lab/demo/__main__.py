"""``python -m san_cliptrase.lab.demo``."""

from san_cliptrase.entry import start

if __name__ == "__main__":
    start("san_cliptrase.lab.demo.run")
