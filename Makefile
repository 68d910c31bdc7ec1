# What to type:
#   make demo    explain a simulated patient and the template brain; results in demo/
#   make test    all tests
#   make bench   figures of speed and memory (BENCH=part to run those whose name contains "part")
#   make fuzz    5200 damaged files through every reader, and 500 random networks explained; a table of what became of
#                them (INPUTS=500, NETWORKS=60 for fewer)
#   make lint    ruff and mypy
#   make study   how well scans as acquired are recovered (an hour and more); tables in Testing/benchmarks/native_recovery
#   make study-planted  do the checks tell twenty planted wrong maps from right ones at full size? (an hour; scans are kept
#                    in Testing/benchmarks/planted_maps/scans); this and the next two take JOBS=16 DEVICE=cuda
#   make sbom    bill of materials (CycloneDX) of what is installed, in dist/
#   make study-real  what changes the score of the real networks (QIU2022=folder with their authors' files); tables in
#                    Testing/benchmarks/real_network
#   make benchmark-truth  every method on simulated patients whose atrophy is known (about two hours on one core; stopped,
#                    it goes on); results and table in truth/, as published in Testing/benchmarks/truth
#   make reference  make the reference cohort that ships anew (about 20 minutes; REFERENCE="--start logit" …)
#   make study-cohort  a simulated cohort through a whole group study (under an hour on one core); Testing/benchmarks/study_cohort
#   make study-robustness  ten trainings on a grid of 2 mm: do they explain alike? (over an hour on one core; stopped, it goes
#                    on); tables in Testing/benchmarks/robustness
#   make train   make the demonstration network anew, first on scans as they are, then on scans as scanners vary them (about
#                two hours on two cores; stopped, it goes on)
# Everything is installed into .venv first, once.

VENV   ?= .venv
PYTHON ?= python3
TORCH  ?= torch==2.13.0
BENCH  ?=
PYTEST ?= -n 2 --dist worksteal
# Versions with which all tests passed; CONSTRAINTS= takes the newest that pyproject.toml allows.
CONSTRAINTS ?= --constraint Testing/constraints.txt
INPUTS ?=
NETWORKS ?=
BIN    := $(VENV)/bin
# Of studies: processes, and where maps are computed (JOBS=16 DEVICE=cuda).
JOBS   ?= 1
DEVICE ?= cpu

# Without an NVIDIA GPU, the CPU build of PyTorch saves gigabytes.
TORCH_SOURCE ?= $(shell command -v nvidia-smi >/dev/null || echo --extra-index-url https://download.pytorch.org/whl/cpu)

.PHONY: demo test fuzz bench lint study study-planted study-real study-cohort study-robustness benchmark-truth sbom train reference clean

demo: $(VENV)/installed
	$(BIN)/python -m ADAttributionLogic.demo --out demo

# Two processes share two cores: threads that wait must not spin.
test: $(VENV)/developed
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_WAIT_POLICY=PASSIVE PYTHONUTF8=1 $(BIN)/python -m pytest $(PYTEST)

fuzz: $(VENV)/developed
	OMP_NUM_THREADS=1 $(BIN)/python Testing/fuzz/run.py $(INPUTS)
	OMP_NUM_THREADS=1 $(BIN)/python Testing/fuzz/networks.py $(NETWORKS)

bench: $(VENV)/developed
	$(BIN)/python Testing/benchmarks/run.py $(BENCH)

lint: $(VENV)/developed
	$(BIN)/ruff check .
	$(BIN)/mypy

STUDY := Testing/benchmarks/native_recovery
study: $(VENV)/developed
	$(BIN)/pip install --quiet $(CONSTRAINTS) --editable ".[registration]"
	$(BIN)/python Testing/benchmarks/study_native_recovery.py head affine > $(STUDY)/head-affine.tsv
	for what in patients controls; do \
	  $(BIN)/python Testing/benchmarks/study_native_recovery.py $$what affine 0 23 > $(STUDY)/$$what-affine.tsv || exit 1; done
	$(BIN)/python Testing/benchmarks/study_native_recovery.py head deformable > $(STUDY)/head-deformable.tsv
	$(BIN)/python Testing/benchmarks/study_native_recovery.py patients deformable 0 3 > $(STUDY)/patients-deformable.tsv

PLANTED := Testing/benchmarks/planted_maps
study-planted: $(VENV)/developed
	mkdir -p $(PLANTED)
	$(BIN)/python Testing/benchmarks/study_planted_maps.py $(PLANTED)/scans --jobs $(JOBS) --device $(DEVICE) > $(PLANTED)/planted-maps.tsv

REAL := Testing/benchmarks/real_network
study-real: $(VENV)/developed
	for what in preparation atrophy; do \
	  $(BIN)/python Testing/benchmarks/study_real_network.py $$what > $(REAL)/$$what.tsv || exit 1; done

benchmark-truth: $(VENV)/developed
	$(BIN)/ad-attribution benchmark-truth --out truth --jobs $(JOBS) --device $(DEVICE)

COHORT ?= study-cohort
study-cohort: $(VENV)/developed
	for what in maps study keep; do \
	  $(BIN)/python Testing/benchmarks/study_cohort.py $$what $(COHORT) --jobs $(JOBS) --device $(DEVICE) || exit 1; done

ROBUSTNESS ?= study-robustness
study-robustness: $(VENV)/developed
	$(BIN)/python Testing/benchmarks/study_robustness.py $(ROBUSTNESS) --keep Testing/benchmarks/robustness

sbom: $(VENV)/developed
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --output-reproducible --output-file dist/sbom.cdx.json $(BIN)/python

train: $(VENV)/developed
	test -e cohort/clean || $(BIN)/python -m ADAttributionLogic.demonstration.network --out cohort/clean --cache cohort
	$(BIN)/python -m ADAttributionLogic.demonstration.network --from cohort/clean --out simulated-atrophy --cache cohort

# --start and --method as REFERENCE="--start logit"; the working folder makes it go on after an interruption.
REFERENCE ?=
reference: $(VENV)/installed
	$(BIN)/python -m ADAttributionLogic.demonstration.reference \
	  --out Resources/References/simulated-atrophy-controls --work reference-work $(REFERENCE)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.12, for example.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)" $(TORCH_SOURCE)
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(BIN)/pip install --quiet $(CONSTRAINTS) --editable ".[atlas,dicom,report,headless]"
	touch $@

# lxt, an oracle of LRP through attention, asks for libraries of language models, of which its rules need none.
$(VENV)/developed: $(VENV)/installed
	$(BIN)/pip install --quiet $(CONSTRAINTS) --editable ".[atlas,dicom,report,animation,headless,training,bids,cluster,dev]"
	$(BIN)/pip install --quiet --no-deps lxt==2.1
	touch $@
