# One profile for everything, so that build, demo, test and bench share what is compiled.
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
WHARF := $(TARGET)/release/wharf
# Building images needs root for now.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: build test lint demo bench deps clean

build:
	$(CARGO) build --release

# Everything that must hold before a change lands.
test: lint
	testdata/test.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

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
