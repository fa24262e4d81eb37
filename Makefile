# What people and CI run; `make` alone lists it. Everything is built in one profile, once.
CARGO_FLAGS := --locked --profile fast
# The documents are for people who work here: with private items in them, links to those are good.
RUSTDOC_FLAGS := '-D warnings -A rustdoc::private-intra-doc-links'
MINUTES ?= 30
PROGRAMS := --bin certs --bin ca-server --bin csr-client --bin token-issuer

.PHONY: help demo test bench crash flood fuzz soak clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: ## show Signet at work with real Envoys; KEEP=1 stays up and says what to try
	tests/tools/install envoy
	cargo build $(CARGO_FLAGS) $(PROGRAMS)
	deploy/demo/run

# The end-to-end tests run the programs that the build step leaves in target/fast; it builds the tests too, for
# without them some features of dependencies would differ and these be built twice.
# cargo-deny's fourth check, advisories, needs a database from the network, which CI does not have.
test: ## run what CI runs: format, lints, documents, bans, then every test
	tests/tools/install envoy pkilint cargo-deny promtool
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=$(RUSTDOC_FLAGS) cargo doc $(CARGO_FLAGS) --workspace --no-deps --document-private-items
	target/tools/cargo-deny/bin/cargo-deny --locked check bans licenses sources
	cargo build $(CARGO_FLAGS) --workspace --all-targets
	cargo test $(CARGO_FLAGS) --workspace

bench: ## measure certificates per second, CPU, memory and start-up
	cargo build $(CARGO_FLAGS) $(PROGRAMS) --bin load
	target/fast/load

# Needs a nightly compiler beside the pinned one. What the corpora hold already, `make test` runs.
TIME ?= 60
TARGET ?= $(notdir $(wildcard fuzz/corpus/*))
fuzz: ## fuzz every parser of outside bytes, TIME=60 seconds each; TARGET=csr TIME=1200 for one
	tests/tools/install cargo-fuzz
	fuzz/run $(TIME) $(TARGET)

flood: ## show what the CA does under floods and attacks, and judge it; SECONDS_EACH=60 is the default
	cargo build $(CARGO_FLAGS) $(PROGRAMS) --bin flood
	target/fast/flood $(SECONDS_EACH)

KILLS ?= 200
crash: ## kill the server KILLS times (200) under load and look for what was lost
	cargo build $(CARGO_FLAGS) $(PROGRAMS)
	SIGNET_CRASH_KILLS=$(KILLS) cargo test $(CARGO_FLAGS) -p signet-tests --test end_to_end \
		case_47_whatever_was_received -- --nocapture

soak: ## run everything at once for MINUTES=30: reloads, kills, slow clients, bad input; nothing may grow or be lost
	cargo build $(CARGO_FLAGS) $(PROGRAMS) --bin soak
	MINUTES=$(MINUTES) target/fast/soak

clean: ## remove target/: everything built, installed or left by the demo
	cargo clean
