# make run      executed copies of the notebooks with pictures in data/runs, and a report of them
# make quick    set-up and the first two notebooks alone, with a report of them: some minutes
# make test     lint, unit tests, doctests and the committed notebooks
# make launches ten launches of an evaluation in two processes: each must end well
# make browser  the notebooks in JupyterLab and the report, in a Chromium without a window
# make lab      JupyterLab in the notebooks' folder
# make record   execute the notebooks in place and clean them: what is committed
# make report   the committed notebooks as a site that opens from the disk: data/runs/report
# make timing   measure every stage of answering on this machine: rows in data/results/timing
# make bench    measure the reduction against loops: rows in data/results/bench
# make gpu      all that wants a GPU, nine minutes at most: rows in data/runs/gpu
# make readme   fill the README's tables from their rows
# make transformers  models under the oldest, the pinned and the newest transformers allowed
# make wheel    build the package, install and try it in an empty environment
# Each makes .venv by itself; name an interpreter with PYTHON=/path/to/python3.11.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
NOTEBOOKS ?= $(filter-out %.failed.ipynb %.partial.ipynb,$(sort $(wildcard notebooks/*.ipynb)))
# Parameters for `make run`, the same for all notebooks named: PARAMETERS="-p model mini -p budgets 32,64"
PARAMETERS ?=
# Parameters for the training notebook alone: TRAIN_PARAMETERS="-p pictures 64000"
TRAIN_PARAMETERS ?=

# Test processes side by side: one more than two cores, since tests wait for kernels and launches.
TEST_JOBS ?= 3

BIN := .venv/bin
IN_ENV := source .ci/env.sh && PATH="$(CURDIR)/$(BIN):$$PATH"
SOURCES := $(shell find prumerge -name '*.py') $(wildcard data/mini-llava/*)
RUNS := $(patsubst notebooks/%.ipynb,data/runs/%.ipynb,$(NOTEBOOKS))

.PHONY: help setup quick run report test launches browser lab record timing bench gpu readme wheel clean FORCE

help:
	@sed -n 's/^# //p' Makefile | grep '^make'

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@.ci/setup $(PYTHON)

.venv/.quick: pyproject.toml constraints.txt
	@SETUP_FOR=quick .ci/setup $(PYTHON)

QUICK := 00_quickstart 01_attention_sparsity

quick: $(if $(wildcard .venv/.installed),setup,.venv/.quick)
	@$(IN_ENV) && printf '%s\n' $(QUICK) | xargs -P 2 -I NAME \
		python -m prumerge.runs notebooks/NAME.ipynb data/runs/NAME.ipynb --figures
	@$(IN_ENV) && python -m prumerge.report $(QUICK:%=data/runs/%.ipynb)
	@echo "pictures: figures/00-*.png, figures/01-*.png   more: make run, make lab"

# Notebooks that are up to date are left alone, so an interrupted run goes on where it stopped.
run: $(RUNS)
	@$(IN_ENV) && python -m prumerge.report $(RUNS)
	@echo "executed notebooks: data/runs   pictures: figures$(if $(PARAMETERS), (data/runs/figures where values differ))"

# The notebooks as they are committed: nothing is executed.
report: setup
	@$(IN_ENV) && python -m prumerge.report $(NOTEBOOKS)

data/runs/train_%.ipynb: PARAMETERS += $(TRAIN_PARAMETERS)
$(filter data/runs/train_%,$(RUNS)): data/runs/.train-parameters
data/runs/%.ipynb: notebooks/%.ipynb data/runs/.parameters $(SOURCES) | setup
	@$(IN_ENV) && python -m prumerge.runs $< $@ --figures $(PARAMETERS)

# Other parameters than last time make a run out of date: these files hold them.
data/runs/.parameters: WANTED := $(PARAMETERS)
data/runs/.train-parameters: WANTED := $(TRAIN_PARAMETERS)
data/runs/.parameters data/runs/.train-parameters: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(WANTED)' | cmp -s - $@ || printf '%s\n' '$(WANTED)' > $@

# A file's tests stay together: a notebook's cells share a kernel.
test: setup
	@$(IN_ENV) && ruff check . && ruff format --check . && python -m pytest \
		-n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg --nbval-cell-timeout 300 \
		tests prumerge notebooks

launches: setup
	@$(IN_ENV) && python -m pytest tests/experiments/test_evaluation_model.py -k launch_ends_well --launches 10

# Not part of `make test`: installs each version beside the pinned packages, a minute or two per version.
TRANSFORMERS ?= 5.17.0 5.23.0 5.24.0
ATTACHED := $(addprefix tests/models/test_,$(addsuffix .py,llava forward generate prompts positions calls \
	conversations families qwen generic frames))

transformers: setup
	@$(IN_ENV) && mkdir -p data/runs/transformers && cd data/runs/transformers && \
		grep -vE '^(transformers|huggingface[_-]hub|tokenizers)==' ../../../constraints.txt > constraints.txt && \
		for version in $(TRANSFORMERS); do \
			test -d $$version || { python -m pip install -q --disable-pip-version-check \
				-c constraints.txt --target $$version.partial transformers==$$version \
				> $$version.log 2>&1 && mv $$version.partial $$version || \
				{ tail -n 3 $$version.log >&2; exit 1; }; }; \
			(cd ../../.. && export PYTHONPATH=data/runs/transformers/$$version && \
				python -c 'import transformers; print("transformers", transformers.__version__)' && \
				python -m pytest -q -n $(TEST_JOBS) --dist loadfile $(ATTACHED)) || exit 1; \
		done

# Not part of `make test`: needs a Chromium, which .ci/chromium installs where it can.
browser: setup
	@.ci/chromium || { echo "browser: no Chromium; install it, for instance apt-get install chromium" >&2; exit 1; }
	@$(BIN)/python -c 'import playwright' 2>/dev/null || \
		$(BIN)/python -m pip install -q -c constraints.txt playwright
	@$(IN_ENV) && python -m pytest tests/browser/test_lab.py tests/browser/test_site.py

# JupyterLab refuses root, as whom containers run, unless told.
lab: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" jupyter lab --notebook-dir notebooks \
		$$(if [ "$$(id -u)" = 0 ]; then echo --allow-root; fi)

record: setup
	@$(IN_ENV) && python -m prumerge.record $(NOTEBOOKS)

# Rows are of all cores, unlike tests. Those there already are kept: remove the file to measure anew.
THREADS ?= $(shell env -u OMP_NUM_THREADS nproc)
# Where `make bench` computes: cpu or cuda.
DEVICE ?= cpu
ALL_CORES := $(IN_ENV) && export OMP_NUM_THREADS=$(THREADS) TORCH_CPP_LOG_LEVEL=ERROR TQDM_DISABLE=

timing: setup
	@$(ALL_CORES) && python -m prumerge.timing
	@$(ALL_CORES) && python -m prumerge.timing --batches 1 8 --attention eager \
		--rows data/results/timing/mini-cpu.csv
	@$(ALL_CORES) && python -m prumerge.timing --model random-7b --layers 2 --batches 1 4 \
		--new-tokens 16 --repeats 3 --rows data/results/timing/7b-random-cpu.csv

bench: setup
	@$(ALL_CORES) && python -m prumerge.timing.bench --device $(DEVICE) \
		--rows data/results/bench/reduction-$(firstword $(subst :, ,$(DEVICE))).csv

# GPU_PYTHON=python3 takes that interpreter as it is: no set-up, no network.
GPU_PYTHON ?=
SCALE ?= full
OUT ?= data/runs/gpu
gpu: DEVICE := cuda
gpu: $(if $(GPU_PYTHON),,setup)
	@$(IN_ENV) && export OMP_NUM_THREADS=$(THREADS) && $(or $(GPU_PYTHON),python) \
		-m prumerge.experiments.gpu --device $(DEVICE) --scale $(SCALE) --out $(OUT)

readme: setup
	@$(IN_ENV) && python -m prumerge.readme

# Built from the committed files, installed and tried in an environment made for it alone.
wheel: setup
	@rm -rf dist && mkdir -p dist && folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
		git archive HEAD pyproject.toml README.md LICENSE prumerge | tar -x -C "$$folder" && \
		PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip wheel -q --no-deps -w dist "$$folder" && \
		$(BIN)/python -m venv "$$folder/env" && \
		"$$folder/env/bin/pip" install -q -c constraints.txt dist/prumerge-*.whl && cd "$$folder/env" && \
		bin/python -c 'import prumerge; prumerge.attach' && bin/python -m prumerge doctor
	@ls dist

clean:
	rm -rf data/runs .pytest_cache .ruff_cache .hypothesis

# A grid of settings: prumerge/experiments/sweeps/grids/NAME.yml, or the path of your own. CORES jobs at a time.
CORES ?= 2
BUDGET ?= 64
# More for `python -m prumerge.sweeps`: SWEEP_OPTIONS="--device cuda --model llava-hf/llava-1.5-7b-hf"
SWEEP_OPTIONS ?=
SWEEPS := python -m prumerge.sweeps --cores $(CORES) $(SWEEP_OPTIONS)

.PHONY: sweep sweeps leaderboard
sweep: setup
	@$(IN_ENV) && $(SWEEPS) $(or $(SWEEP),$(error name a grid: make sweep SWEEP=neighbours))

# The preset `tuned` is chosen on the rows of the first half and shown among those of the second.
sweeps: setup
	@$(IN_ENV) && $(SWEEPS) choosing && python -m prumerge.sweeps tuned && $(SWEEPS) reporting

leaderboard: setup
	@$(IN_ENV) && $(SWEEPS) leaderboard --budget $(BUDGET)
