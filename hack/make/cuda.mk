# SPDX-License-Identifier: Apache-2.0
#
# The CUDA backend. Included by the Makefile, or used alone with
# `make -f hack/make/cuda.mk cuda` from the repository's root.
#
#   cuda            build/cuda/libfindep_cuda.so for all of CUDA_ARCHES and, as
#                   PTX, for later GPUs; no GPU and no driver are needed
#   cuda-install    copies it with cuBLASLt, NCCL and their licences, and nothing else
#                   of the toolkit, to DESTDIR/usr/local/lib/findep: the image's
#   cuda-resources  registers, spills and shared memory of every kernel against
#                   kernels/cuda/resources.tsv; cuda-resources-update writes it
#   cuda-shim       build/cuda/libfindep_cuda_shim.so: the same sources on a model
#                   of CUDA that runs on the CPU, for tests
#   test-cuda-shim  the conformance suite on it, and whole steps of several ranks
#   test-cuda-asan  the quick operations once more, under the address sanitizer
#   test-cuda-build all that can be known without a GPU, part of `make test`: the
#                   two builds, the table of resources, the symbols, loading by C
#                   (under valgrind) and by the Go binary, the suite on the model
#   test-cuda-steps the measuring steps of test-cuda on the CPU backend, in short
#   test-cuda       the tests on a GPU; says so where there is none
#
# nvcc 13 is taken from the PATH; where it is not, NVIDIA's wheels are installed
# into the cache folder (some 840 MiB). While developing, one architecture is
# enough: make cuda CUDA_ARCHES=90a

export FINDEP_CACHE ?= $(HOME)/.cache/findep

CUDA_ARCHES ?= 80 86 89 90a 100
CUDA_BUILD := build/cuda
CUDA_REQUIREMENTS := hack/cuda/requirements.txt
# Other pins, another folder; so the age of the list does not matter.
CUDA_WHEELS := $(FINDEP_CACHE)/cuda-$(shell sha256sum $(CUDA_REQUIREMENTS) | cut -c1-12)
CUDA_NVCC_ON_PATH := $(shell nvcc --version 2>/dev/null | grep -q 'release 13\.' && command -v nvcc)
CUDA_HOME ?= $(if $(CUDA_NVCC_ON_PATH),$(shell dirname $$(dirname $$(readlink -f $(CUDA_NVCC_ON_PATH)))),$(CUDA_WHEELS)/nvidia/cu13)
CUDA_TOOLKIT := $(CUDA_HOME)/bin/nvcc
# Toolkits call it lib64, wheels lib; known only once they are there.
CUDA_LIB = $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib))

# Toolkits have no NCCL; where a machine has, its folder can be named.
CUDA_NCCL_REQUIREMENTS := hack/cuda/requirements-nccl.txt
CUDA_NCCL ?= $(FINDEP_CACHE)/nccl-$(shell sha256sum $(CUDA_NCCL_REQUIREMENTS) | cut -c1-12)
CUDA_NCCL_HEADER := $(CUDA_NCCL)/include/nccl.h
CUDA_NCCL_LIBRARY := $(CUDA_NCCL)/lib/libnccl.so.2

# `nice` keeps the compiler from starving whatever else the machine does.
CUDA_NVCC = nice -n 10 $(CUDA_TOOLKIT)
CUDA_WARNINGS := -Wall -Wextra -Werror
CUDA_INCLUDES = -Ikernels -Ikernels/include
CUDA_CODE := $(foreach a,$(CUDA_ARCHES),-gencode arch=compute_$(a),code=sm_$(a)) \
	-gencode arch=compute_$(subst a,,$(lastword $(CUDA_ARCHES))),code=compute_$(subst a,,$(lastword $(CUDA_ARCHES)))
# -fmad is nvcc's default; named because the order of roundings is promised.
CUDA_NVCC_FLAGS := -std=c++17 -O3 -fmad=true -Werror all-warnings -Xptxas -v \
	-Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror,-Wno-unused-function $(CUDA_CODE)
CUDA_CXX_FLAGS := -std=c++17 -O2 -fPIC -fvisibility=hidden $(CUDA_WARNINGS) -Wconversion

CUDA_KERNELS := $(wildcard kernels/cuda/*.cu)
CUDA_HOST := $(wildcard kernels/cuda/*.cc kernels/common/*.cc)
CUDA_HEADERS := $(wildcard kernels/cuda/*.h kernels/cuda/*.cuh kernels/common/*.h) kernels/include/findep/backend.h
CUDA_OBJECTS := $(CUDA_KERNELS:%.cu=$(CUDA_BUILD)/%.cu.o) $(CUDA_HOST:%.cc=$(CUDA_BUILD)/%.cc.o)
CUDA_LIBRARY := $(CUDA_BUILD)/libfindep_cuda.so
CUDA_EXPORTS := kernels/cuda/exports.map

CUDA_SHIM_SOURCES := $(wildcard kernels/tests/cudashim/*)
CUDA_SHIM := $(CUDA_BUILD)/libfindep_cuda_shim.so
CUDA_SHIM_MODEL := $(foreach f,shim races cublaslt,$(CUDA_BUILD)/shim/kernels/tests/cudashim/$(f).cc.o)
# Undefined behaviour in kernels and host code ends the process.
CUDA_SHIM_FLAGS := -std=c++17 -O2 -fPIC -fvisibility=hidden $(CUDA_WARNINGS) -Wno-unknown-pragmas -Wno-unused-function \
	-fsanitize=undefined -fsanitize-undefined-trap-on-error -DFINDEP_CUDA_SHIM -Ikernels/tests/cudashim $(CUDA_INCLUDES)

# What runs in parallel within one of the targets here.
CUDA_JOBS ?= $(shell nproc)
CUDA_LOADER := $(CUDA_BUILD)/loader

.PHONY: cuda cuda-resources cuda-resources-update cuda-shim test-cuda-shim test-cuda-asan test-cuda-build test-cuda-load test-cuda test-cuda-steps cuda-install cuda-clean FORCE

cuda: $(CUDA_LIBRARY) ## Build the CUDA backend (build/cuda/libfindep_cuda.so).

$(CUDA_WHEELS)/nvidia/cu13/bin/nvcc: | $(CUDA_REQUIREMENTS)
	@echo "Installing the CUDA toolkit's wheels into $(CUDA_WHEELS)"
	rm -rf $(CUDA_WHEELS).part
	hack/cuda/wheels.sh $(CUDA_WHEELS).part $(CUDA_REQUIREMENTS)
	rm -rf $(CUDA_WHEELS)
	mv $(CUDA_WHEELS).part $(CUDA_WHEELS)
	touch $@

# The library itself is 400 MB and not needed to build.
$(CUDA_NCCL_HEADER): | $(CUDA_NCCL_REQUIREMENTS)
	@echo "Installing NCCL's headers into $(CUDA_NCCL)"
	rm -rf $(CUDA_NCCL).part
	hack/cuda/wheels.sh $(CUDA_NCCL).part $(CUDA_NCCL_REQUIREMENTS)
	mkdir -p $(CUDA_NCCL)
	rm -rf $(CUDA_NCCL)/include
	mv $(CUDA_NCCL).part/nvidia/nccl/include $(CUDA_NCCL)/include
	rm -rf $(CUDA_NCCL).part

$(CUDA_NCCL_LIBRARY): | $(CUDA_NCCL_HEADER)
	@echo "Installing NCCL into $(CUDA_NCCL)"
	rm -rf $(CUDA_NCCL).part
	hack/cuda/wheels.sh $(CUDA_NCCL).part $(CUDA_NCCL_REQUIREMENTS)
	mkdir -p $(CUDA_NCCL)
	rm -rf $(@D) $(CUDA_NCCL)/*.dist-info
	mv $(CUDA_NCCL).part/*.dist-info $(CUDA_NCCL)/
	mv $(CUDA_NCCL).part/nvidia/nccl/lib $(@D)
	rm -rf $(CUDA_NCCL).part

# Objects of other architectures or flags are not up to date.
$(CUDA_BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CUDA_HOME) $(CUDA_NVCC_FLAGS)' | cmp -s - $@ || echo '$(CUDA_HOME) $(CUDA_NVCC_FLAGS)' > $@

$(CUDA_BUILD)/%.cu.o: %.cu $(CUDA_HEADERS) $(CUDA_BUILD)/flags | $(CUDA_TOOLKIT)
	@mkdir -p $(@D)
	@echo "nvcc $<"
	@$(CUDA_NVCC) $(CUDA_NVCC_FLAGS) $(CUDA_INCLUDES) -c $< -o $@ > $@.log 2>&1 || (cat $@.log; rm -f $@; exit 1)

$(CUDA_BUILD)/%.cc.o: %.cc $(CUDA_HEADERS) $(CUDA_BUILD)/flags | $(CUDA_TOOLKIT) $(CUDA_NCCL_HEADER)
	@mkdir -p $(@D)
	$(CXX) $(CUDA_CXX_FLAGS) $(CUDA_INCLUDES) -isystem $(CUDA_HOME)/include -isystem $(CUDA_NCCL)/include -c $< -o $@

# The CUDA and C++ runtimes are inside and hidden; cuBLASLt is looked for beside
# the library, where a link to the toolkit's stands, and on the loader's path.
$(CUDA_LIBRARY): $(CUDA_OBJECTS) $(CUDA_EXPORTS)
	$(CXX) -shared -o $@ $(CUDA_OBJECTS) -static-libstdc++ -static-libgcc -Wl,-z,defs \
		-Wl,-soname,$(@F) -Wl,--version-script=$(CUDA_EXPORTS) \
		$(CUDA_LIB)/libcudart_static.a -lpthread -ldl -lrt
	ln -sf $(CUDA_LIB)/libcublasLt.so.13 $(CUDA_BUILD)/

# What a rank needs at run time. The wheels' own folders of metadata come along:
# they hold the licences, and tell scanners what is in the image; the CUDA runtime
# is inside of our library.
CUDA_PREFIX := /usr/local/lib/findep
cuda-install: $(CUDA_LIBRARY) $(CUDA_NCCL_LIBRARY)
	install -d $(DESTDIR)$(CUDA_PREFIX)
	install -m 0644 $(CUDA_LIBRARY) $(CUDA_LIB)/libcublasLt.so.13 $(CUDA_NCCL_LIBRARY) $(DESTDIR)$(CUDA_PREFIX)/
	for info in $(CUDA_WHEELS)/nvidia_cublas-*.dist-info $(CUDA_WHEELS)/nvidia_cuda_runtime-*.dist-info $(CUDA_NCCL)/*.dist-info; do \
		if [ -d $$info ]; then cp -r $$info $(DESTDIR)$(CUDA_PREFIX)/; fi; done

cuda-resources: $(CUDA_LIBRARY) ## Check registers and spills of every CUDA kernel.
	python3 hack/cuda/resources.py check kernels/cuda/resources.tsv $(CUDA_KERNELS:%.cu=$(CUDA_BUILD)/%.cu.o.log)

cuda-resources-update: $(CUDA_LIBRARY)
	python3 hack/cuda/resources.py update kernels/cuda/resources.tsv $(CUDA_KERNELS:%.cu=$(CUDA_BUILD)/%.cu.o.log)

cuda-shim: $(CUDA_SHIM) ## Build the CUDA backend on a model of CUDA that runs on the CPU.

$(CUDA_BUILD)/shim/%.o: % $(CUDA_HEADERS) $(CUDA_SHIM_SOURCES) hack/make/cuda.mk
	@mkdir -p $(@D)
	nice -n 10 $(CXX) $(CUDA_SHIM_FLAGS) $(CUDA_SHIM_CHECKS) -x c++ -c $< -o $@

# Kernels tell the race detector of the model what they touch; see races.cc.
$(CUDA_BUILD)/shim/%.cu.o: CUDA_SHIM_CHECKS := -fsanitize=thread

$(CUDA_SHIM): $(CUDA_KERNELS:%=$(CUDA_BUILD)/shim/%.o) $(CUDA_HOST:%=$(CUDA_BUILD)/shim/%.o) \
		$(CUDA_SHIM_MODEL) | $(CUDA_EXPORTS)
	$(CXX) -shared -o $@ $^ -Wl,-z,defs -Wl,-soname,$(@F) -Wl,--version-script=$(CUDA_EXPORTS) -lpthread -ldl

# The same with the address sanitizer, which cannot be together with the detector of
# races: device memory is in allocations of the sizes asked for, and so is shared
# memory that a launch gives.
CUDA_ASAN := $(CUDA_BUILD)/libfindep_cuda_asan.so
CUDA_ASAN_MODEL := $(foreach f,shim cublaslt,$(CUDA_BUILD)/asan/kernels/tests/cudashim/$(f).cc.o)

$(CUDA_BUILD)/asan/%.o: % $(CUDA_HEADERS) $(CUDA_SHIM_SOURCES) hack/make/cuda.mk
	@mkdir -p $(@D)
	nice -n 10 $(CXX) $(CUDA_SHIM_FLAGS) -O1 -g -fsanitize=address -x c++ -c $< -o $@

$(CUDA_ASAN): $(CUDA_KERNELS:%=$(CUDA_BUILD)/asan/%.o) $(CUDA_HOST:%=$(CUDA_BUILD)/asan/%.o) \
		$(CUDA_ASAN_MODEL) | $(CUDA_EXPORTS)
	$(CXX) -shared -fsanitize=address -o $@ $^ -Wl,-soname,$(@F) -Wl,--version-script=$(CUDA_EXPORTS) -lpthread -ldl

$(CUDA_BUILD)/asan_test: $(CUDA_BUILD)/asan/kernels/tests/cudashim/asan_test.cu.o $(CUDA_ASAN_MODEL)
	$(CXX) -fsanitize=address -o $@ $^ -lpthread

# The detector of races and the models of cuBLASLt and of tensor cores must find
# what they are there for.
$(CUDA_BUILD)/races_test: $(CUDA_BUILD)/shim/kernels/tests/cudashim/races_test.cu.o $(CUDA_SHIM_MODEL)
	$(CXX) -o $@ $^ -lpthread

$(CUDA_BUILD)/mma_test: $(CUDA_BUILD)/shim/kernels/tests/cudashim/mma_test.cu.o $(CUDA_SHIM_MODEL)
	$(CXX) -o $@ $^ -lpthread

$(CUDA_BUILD)/cublaslt_test: $(CUDA_BUILD)/shim/kernels/tests/cudashim/cublaslt_test.cc.o $(CUDA_SHIM_MODEL)
	$(CXX) -o $@ $^ -lpthread

# In the place of libnccl.so.2, for ranks within one process.
CUDA_FAKE_NCCL := $(CUDA_BUILD)/libnccl_fake.so
cuda-shim: $(CUDA_FAKE_NCCL)

$(CUDA_FAKE_NCCL): kernels/tests/cudashim/fakenccl.cc kernels/tests/cudashim/nccl.h
	@mkdir -p $(@D)
	nice -n 10 $(CXX) $(CUDA_SHIM_FLAGS) -shared -o $@ $< -lpthread

CUDA_MODEL_TESTS := $(CUDA_BUILD)/races_test $(CUDA_BUILD)/cublaslt_test $(CUDA_BUILD)/mma_test

test-cuda-shim: $(CUDA_SHIM) $(CUDA_FAKE_NCCL) $(CUDA_MODEL_TESTS) ## Run the conformance suite on the CUDA kernels, on the CPU.
	@set -e; for test in $(CUDA_MODEL_TESTS); do $$test; done
	FINDEP_CUDA_SHIM=$(abspath $(CUDA_SHIM)) FINDEP_NCCL_LIBRARY=$(abspath $(CUDA_FAKE_NCCL)) \
		go test -count=1 -tags findep_native -run 'CUDAShim|OnTheModelOfCUDA' ./runtime/backend/native ./runtime/executor

# Products and attention take too long in it.
CUDA_ASAN_OPS := (add|dispatch|embed|rmsnorm|rope|router|swiglu)/

# The sanitizer must be loaded first. Go keeps its own signals, and what a process
# still has at its end is not looked for.
test-cuda-asan: $(CUDA_ASAN) $(CUDA_BUILD)/asan_test native ## Run the quick CUDA kernels on the CPU under the address sanitizer.
	ASAN_OPTIONS=detect_leaks=0 $(CUDA_BUILD)/asan_test
	go test -c -tags findep_native -o $(CUDA_BUILD)/asan-native.test ./runtime/backend/native
	cd runtime/backend/native && FINDEP_CUDA_SHIM=$(abspath $(CUDA_ASAN)) LD_PRELOAD=$$($(CXX) -print-file-name=libasan.so) \
		ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_sigill=0:handle_sigfpe=0 \
		$(abspath $(CUDA_BUILD))/asan-native.test -test.run 'TestCUDAShim$$/exact/$(CUDA_ASAN_OPS)'

$(CUDA_LOADER): kernels/tests/loader/loader.c kernels/include/findep/backend.h
	@mkdir -p $(@D)
	$(CC) -std=c11 -O1 -g -Wall -Wextra -Werror -Ikernels/include -o $@ $< -ldl

# Valgrind does not know what a driver does, so this is for machines without.
test-cuda-load: $(CUDA_LIBRARY) $(CUDA_LOADER) native
	@hack/prerequisites.sh
	valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect \
		$(CUDA_LOADER) $(abspath $(CUDA_LIBRARY))
	FINDEP_CUDA_LIBRARY=$(abspath $(CUDA_LIBRARY)) go test -count=1 -tags findep_native -run 'CUDA' ./runtime/backend/native ./cmd/findep

test-cuda-build: ## Build the CUDA backend for all architectures and test what needs no GPU.
	$(MAKE) -j$(CUDA_JOBS) cuda cuda-shim
	$(MAKE) cuda-resources test-cuda-load test-cuda-shim

test-cuda: $(CUDA_LIBRARY) $(CUDA_LOADER) native ## Run the tests that need a GPU; says so where there is none.
	FINDEP_CUDA_LIBRARY=$(abspath $(CUDA_LIBRARY)) hack/cuda/test.sh

# Up to the device: calibration, shares of peak and the three policies, short.
test-cuda-steps: native
	FINDEP_TEST_BACKEND=cpu hack/cuda/test.sh

cuda-clean: ## Remove the CUDA build; the toolkit stays in the cache.
	rm -rf $(CUDA_BUILD)
