# The targets that people and CI use. `make run` and `make test` install what they need.
SHELL := /bin/bash
TARGET := x86_64-unknown-linux-gnu
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/$(TARGET)/release/coracle
DEBUG := $(TARGET_DIR)/$(TARGET)/debug/coracle
# Builds the suite of hostile tenants and prints the path of its program.
HOSTILE = cargo test --package coracle-integration --test hostile --no-run --message-format=json 2>/dev/null | \
	sed -n 's|.*"executable":"\([^"]*/hostile-[^"/]*\)".*|\1|p' | tail -n 1
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: run test fuzz kills powerloss bodies check clean build bench dashboard browser vm prerequisites images kubectl clients

## run: install what is missing, build, start a node, replay the story, stay up until Ctrl-C.
##      NETNS=1 puts the node into a network namespace of its own with no way out.
run: build images
	@CORACLE_BINARY=$(abspath $(RELEASE)) NETNS=$(NETNS) integration/demo/run.sh

## test: everything a contributor must pass; ends in the test runner's summary.
test: prerequisites dashboard/dist/assets.rs images kubectl clients browser check
	cargo build --workspace
	@CORACLE_BINARY=$(abspath $(DEBUG)) integration/scripts/test.sh

## kills: the long run of the tests that kill the agent at random moments (KILLS=200).
KILLS ?= 200
kills: prerequisites images kubectl
	cargo build --workspace
	CORACLE_BINARY=$(abspath $(DEBUG)) CORACLE_KILLS=$(KILLS) cargo test --workspace --test kills --test controller_kills -- --nocapture

## fuzz: coverage-guided fuzzing of everything that reads input from outside: FUZZ_SECONDS (3600) over all
##       fuzzers, or those of TARGETS="spdy dns_query" (fuzz/coverage/corpora.txt lists them).
fuzz: prerequisites
	integration/scripts/fuzz.sh

## powerloss: the long run of the test that cuts the power and fails the disk (IMAGES=10000): a quarter
##            of an hour. CORACLE_SEED=… repeats the load, the faults and the choice of images.
IMAGES ?= 10000
powerloss: prerequisites
	cargo build --workspace
	CORACLE_BINARY=$(abspath $(DEBUG)) CORACLE_POWERLOSS_IMAGES=$(IMAGES) cargo test --package coracle-integration --test powerloss -- --nocapture

## bodies: the long run of the test that sends random objects through every client, verb and protocol
##         (OBJECTS=10000), against the release binary. CORACLE_SEED=… repeats the objects.
OBJECTS ?= 10000
bodies: build kubectl clients
	CORACLE_BINARY=$(abspath $(RELEASE)) CORACLE_OBJECTS=$(OBJECTS) cargo test --package coracle-integration --test bodies -- --nocapture

## vm: boots a fresh Debian machine (cgroup v2, systemd, then without) in qemu without KVM and without a
##     network, and runs integration/vm/scenario.sh and the suite of hostile tenants in it;
##     VM_STAGES="first", "plain" or "hostile" for one boot.
vm: build images kubectl
	@dpkg -s qemu-system-x86 >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] || apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null
	@hostile=$$($(HOSTILE)) && CORACLE_HOSTILE=$$hostile CORACLE_BINARY=$(abspath $(RELEASE)) integration/scripts/vm.sh

## check: formatting, lints, whether the tree is as ARCHITECTURE.md says, the dependencies, and whether the
##        dashboard is what its sources give.
check: prerequisites
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo run --quiet --package coracle-xtask -- check
	@integration/scripts/supply_chain.sh
	@integration/scripts/dashboard.sh

## dashboard: the page at /ui, from its sources (needs Node and npm). Its built files are kept with
##            the sources, so that nothing else needs Node; a test says when they are out of date.
dashboard:
	cd dashboard && npm ci --no-audit --no-fund && npm run check && npm test && npm run build

dashboard/dist/assets.rs:
	$(MAKE) dashboard

## browser: what drives the dashboard in the tests; where it cannot be had they say that they skip it.
browser:
	@integration/scripts/browser.sh

## build: the static release binary.
build: prerequisites dashboard/dist/assets.rs
	cargo build --release --package coracle
	@ls -la $(RELEASE) | awk '{ printf "built %s (%.1f MB)\n", $$9, $$5 / 1000000 }'

## bench: measures the release binary against its budgets (a table, and build/bench.json).
##        ONLY="idle pods" measures only these: size start neighbour idle pods deployments services dns api
##        connect memory.
bench: build images kubectl
	cargo build --release --workspace --bin bench
	@hostile=$$($(HOSTILE)) && CORACLE_HOSTILE=$$hostile CORACLE_BINARY=$(abspath $(RELEASE)) \
		RUST_LOG=warn,coracle=info $(dir $(RELEASE))bench $(ONLY)

prerequisites:
	@integration/scripts/prerequisites.sh

images: prerequisites
	@integration/scripts/images.sh

kubectl: prerequisites
	@integration/scripts/kubectl.sh

clients: prerequisites
	@integration/scripts/clients.sh

clean:
	cargo clean
	rm -rf build
