# One environment in .venv, made from the tested set in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR := .demo
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1

.PHONY: agentdojo help demo clean-demo test coverage unit mlflow-tests lint format types layers notebooks docs benchmarks clean

help:  ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0]) if not (3, 10) <= sys.version_info[:2] <= (3, 13) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## the whole loop: train, evaluate, gate, serve, drift, retrain, roll back
	$(BIN)/mlflow-agents demo --dir $(DEMO_DIR)

clean-demo:  ## remove what the demo made
	rm -rf $(DEMO_DIR)

# Two workers, files whole. What fails beside others runs once more, alone: a server that did not
# come up in time on a busy machine is told from a defect. It is named, and fails the build if it
# fails again; a secret that got out (exit code 7, see tests/conftest.py) fails it at once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
FAST := -m "not integration and not browser"
SLOW := -m "integration or browser" --no-loadscope-reorder
AGAIN = { [ $$? -eq 1 ] && echo "== what failed runs once more, alone ==" && \
  $(BIN)/python -m pytest -v --last-failed --last-failed-no-failures none; }

test: $(VENV)/.installed lint types layers  ## every check and test
	$(PYTEST) --cache-clear $(FAST) || $(AGAIN)
	$(PYTEST) --cache-clear $(SLOW) || $(AGAIN)

coverage: $(VENV)/.installed  ## the same tests, half as slow again, and what they do not reach
	$(PYTEST) $(FAST) --cov --cov-report=
	$(PYTEST) $(SLOW) --cov --cov-append --cov-report=term

agentdojo: $(VENV)/.installed  ## the default policies against AgentDojo's banking suite
	for attack in important_instructions direct; do \
	  $(BIN)/python -m evaluations.agentdojo --suite banking --attack $$attack \
	    --contracts evaluations/agentdojo/contracts/banking.yaml --json .agentdojo/$$attack.json || exit 1; \
	done

unit: $(VENV)/.installed  ## the fast tests only
	$(PYTEST) $(FAST)

mlflow-tests: $(VENV)/.installed  ## MLflow's own registry tests, gated beside stock: make mlflow-tests MLFLOW=<its checkout>
	PYTHONPATH=. $(BIN)/python tests/mlflow_suite/compare.py $(MLFLOW)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed  ## let ruff format and mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed
	$(BIN)/mypy

layers: $(VENV)/.installed
	$(BIN)/lint-imports

clean: clean-demo  ## remove the environment too
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
