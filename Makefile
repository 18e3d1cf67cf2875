# One profile for everything, so that build, demo, test and bench share what is compiled.
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
WHARF := $(TARGET)/release/wharf
# The base images of demo and bench belong to root.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# The program for everywhere: static, so that a file system with nothing else in it is enough.
MACHINE := $(shell rustc --print host-tuple 2>/dev/null || rustc -vV | sed -n 's/^host: //p')
STATIC := $(TARGET)/$(MACHINE)/release/wharf
DIST := $(TARGET)/dist
# The system call for random numbers is in every kernel that wharf runs on; looked up at run time it would not be found
# in a static program, and there may be no /dev.
STATIC_FLAGS := -C target-feature=+crt-static -C link-arg=-s --cfg getrandom_backend="linux_getrandom"

.PHONY: build test lint demo bench dist image deps clean

build:
	$(CARGO) build --release

# Everything that must hold before a change lands.
test: lint dist
	testdata/test.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

# The static program as it lies in an image: target/dist.
dist:
	RUSTFLAGS='$(STATIC_FLAGS)' $(CARGO) build --release --target $(MACHINE) --package wharf
	rm -rf $(DIST)
	install -D -m 0755 $(STATIC) $(DIST)/usr/local/bin/wharf
	install -d $(DIST)/kaniko
	ln -s ../usr/local/bin/wharf $(DIST)/kaniko/executor
	testdata/dist/check.sh $(DIST)/usr/local/bin/wharf

# Its images, built by itself.
image: dist
	for target in wharf executor; do \
	    $(DIST)/usr/local/bin/wharf build --build-context dist=$(DIST) --file builder/image/Dockerfile --target $$target --tag $$target . || exit; \
	done

# A three-stage image, built and run.
demo: build
	$(SUDO) testdata/base/debian.sh
	$(SUDO) testdata/demo/run.sh $(WHARF)

bench: build
	$(SUDO) testdata/bench/run.sh $(WHARF)

# What tests and demo use besides Rust, from Debian.
deps:
	testdata/deps.sh

clean:
	$(CARGO) clean
	rm -rf .cache
