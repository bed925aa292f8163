# The commands of this project. Each one sets the environment up first, if that has not been done.
#
#   PYTHON          the Python (3.10 or newer) that .venv is made with
#   VENV            an environment to use instead of .venv, a conda environment for example: make test VENV=$CONDA_PREFIX
#   OLDEST_PYTHON   the oldest Python that setup.py allows, for make test-oldest
#   WEIGHTS         a downloaded weights file of ViT-B/16, for make photos without a network
PYTHON ?= python3
VENV ?= .venv
OLDEST_PYTHON ?= python3.10
OLDEST_VENV := .venv-oldest
APP_VENV := .venv-app
CLIP := ViT-B-16
WEIGHTS ?= openai

RUN := $(VENV)/bin/python
# Written at the very end of a set-up: an interrupted one is taken up again by the next command.
STAMP := $(VENV)/.san_cliptrase_setup

# A .venv without a working pip was interrupted or has lost its Python: made anew. Other folders are not ours to clear.
define MAKE_ENVIRONMENT
if [ "$(VENV)" != .venv ] && [ "$(VENV)" != $(OLDEST_VENV) ] && [ "$(VENV)" != $(APP_VENV) ] && [ -e "$(VENV)" ]; then \
	echo "$(VENV) has no bin/python with pip: install pip there, or choose another VENV" >&2; exit 1; fi; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	echo "$(PYTHON) is not Python 3.10 or newer: name one, as in make setup PYTHON=python3.11" >&2; exit 1; }; \
echo "==> 1/3 new environment in $(VENV)"; $(PYTHON) -m venv --clear $(VENV)
endef

.PHONY: help setup demo photos test test-slow test-oldest test-app lock clean

help:
	@echo "make setup        install everything into $(VENV), once"
	@echo "make demo         train, evaluate and compare on the embedded scenes; results in output/demo"
	@echo "make photos       segment scikit-learn's two photographs with ViT-B/16, whose weights are fetched once"
	@echo "make test         ruff and the tests"
	@echo "make test-slow    the slow tests: the full recipe at full size"
	@echo "make test-oldest  the tests on the oldest versions that setup.py allows, in $(OLDEST_VENV)"
	@echo "make test-app     the tests of the page in a browser, in $(APP_VENV); needs chromium"
	@echo "make lock         write requirements.lock: every installed version with its SHA-256"
	@echo "make clean        remove output/ and caches, keep $(VENV)"

setup: $(STAMP)

$(STAMP): setup.py tools/install_detectron2.py
	@rm -f $@
	@$(RUN) -m pip --version >/dev/null 2>&1 || { $(MAKE_ENVIRONMENT); }
	@echo "==> 2/3 packages (PyTorch is several GB: minutes on the first run)"
	$(RUN) -m pip install --editable '.[test]'
	@echo "==> 3/3 detectron2"
	$(RUN) tools/install_detectron2.py
	@touch $@
	@echo "==> set-up complete"

demo: $(STAMP)
	$(RUN) -m san_cliptrase demo --output output/demo

photos: $(STAMP)
	@$(RUN) -m san_cliptrase predict "$$($(RUN) -c 'import sklearn.datasets as s; print(*s.__path__)')/images" \
		--output output/photos --model $(CLIP) --pretrained $(WEIGHTS) --vocabulary "sky, temple, tree, water, flower, leaf"

test: $(STAMP)
	$(RUN) -m ruff check .
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)
	$(RUN) -m pytest -m slow

# pip, that of the installer of detectron2 included, takes the constraints from the environment.
test-oldest:
	@mkdir -p build
	$(OLDEST_PYTHON) tools/oldest_requirements.py > build/oldest.txt
	PIP_CONSTRAINT=$(CURDIR)/build/oldest.txt $(MAKE) setup VENV=$(OLDEST_VENV) PYTHON=$(OLDEST_PYTHON)
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/python -m pytest -n 2 --dist loadfile

# Apart from .venv: gradio needs an older Pillow than the newest.
test-app:
	$(MAKE) setup VENV=$(APP_VENV)
	$(APP_VENV)/bin/python -m pip install --editable '.[test-app]'
	$(APP_VENV)/bin/python -m pytest tests/app

lock: $(STAMP)
	$(RUN) tools/lock.py requirements.lock

clean:
	rm -rf output build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
