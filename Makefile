# make bench      set up and run the benchmarks; SIZE=full for the long ones, RIVALS=1 with OpenVINO and ONNX Runtime
# make test       set up and pass every test, detectors included (compiles mmcv once)
# make test-core  the same without mmdet
# make test-onedl the detectors' tests on onedl's forks of mmcv, mmdet and mmengine, nothing compiled
# make example    train torchvision's detector on tiny objects and draw what it finds, in minutes, without mmcv
# make demo       the same in mmdet, with the paper's label assignment and metric
# make docs       the documentation as a site: build/docs/index.html
# make gpu-check  on a machine with an NVIDIA GPU: build, test, benchmark, with the Python at hand
# make fuzz N=... random calls against the plain twins, from a fresh seed
# make mutants    plant the faults of tests/faults one by one; AREAS="cpu triton" for some of them
# make sanitize   core tests on a library with ASan and UBSan; the CUDA kernels on a CPU with ASan
# make wheel      dist/: the source archive, and the wheel that is built from it
# make wheel-test the wheel in a clean environment
# make compilers  the CPU library by every g++ and clang++ on the path, and for arm64
# make release-check  all of that, and the wheel in every Python with the oldest and the newest torch
# make lint clean

PYTHON ?= python3
VENV ?= .venv
SIZE ?= quick
RIVALS ?= 0
BIN := $(VENV)/bin
SOURCES := $(wildcard csrc/*.py csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh) setup.py pyproject.toml \
	$(wildcard efpn_kernels/ops/*.py) efpn_kernels/version.py  # whose version and schemas are in the stamp
# Threads that wait should sleep: spinning ones slow everything else on a small machine.
QUIETLY := OMP_WAIT_POLICY=passive
PIP := $(BIN)/pip --disable-pip-version-check
# Stamps: what has been installed already.
CORE := $(VENV)/.core
BUILT := $(VENV)/.built
MMDET := $(VENV)/.mmdet

.PHONY: fuzz mutants bench test test-core test-onedl interpret-operators interpret-kernels demo example docs gpu-check sanitize lint wheel wheel-test compilers release-check clean setup
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

$(CORE): requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements-dev.txt
	touch $@

$(BUILT): $(CORE) $(SOURCES)
	$(PIP) install --verbose --no-build-isolation --no-deps --editable . | grep -E --line-buffered '^ *(efpn_kernels|cuda:|flags:|\[|->)|error|Success' | cut -c1-200
	touch $@

# mmcv has no wheel for today's PyTorch: it is compiled from its source release, about 17 minutes on two
# cores, once; pip keeps the wheel in its cache.
$(MMDET): $(CORE) requirements-mmdet.txt
	$(PIP) install --quiet -r requirements-mmdet.txt
	@echo "mmcv: compiling, unless pip has kept the wheel of an earlier time (about 17 minutes on two cores)"
	MMCV_WITH_OPS=1 FORCE_CUDA=0 $(PIP) install --verbose --no-build-isolation --no-deps mmcv==2.1.0 | \
		{ grep -oE --line-buffered '^ *\[[0-9]+/[0-9]+\]|Using cached mmcv.*whl|Successfully installed.*' || true; }
	$(BIN)/python -c "import mmdet, mmcv.ops"
	touch $@

setup: $(BUILT) $(MMDET)

ENGINES := $(VENV)/.rivals
$(ENGINES): $(CORE) requirements-rivals.txt
	$(PIP) install --quiet -r requirements-rivals.txt
	touch $@

bench: $(BUILT) $(if $(filter-out 0,$(RIVALS)),$(ENGINES))
	$(BIN)/python -m pytest benchmarks --size $(SIZE) $(if $(filter-out 0,$(RIVALS)),--rivals)

test: $(BUILT) $(MMDET)
	$(QUIETLY) $(BIN)/python -m pytest tests
	$(QUIETLY) $(BIN)/python -m pytest benchmarks/tests
	$(MAKE) --jobs 2 --output-sync interpret-operators interpret-kernels

# Triton's kernels on the CPU. The interpreter is a single thread of Python: two of them at a time.
INTERPRET := $(QUIETLY) TRITON_INTERPRET=1 $(BIN)/python -m pytest --quiet --backends triton -W ignore:overflow:RuntimeWarning
interpret-operators: $(BUILT)
	$(INTERPRET) tests/test_efpn_bs.py tests/test_cem.py tests/test_dc_loss.py
interpret-kernels: $(BUILT)
	$(INTERPRET) tests/test_fbsm.py tests/test_kernels.py tests/test_triton_convolution.py tests/test_triton_offsets.py tests/test_triton_count.py tests/test_triton_tiles.py -k triton

test-core: $(BUILT)
	$(QUIETLY) $(BIN)/python -m pytest tests --ignore tests/mmdet
	$(QUIETLY) $(BIN)/python -m pytest benchmarks/tests

N ?= 20000
fuzz: $(BUILT)
	$(QUIETLY) $(BIN)/python tests/fuzz.py --count $(N)

AREAS ?= arguments operators composition cpu cuda triton modules backends reference integration build benchmarks
mutants: $(BUILT) $(MMDET)
	$(QUIETLY) $(BIN)/python tests/mutate.py --areas $(AREAS)

# The maintained forks, over the packages of $(VENV). mmcv is unpacked, not compiled: what calls its operators
# is skipped, what starts Python anew is left out.
ONEDL := $(VENV)-onedl
ONEDL_PIP := $(ONEDL)/bin/python -m pip --disable-pip-version-check
ONEDL_MMCV := onedl_mmcv-2.3.6
SITE = $$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
$(ONEDL)/.ready: $(BUILT) requirements-mmdet.txt
	$(PYTHON) -m venv --without-pip $(ONEDL)
	echo "$(call SITE,$(VENV))" > "$(call SITE,$(ONEDL))/core.pth"
	$(ONEDL_PIP) install --quiet shapely $$(grep -E '^[a-z]' requirements-mmdet.txt | grep -v ^mm)
	$(ONEDL_PIP) install --quiet onedl-mmengine==0.10.12 onedl-mmdetection==3.5.1
	$(ONEDL_PIP) download --quiet --no-deps --no-build-isolation --no-binary :all: \
		--dest $(ONEDL) onedl-mmcv==$(lastword $(subst -, ,$(ONEDL_MMCV)))
	tar -xzf $(ONEDL)/$(ONEDL_MMCV).tar.gz --strip-components 1 -C "$(call SITE,$(ONEDL))" \
		$(ONEDL_MMCV)/mmcv $(ONEDL_MMCV)/onedl_mmcv.egg-info
	touch $@

test-onedl: $(ONEDL)/.ready
	$(QUIETLY) PYTHONPATH=.:integration:tests/mmdet $(ONEDL)/bin/python -m pytest -p no_operators tests/mmdet \
		-m "not slow" -k "not processes and not workers"

demo: $(BUILT) $(MMDET)
	$(BIN)/efpn demo

# The example runs on a CPU, so it waits for no CUDA library.
CPU_LIBRARY := efpn_kernels/_cpu.abi3.so
$(CPU_LIBRARY): $(CORE) $(SOURCES)
	$(BIN)/python csrc/build_cpu.py --output $@

EXAMPLE := $(VENV)/.example
$(EXAMPLE): $(CORE) requirements-example.txt
	$(PIP) install --quiet -r requirements-example.txt
	touch $@

example: $(CPU_LIBRARY) $(EXAMPLE)
	$(QUIETLY) PYTHONPATH=. $(BIN)/python examples/torchvision_detector.py

# The package is read and not imported: the site needs neither torch nor a compiler.
DOCS := $(VENV)-docs
$(DOCS)/.ready: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip --disable-pip-version-check install --quiet -r requirements-docs.txt
	touch $@

docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 PATH=$(CURDIR)/$(DOCS)/bin:$$PATH $(DOCS)/bin/mkdocs build --strict
	@echo "build/docs/index.html"

gpu-check:
	$(PYTHON) -m benchmarks.kernels.gpu_check

# ASan must be the first library of the process; Python itself leaks by design.
SANITIZED := ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)"
sanitize: $(BUILT)
	$(BIN)/python csrc/build_cpu.py --sanitize --output build/sanitize/_cpu.abi3.so
	EFPN_KERNELS_CPU_LIBRARY=build/sanitize/_cpu.abi3.so $(SANITIZED) \
		$(BIN)/python -m pytest tests/test_kernels.py tests/test_winograd.py tests/test_dc_loss.py -m "not slow" -x -q
	$(SANITIZED) $(BIN)/python -m pytest tests/test_cuda_values.py -x -q

lint: $(CORE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Objects are shared with the installation: the archive is unpacked elsewhere.
wheel: $(CORE)
	rm -rf dist build/wheel
	EFPN_KERNELS_OBJECTS=$(CURDIR)/build/objects $(BIN)/python -m build --no-isolation --outdir build/wheel .
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --exclude 'libtorch*.so' --wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist

# Only the stable ABI of Python in it; then the wheel in a second, clean environment, away from the sources.
wheel-test: wheel
	$(BIN)/abi3audit --strict dist/*.whl
	rm -rf build/clean && $(PYTHON) -m venv build/clean
	build/clean/bin/pip install --quiet --disable-pip-version-check $$(grep ^torch== requirements-dev.txt) numpy dist/*.whl
	cd build && clean/bin/efpn doctor && clean/bin/python ../tests/installed.py

compilers: $(BUILT)
	$(BIN)/python tests/release.py compilers

release-check: wheel-test compilers
	$(PIP) install --quiet uv
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tests/release.py wheels dist

clean:
	rm -rf build dist *.egg-info efpn_kernels/*.so efpn_kernels/_build.json
