# Two commands for everybody: `make demo` and `make test`. Each makes its own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

PICTURE ?= sample/coffee.jpg
PROMPT ?= slow zoom in on a cup of coffee
DEMO ?= out/demo.mp4

.PHONY: demo test lint format bench train clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: requirements.txt requirements/demo.txt | $(BIN)/python
	$(PIP) -r requirements/demo.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.demo
	@$(BIN)/python -c "import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		'make test needs Python 3.11 or later: make clean, then make test PYTHON=python3.11')"
	$(PIP) -r requirements/dev.txt
	@touch $@

demo: $(VENV)/.demo ## one picture in, one video out; the path of the mp4 is the last line
	@$(BIN)/python -m swift_core generate --image "$(PICTURE)" --prompt "$(PROMPT)" \
		--output "$(DEMO)" --report "$(DEMO:.mp4=.json)" --overwrite

# Each worker computes on one core (tests/conftest.py); a real ComfyUI is tested by one.
test: $(VENV)/.dev ## everything but what needs a GPU or real checkpoints
	$(BIN)/python -m pytest -q -m "not host" -n logical --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -q -m host

lint: $(VENV)/.dev ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## our DiT and VAE beside diffusers', on this machine
	$(BIN)/python -m benchmarks

$(VENV)/.training: requirements/training.txt $(VENV)/.demo
	$(PIP) -r requirements/training.txt
	@touch $@

train: $(VENV)/.training ## the tiny set, from nothing, into out/tiny; can be stopped and resumed
	$(BIN)/python -m training all --out out/tiny --resume

clean:
	rm -rf $(VENV) out .pytest_cache .ruff_cache .hypothesis
