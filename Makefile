# make demo: a shipped clip, reconstructed and scored, with its notebook and viewer, on a CPU.
# make test: everything that is tested, notebooks included; CI runs exactly this.
# make test-browser: JupyterLab, its widgets and the viewer in a real Chromium (Debian: apt-get install chromium).
# make lab:  JupyterLab on the notebooks.
# make clips: the shipped clips anew, from their seeds (data/README.md); make sheet: 24 others, in one picture.
# make weights, make tracker-weights: the shipped weights anew; make pointmap-scores, tracker-scores, mask-scores and
# pipeline-scores: how right.
# Each makes .venv first and installs what it needs. PYTHON chooses the interpreter (3.11 to 3.13).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CLIP := data/movi_e.npz

.PHONY: demo test test-browser lab scores clips sheet weights pointmap-scores tracker-weights tracker-scores mask-scores pipeline-scores lint notebooks clean

demo: $(INSTALLED)
	$(BIN)/python -m c4d_nb $(CLIP) --out out/demo
	TQDM_DISABLE=1 $(BIN)/python -m jupyter nbconvert --to html --execute notebooks/00_quickstart.ipynb --output-dir out/demo --output quickstart
	@echo "Open out/demo/viewer.html (4D viewer) and out/demo/quickstart.html (the notebook) in a browser."

# Two processes of one thread each: threads that wait for each other waste two cores. The last chapters take longest.
test: $(INSTALLED) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests
	ls -r notebooks/[0-9]*.ipynb | OMP_NUM_THREADS=1 TQDM_DISABLE=1 xargs -P 2 -n 1 $(BIN)/python -m pytest -q --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg

# Skipped where there is no Chromium. Screenshots are left in out/browser.
test-browser: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[browser]"
	C4D_BROWSER=1 $(BIN)/python -m pytest tests/browser

lab: $(INSTALLED)
	$(BIN)/python -m jupyter lab notebooks

# The score table of the shipped clip: what changes are measured against.
scores: $(INSTALLED)
	$(BIN)/python -m c4d_nb $(CLIP) --out out/scores

GENERATE := $(BIN)/python -m c4d_nb.kubric.generate --subset validation

clips: $(INSTALLED)
	$(GENERATE) --split movi_e --case hit --seeds 21 --samples 5 --out out/clips
	$(GENERATE) --split panning_movi_e --seeds 1 --samples 5 --out out/clips
	$(GENERATE) --split movi_f --seeds 21 --samples 5 --out out/clips
	cp out/clips/movi_e-validation-hit-000021.npz data/movi_e.npz
	cp out/clips/panning_movi_e-validation-000001.npz data/panning_movi_e.npz
	cp out/clips/movi_f-validation-000021.npz data/movi_f.npz

sheet: $(INSTALLED)
	for split in movi_e panning_movi_e movi_f; do $(GENERATE) --split $$split --seeds 100:108 --out out/sheet || exit 1; done
	$(BIN)/python -m c4d_nb.show.sheet out/sheet --out out/sheet.png

# The pointmap network that ships, from nothing, in five hours and a half on two cores that multiply bfloat16: 15,000 steps and 8,000
# more at 128 px, 5,400 at 192 px on takes of which half are filmed from near the floor, and 5,400 of twice as many pairs with Muon,
# as many takes again, and two processes. Each line goes on where it was interrupted.
TAKES := $(BIN)/python -m c4d_nb.kubric.takes
POINTMAPS := c4d_nb.pointmaps.training
TWO_PROCESSES := OMP_NUM_THREADS=1 ACCELERATE_USE_CPU=true $(BIN)/python -m torch.distributed.run --nproc-per-node 2 --standalone -m --
weights: $(INSTALLED)
	$(TAKES) --seeds 0:1500 --size 128 --out out/static128
	$(TAKES) --seeds 0:12 --subset validation --takes 4 --size 128 --out out/validation128
	$(TAKES) --seeds 1500:2700 --size 192 --low 0.5 --out out/static192
	$(TAKES) --seeds 2700:3900 --size 192 --out out/static192-more
	$(TAKES) --seeds 0:12 --subset validation --size 192 --low 0.5 --out out/validation192
	mkdir -p out/static192-all && ln -f out/static192/*.npz out/static192-more/*.npz out/static192-all
	$(BIN)/python -m $(POINTMAPS) out/static128 --validation out/validation128 --out out/pointmaps
	$(BIN)/python -m $(POINTMAPS) out/static128 --validation out/validation128 --start out/pointmaps/model.safetensors \
	  --steps 8000 --learning-rate 5e-4 --out out/pointmaps-more
	$(BIN)/python -m $(POINTMAPS) out/static192 --validation out/validation192 --start out/pointmaps-more/model.safetensors \
	  --size 192 --steps 5400 --learning-rate 7e-4 --out out/pointmaps-192
	$(TWO_PROCESSES) $(POINTMAPS) out/static192-all --validation out/validation192 --start out/pointmaps-192/model.safetensors \
	  --size 192 --steps 5400 --batch-size 16 --learning-rate 1e-3 --optimizer muon --out out/pointmaps-muon
	cp out/pointmaps-muon/model.safetensors data/pointmaps.safetensors

# DynPT with both encoders, with the CNN alone and with the 3D-aware one alone, on one budget, two hours and a quarter
# each on a core: 4,000 windows of 128 px, then twice 2,000 of 192 px.
TRAIN_TRACKER := $(BIN)/python -m c4d_nb.correspondence.training out/tracks-train --validation out/tracks-watch
LARGER := --size 192 --steps 2000 --learning-rate 4e-4
MAKE_TRACKS := $(BIN)/python -m c4d_nb.kubric.generate --size 256 --samples 2
tracker-weights: $(INSTALLED)
	$(MAKE_TRACKS) --split panning_movi_e --seeds 0:4 --out out/tracks-watch
	$(MAKE_TRACKS) --split movi_f --seeds 0:4 --out out/tracks-watch
	$(MAKE_TRACKS) --split panning_movi_e --seeds 4:204 --out out/tracks-train
	$(MAKE_TRACKS) --split movi_f --seeds 4:204 --out out/tracks-train
	for encoders in cnn+3d cnn 3d; do \
	  $(TRAIN_TRACKER) --encoders $$encoders --out out/dynpt-$$encoders && \
	  $(TRAIN_TRACKER) --encoders $$encoders --start out/dynpt-$$encoders/model.safetensors $(LARGER) --out out/dynpt-$$encoders-192 && \
	  $(TRAIN_TRACKER) --encoders $$encoders --start out/dynpt-$$encoders-192/model.safetensors $(LARGER) --seed 1 --out out/dynpt-$$encoders-more || exit 1; \
	done
	cp out/dynpt-cnn+3d-more/model.safetensors data/dynpt.safetensors
	cp out/dynpt-cnn-more/model.safetensors data/dynpt_cnn.safetensors
	cp out/dynpt-3d-more/model.safetensors data/dynpt_3d.safetensors

# The paper's ablation on held-out clips: mobility and TAP-Vid's scores, split by split, with the flow-chained tracker.
tracker-scores: $(INSTALLED)
	for split in movi_e panning_movi_e movi_f; do $(GENERATE) --split $$split --seeds 100:112 --out out/tracks-validation || exit 1; done
	$(BIN)/python -m c4d_nb.correspondence.evaluation out/tracks-validation

# Motion masks of held-out clips: the two methods and simple baselines, with the mean of each split.
mask-scores: $(INSTALLED)
	for split in movi_e panning_movi_e movi_f; do $(GENERATE) --split $$split --seeds 100:106 --out out/mask-clips/$$split || exit 1; done
	$(BIN)/python -m c4d_nb.mask_evaluation out/mask-clips/movi_e out/mask-clips/movi_f out/mask-clips/panning_movi_e

# Whole reconstructions of the shipped clips, of held-out ones and of cameras that do not travel: with the network and without.
pipeline-scores: $(INSTALLED)
	for split in movi_e panning_movi_e movi_f; do $(GENERATE) --split $$split --seeds 206:212 --out out/pipeline/held-out || exit 1; done
	for case in pure_rotation still_camera; do $(GENERATE) --split movi_e --case $$case --seeds 100:104 --out out/pipeline/no-parallax || exit 1; done
	$(BIN)/python -m c4d_nb.pipeline_evaluation data out/pipeline/held-out out/pipeline/no-parallax

# Pointmaps of held-out static clips: the shipped weights beside two-view geometry and constant depth.
pointmap-scores: $(INSTALLED)
	for split in movi_e panning_movi_e movi_f; do $(GENERATE) --split $$split --case static --seeds 500:512 --out out/held-out || exit 1; done
	$(BIN)/python -m c4d_nb.pointmaps.evaluation out/held-out

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Run the notebooks anew from their .py pairs and store their outputs.
notebooks: $(INSTALLED)
	$(BIN)/python -m jupytext --sync notebooks/[0-9]*.py
	TQDM_DISABLE=1 $(BIN)/python -m jupyter nbconvert --to notebook --execute --ExecutePreprocessor.store_widget_state=False --inplace notebooks/[0-9]*.ipynb
	$(BIN)/python -m jupytext --sync notebooks/[0-9]*.ipynb

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "c4d_nb needs Python 3.11 to 3.13: make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV): a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[notebooks,test]"
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) out build *.egg-info
