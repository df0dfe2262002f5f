# `make demo` and `make test` are all the set-up there is; each makes .venv when it is not there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
TRAIN := $(BIN)/python -m medcolor_tf.train

.PHONY: demo test lint clean

$(VENV)/.installed: setup.py pyproject.toml
	@echo "installing the packages into $(VENV) (some minutes, 3 GB)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m data_prep.build --flagfile=prep_phantom.flags --out=$(DEMO)/tfrecords
	$(TRAIN) --flagfile=stage1.flags --flagfile=demo.flags --run_dir=$(DEMO)/stage1
	$(TRAIN) --flagfile=stage2.flags --flagfile=demo.flags --run_dir=$(DEMO)/stage2 \
		--init_from=$(DEMO)/stage1
	$(BIN)/python -m medcolor_tf.evaluate --run_dir=$(DEMO)/stage1 --data_dir=$(DEMO)/tfrecords
	$(BIN)/python -m medcolor_tf.evaluate --run_dir=$(DEMO)/stage2 --data_dir=$(DEMO)/tfrecords
	test -e $(DEMO)/saved_model || \
		$(BIN)/python -m medcolor_tf.export --run_dir=$(DEMO)/stage2 --out=$(DEMO)/saved_model

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(DEMO)
