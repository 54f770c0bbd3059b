# make sweep   environment, quickstart sweep on the embedded miniature, report
# make test    environment, default test suite;  make test-long: the marked rest;  make check: ruff, mypy and the default suite
# make test-deepspeed   the tests that need the extra deepspeed and a C++ compiler, in five minutes
# make real-text   the same path on real human preferences
# make bench       a sweep against separate TRL runs of its cells, 40 minutes on two idle cores; tests/bench/README.md says what is measured
# make study   the miniature's study and its control, two hours on two cores, and the files and figures told in sweeps/README.md

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed
RUN := $(VENV)/bin/refstudy
PYTEST := $(VENV)/bin/python -m pytest

.PHONY: sweep real-text study targets bench bench-growth bench-gpu test test-long test-deepspeed check audit lint clean

sweep: $(STAMP)
	$(RUN) run sweeps/quickstart.yaml

real-text: $(STAMP)
	$(RUN) run sweeps/real_text.yaml

STUDY := sweeps/miniature_study
FLAT := --results results/miniature_study_flat --set name=miniature_study_flat --set data.annotator=flat
FLAT_REFERENCES := [self,larger-same,same-length-only,same-length-free]

study: $(STAMP)
	$(RUN) run $(STUDY).yaml
	$(RUN) run $(STUDY).yaml $(FLAT) --set 'axes.reference=$(FLAT_REFERENCES)'
	$(VENV)/bin/python -m analysis.experiment results/miniature_study $(STUDY)
	$(VENV)/bin/python -m analysis.experiment results/miniature_study_flat $(STUDY)/flat
	cp results/miniature_study/figures/win_rate_map.png sweeps/figures/study_win_rate_map.png
	cp results/miniature_study/figures/gains.png sweeps/figures/study_gains.png
	cp results/miniature_study_flat/figures/gains.png sweeps/figures/study_flat_gains.png

targets: $(STAMP)
	$(VENV)/bin/python -m refstudy.targets --worlds 0 1 2 3 4

bench: $(STAMP)
	$(VENV)/bin/python -m tests.bench

bench-growth: $(STAMP)
	$(VENV)/bin/python -m tests.bench.growth
	$(VENV)/bin/python -m tests.bench.scaling

bench-gpu: $(STAMP)
	$(VENV)/bin/python -m tests.bench.gpu

test: $(STAMP)
	$(PYTEST)

test-long: $(STAMP)
	$(PYTEST) -m long

# In a folder of its own: once it stands beside the rest, every trial imports it.
test-deepspeed: $(STAMP)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $(VENV)/deepspeed deepspeed einops hjson \
		msgpack ninja py-cpuinfo
	PYTHONPATH=$(CURDIR)/$(VENV)/deepspeed $(PYTEST) -m "long or not long" -k deepspeed tests/training/test_sharding.py tests/test_together.py

check: lint test

audit: $(STAMP)
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# torch first and alone: its CPU build is found under the exact version, where a range would bring the CUDA build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt pip torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) results
