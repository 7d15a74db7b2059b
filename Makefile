PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint

# Installed once, and again when the dependencies change.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

# Train and test on the demo data through anomalib's own command; results stay in results/demo.
demo: results/demo/Riad/MVTecAD/coffee/latest/metrics.txt
	@sed -n '/AUROC/p' $<
	@echo "Heatmaps: results/demo/Riad/MVTecAD/coffee/latest/images"

results/demo/Riad/MVTecAD/coffee/latest/metrics.txt: .venv/installed
	$(BIN)/python -m riad_anomalib.demo_data datasets/demo
	$(BIN)/python -W ignore $(BIN)/anomalib train --config configs/demo.yaml --default_root_dir results/demo \
		2>&1 | tee results-demo.log; grep -q image_AUROC results-demo.log
	mv results-demo.log $@

# One thread each: with more, the workers wait for each other's. What a file's or a class's tests share is made once.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
