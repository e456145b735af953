# `make demo` runs the whole method on the embedded benchmark, `make test` the tests,
# `make test-all` the slow ones too; all set up their own environment first and need
# nothing but Python, git and make.

VENV ?= .venv
DEMO_DIR ?= demo_run
REQUIREMENTS ?= requirements.txt
TEST_REQUIREMENTS ?= requirements-test-keras2.txt
PYTEST_FLAGS ?= -n 2 --dist loadfile
# By their marks, which pyproject.toml lists; empty for all.
TESTS ?= not slow

# The first of these that exists and can make an environment, which Debian's own Python
# cannot without the package python3-venv.
PYTHON ?= $(shell for python in python3.11 python3.10 python3 python3.12 python3.13; do \
	$$python -c "import ensurepip, sys, venv; assert sys.version_info >= (3, 10)" \
	2> /dev/null && echo $$python && break; done)
RUN := $(VENV)/bin/python

.PHONY: demo test test-all check pytest results clean
.DELETE_ON_ERROR:

$(RUN):
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: found no Python 3.10 or later with the modules venv and" \
			"ensurepip; install python3-venv, or give one: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi
	$(PYTHON) -m venv $(VENV)

# Of 19,000 files a quarter is ever imported: Python compiles those when they are, which
# takes 15 s, and pip all, which takes 63.
INSTALL := $(RUN) -m pip install --disable-pip-version-check --quiet --no-compile

$(VENV)/.installed: $(REQUIREMENTS) | $(RUN)
	$(INSTALL) -r $(REQUIREMENTS)
	touch $@

$(VENV)/.installed-test: $(REQUIREMENTS) requirements-onnx.txt requirements-s3.txt $(wildcard requirements-test*.txt) | $(RUN)
	$(INSTALL) -r $(REQUIREMENTS) -r $(TEST_REQUIREMENTS)
	touch $(VENV)/.installed $@

test: check pytest

check: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --quiet .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy

pytest: $(VENV)/.installed-test
	$(RUN) -m pytest $(PYTEST_FLAGS) -m "$(TESTS)"

test-all:
	$(MAKE) test TESTS=

# Each step is a file that the next one needs, so a second `make demo` repeats none.
TRAIN_MANIFEST := $(DEMO_DIR)/train/manifest.csv
TEST_MANIFEST := $(DEMO_DIR)/test/manifest.csv
TRAIN_RECORDS := $(DEMO_DIR)/train_records
TEST_RECORDS := $(DEMO_DIR)/test_records
WORKDIR := $(DEMO_DIR)/run
EXPORT := $(DEMO_DIR)/export
PAGE := $(DEMO_DIR)/page

$(TRAIN_MANIFEST): | $(VENV)/.installed
	$(RUN) -m data_prep.synthetic --out=$(@D) --num_videos=1200 --seed=0

$(TEST_MANIFEST): | $(VENV)/.installed
	$(RUN) -m data_prep.synthetic --out=$(@D) --num_videos=300 --seed=1

$(DEMO_DIR)/%_records/dataset_info.json: $(DEMO_DIR)/%/manifest.csv
	$(RUN) -m data_prep.convert --manifest=$< --out=$(@D) --fps=8 --short_side=48

# A pretraining that was interrupted goes on from its last checkpoint.
$(DEMO_DIR)/.pretrained: $(TRAIN_RECORDS)/dataset_info.json
	$(RUN) -m xdc_tf.cli.pretrain --config=configs/synthetic.py \
		--workdir=$(WORKDIR) --records=$(TRAIN_RECORDS)
	touch $@

$(DEMO_DIR)/results.json: $(DEMO_DIR)/.pretrained $(TEST_RECORDS)/dataset_info.json
	$(RUN) -m xdc_tf.cli.evaluate --workdir=$(WORKDIR) --records=$(TRAIN_RECORDS) \
		--test_records=$(TEST_RECORDS) --protocol=linear --json=$@ \
		> $(DEMO_DIR)/results.txt

$(DEMO_DIR)/.exported: $(DEMO_DIR)/results.json
	$(RUN) -m xdc_tf.cli.export --workdir=$(WORKDIR) --out=$(EXPORT) \
		--results=$<
	touch $@

# After the evaluation, whose results the pages show; few clips, for time.
$(DEMO_DIR)/.browsed: $(DEMO_DIR)/results.json
	$(RUN) -m xdc_tf.cli.browse --workdir=$(WORKDIR) --records=$(TRAIN_RECORDS) \
		--videos=$(DEMO_DIR)/train/videos --out=$(PAGE) \
		--examples_per_cluster=6
	touch $@

demo: $(DEMO_DIR)/.exported $(DEMO_DIR)/.browsed
	@echo
	@cat $(DEMO_DIR)/results.txt
	@echo
	@echo "Videos:      $(DEMO_DIR)/train/videos, $(DEMO_DIR)/test/videos"
	@echo "Records:     $(TRAIN_RECORDS), $(TEST_RECORDS)"
	@echo "Labels:      $(WORKDIR)/labels"
	@echo "Results:     $(DEMO_DIR)/results.json"
	@echo "Run:         $(WORKDIR)"
	@echo "SavedModels: $(EXPORT)"
	@echo "Clusters:    open $(PAGE)/index.html"
	@echo "Curves:      $(VENV)/bin/tensorboard --logdir=$(WORKDIR)/tensorboard"

# The tables of docs/results/medium, each of which goes on where it was interrupted, then
# what they say of settings and of criteria without labels. It takes days on two cores.
KINDS := shapes clutter digits long_tail
RESULTS := docs/results/medium
REPRODUCE = $(RUN) -m xdc_tf.cli.reproduce --scale=medium --kind=$$kind \
	--videos=$(RESULTS)/videos/$$kind --out=$(RESULTS)/$$kind

results: $(VENV)/.installed
	set -e; for kind in $(KINDS); do \
		$(REPRODUCE) --table=start --seeds=10; \
		$(REPRODUCE) --table=methods --seeds=5; \
		$(REPRODUCE) --table=settings --seeds=3; \
	done
	$(RUN) -m benchmarks.settings_by_kind $(KINDS:%=$(RESULTS)/%/settings.json)
	$(RUN) -m benchmarks.criteria $(KINDS:%=$(RESULTS)/%/settings.json)

clean:
	rm -rf $(VENV) $(DEMO_DIR)
