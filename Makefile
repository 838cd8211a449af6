# Every target does its own set-up. Variables: PYTHON (3.11), PRESET, RECIPE, PORT.
PYTHON ?= python3.11
PRESET ?= demo
RECIPE ?= demo
PORT ?= 7860
BIN := .venv/bin

.PHONY: app test lint check demo-assets bench clean

# Stamps: a virtual environment is rebuilt only when its requirements change.
.venv/run.stamp: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev.stamp: .venv/run.stamp requirements-dev.txt requirements-muq.txt
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@

app: .venv/run.stamp
	$(BIN)/python app.py --preset $(PRESET) --port $(PORT)

test: .venv/dev.stamp
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q

lint: .venv/dev.stamp
	$(BIN)/ruff check .

check: lint test

# Trains the demo weights again from nothing: corpus, encoders, autoencoder, backbone.
demo-assets: .venv/dev.stamp
	$(BIN)/python -m training chain --recipe $(RECIPE)

bench: .venv/dev.stamp
	$(BIN)/python -m benchmarks.all

clean:
	rm -rf .venv .pytest_cache .ruff_cache
