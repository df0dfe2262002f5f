# These targets are all the set-up there is; each makes .venv when it is not there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
TRAIN := $(BIN)/python -m medcolor_tf.train

STUDY := runs/phantom
PREPARE := $(BIN)/python -m data_prep.build --flagfile=prep_phantom.flags --views=frontal \
	--short_side=48 --phantom_images=300

.PHONY: demo study docs check test test-torch static bench bench-quick lint clean
.PHONY: lock audit nightly nightly-tests nightly-lowest nightly-newest

# The versions of requirements.lock, each checked by its hash: what CI tested is what is installed.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(VENV)/.installed: setup.py pyproject.toml requirements.lock
	@echo "installing the packages into $(VENV) (some minutes, 3 GB)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m data_prep.build --flagfile=prep_phantom.flags --views=frontal \
		--short_side=96 --data_root=$(DEMO)/phantom --out=$(DEMO)/tfrecords
	$(TRAIN) --flagfile=baseline.flags --flagfile=demo.flags --run_dir=$(DEMO)/baseline
	$(TRAIN) --flagfile=stage1.flags --flagfile=demo.flags --run_dir=$(DEMO)/stage1 \
		--colorizer=color_u --colorizer_init=gray
	$(TRAIN) --flagfile=baseline_all.flags --flagfile=demo.flags --run_dir=$(DEMO)/baseline_all
	$(TRAIN) --flagfile=stage2.flags --flagfile=demo.flags --run_dir=$(DEMO)/stage2 \
		--init_from=$(DEMO)/stage1
	test -e $(DEMO)/predictions.csv || $(BIN)/python -m medcolor_tf.predict \
		--run_dir=$(DEMO)/stage2 --inputs=$(DEMO)/phantom/valid --out=$(DEMO)/predictions.csv \
		--colorized_dir=$(DEMO)/colorized
	test -e $(DEMO)/saved_model || $(BIN)/python -m medcolor_tf.export \
		--run_dir=$(DEMO)/stage2 --out=$(DEMO)/saved_model
	$(BIN)/python -m medcolor_tf.report $(DEMO)/baseline $(DEMO)/stage1 $(DEMO)/baseline_all \
		$(DEMO)/stage2 --out=$(DEMO)/report
	@echo
	@echo "The demo is complete. Where to look:"
	@echo "  $(DEMO)/phantom/train      the drawn X-rays, in CheXpert's layout"
	@echo "  $(DEMO)/colorized          gray images beside what T makes of them"
	@echo "  $(DEMO)/predictions.csv    probability of each observation for each image"
	@echo "  $(DEMO)/report/index.html  the four strategies side by side, pictures, curves"
	@echo "  $(DEMO)/stage2             the run: AUC per checkpoint, weights, evaluation"
	@echo "  $(DEMO)/saved_model        the exported model"
	@echo "  $(BIN)/tensorboard --logdir=$(DEMO)    curves and colorized images"

study: $(VENV)/.installed
	$(PREPARE) --data_root=$(STUDY)/phantom1 --out=$(STUDY)/data/first
	$(PREPARE) --seed=1 --data_root=$(STUDY)/phantom2 --out=$(STUDY)/data/second
	$(BIN)/python -m medcolor_tf.experiment --flagfile=phantom.flags
	$(BIN)/python -m medcolor_tf.report $(STUDY) --out=$(STUDY)/report
	@echo "Open $(STUDY)/report/index.html in a browser."

# The documentation as pages; --strict makes an error of every warning (a broken link, a page that no
# menu names), but not with --quiet, which has it count none. The variable silences the theme's own announcement, which is no warning of ours.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html, or for the search: $(BIN)/python -m http.server --directory site"

# `make check` is for every change, in less than 90 seconds; `make test` is everything. Both run
# `static` and `docs` beside the tests: each of the two says what it has to say in one piece, among
# the tests' lines, and a failure of any fails the whole. A third process of tests works while those
# of several hosts wait for heartbeats that do not come.
PYTEST := $(BIN)/python -m pytest --dist=loadfile --no-loadscope-reorder
STATIC_AND_DOCS = $(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going static docs

check: TESTS := --numprocesses=2 -m "not slow and not nightly"
test: TESTS := --numprocesses=3

check test: $(VENV)/.installed
	@$(STATIC_AND_DOCS) & others=$$!; \
	$(PYTEST) $(TESTS); tests=$$?; \
	wait $$others || { echo "$@: static or docs failed, see above" >&2; exit 1; }; \
	exit $$tests

static: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project=pyproject.toml --pythonpath=$(BIN)/python

# Side by side with PyTorch, which only these need. The quick benchmark leaves out the one variant
# that takes minutes to compile; the results say so. With films and a backbone (docs/speed.md, "Time to
# AUC"), `make bench-quick FILMS=FOLDER BACKBONE=FILE`, it also measures the time to an AUC, one seed.
QUICK_ROWS := color_module/ResNet18,all/ResNet18,inference/ResNet18/float32
QUICK_ROWS := $(QUICK_ROWS),color_module/DenseNet121/bfloat16,augmentation,input,preparation

$(VENV)/.torch: $(VENV)/.installed
	$(PIP) --editable '.[bench]'
	touch $@

test-torch: $(VENV)/.torch
	$(BIN)/python -m pytest -m torch

bench: $(VENV)/.torch
	$(BIN)/python -m benchmarks.run

bench-quick: $(VENV)/.torch
	$(BIN)/python -m benchmarks.run --rows=$(QUICK_ROWS) --size=160 --images=1024 --rounds=5 \
		--seconds=2 "--leave_out=DenseNet121:torch compile,all/ResNet18:torch compile"
	test -z "$(FILMS)" || $(BIN)/python -m benchmarks.time_to_auc --data=$(FILMS) \
		--backbone=$(BACKBONE) --seeds=0

# What takes too long for every change: hours of kills, damages and fuzzing; both ends of the
# versions that pyproject.toml allows; known vulnerabilities (a package that cannot be looked up is a
# failure). One that fails does not stop the rest.
nightly:
	$(MAKE) --keep-going nightly-tests nightly-lowest nightly-newest audit

nightly-tests: $(VENV)/.installed
	$(BIN)/python -m pytest -m nightly --capture=tee-sys

$(VENV)/.nightly: $(VENV)/.installed
	$(PIP) --editable '.[nightly]'
	touch $@

COMPILE := $(BIN)/uv pip compile --quiet --extra=dev pyproject.toml --output-file

lock: $(VENV)/.nightly
	$(COMPILE) requirements.lock --universal --python-version=3.11 --generate-hashes --upgrade \
		--custom-compile-command="make lock"

# Old versions beside new ones warn of each other; that is no failure.
nightly-lowest: OPTIONS := --resolution=lowest-direct
nightly-newest: OPTIONS := --upgrade
nightly-lowest nightly-newest: nightly-%: $(VENV)/.nightly
	rm -rf $(VENV)-$*
	$(PYTHON) -m venv $(VENV)-$*
	$(COMPILE) $(VENV)-$*/versions.txt $(OPTIONS)
	$(BIN)/uv pip install --quiet --python=$(VENV)-$* --requirement $(VENV)-$*/versions.txt
	$(BIN)/uv pip install --quiet --python=$(VENV)-$* --no-deps --editable .
	$(VENV)-$*/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder -W default

# Where pypi.org cannot be asked, AUDIT names another source: see CONTRIBUTING.md.
audit: $(VENV)/.nightly
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock $(AUDIT)

lint: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(DEMO)
