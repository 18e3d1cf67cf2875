# One profile and one set of flags for everything: build, demo, test, bench and dist share what is compiled, and what is
# tested is what is delivered.
CARGO ?= cargo
MACHINE := $(shell rustc --print host-tuple 2>/dev/null || rustc -vV | sed -n 's/^host: //p')
export CARGO_BUILD_TARGET := $(MACHINE)
# Static, so that a file system with nothing else in it is enough. The system call for random numbers is in every kernel
# that wharf runs on; looked up at run time it would not be found in a static program, and there may be no /dev.
export RUSTFLAGS := -C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"
TARGET := $(or $(CARGO_TARGET_DIR),target)
WHARF := $(TARGET)/$(MACHINE)/release/wharf
# The base images of demo and bench belong to root.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# The program for everywhere.
DIST := $(TARGET)/$(MACHINE)/dist

.PHONY: build test lint demo bench dist pack image deps clean

build:
	$(CARGO) build --release

# Everything that must hold before a change lands. What tests depend on wants more features of some crates, with which nearly
# everything is compiled anew: the program that is packed here is the one that is tested, and there is no other.
test: lint
	$(CARGO) test --release --workspace --no-run
	$(MAKE) pack
	testdata/test.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

# The program as it lies in an image.
dist:
	$(CARGO) build --release --package wharf
	$(MAKE) pack

pack:
	rm -rf $(DIST)
	install -D -s -m 0755 $(WHARF) $(DIST)/usr/local/bin/wharf
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
