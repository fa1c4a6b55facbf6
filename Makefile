# make demo: a shipped clip, reconstructed and scored, with its notebook and viewer, on a CPU.
# make test: everything that is tested, notebooks included; CI runs exactly this.
# make lab:  JupyterLab on the notebooks.
# Each makes .venv first and installs what it needs. PYTHON chooses the interpreter (3.11 to 3.13).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CLIP := data/first_light.npz

.PHONY: demo test lab scores lint notebooks clean

demo: $(INSTALLED)
	$(BIN)/python -m c4d_nb $(CLIP) --out out/demo
	TQDM_DISABLE=1 $(BIN)/python -m jupyter nbconvert --to html --execute notebooks/00_quickstart.ipynb --output-dir out/demo --output quickstart
	@echo "Open out/demo/viewer.html (4D viewer) and out/demo/quickstart.html (the notebook) in a browser."

test: $(INSTALLED) lint
	$(BIN)/python -m pytest tests
	TQDM_DISABLE=1 $(BIN)/python -m pytest --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

lab: $(INSTALLED)
	$(BIN)/python -m jupyter lab notebooks

# The score table of the shipped clip: what changes are measured against.
scores: $(INSTALLED)
	$(BIN)/python -m c4d_nb $(CLIP) --out out/scores

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Run the notebooks anew from their .py pairs and store their outputs.
notebooks: $(INSTALLED)
	$(BIN)/python -m jupytext --sync notebooks/[0-9]*.py
	TQDM_DISABLE=1 $(BIN)/python -m jupyter nbconvert --to notebook --execute --inplace notebooks/[0-9]*.ipynb
	$(BIN)/python -m jupytext --sync notebooks/[0-9]*.ipynb

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "c4d_nb needs Python 3.11 to 3.13: make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV): a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[notebooks,test]"
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) out build *.egg-info
