# Thin on purpose: each target calls one script or cargo. `make` alone lists them.
# A target installs what it needs by itself (tests/setup/setup.sh); `make setup` does all of it at once.

SETUP := bash tests/setup/setup.sh
PYTHON := .venv/bin/python
# emulator: seconds, nothing to install. vllm: two real engines on the CPU, about 6 GB installed on first use.
ENGINE ?= emulator
BINARIES := cargo build --release -p kvferry-sidecar -p kvferry-emulator

.PHONY: help setup demo test e2e bench lint soak fuzz models asan bindings

help: ## this list
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 8

setup: ## install what the machine lacks: lint tools, vLLM and NIXL for e2e, other proxies for the bench, UCX and NIXL for tests
	@$(SETUP) base vllm peers fabric

demo: ## one request across two engines, drawn in the terminal; ENGINE=vllm for real engines
	@$(if $(filter vllm,$(ENGINE)),$(SETUP) vllm)
	@$(BINARIES)
	@python3 tests/demo/demo.py --engine $(ENGINE)

test: ## all fast tests: Rust, and the harness and the demo on emulators
	cargo test --workspace
	KVFERRY_PROFILE=debug python3 -m unittest discover --start-directory tests/harness --top-level-directory tests
	KVFERRY_PROFILE=debug python3 -m unittest discover --start-directory tests/demo

e2e: ## real vLLM engines behind the sidecar, and real transfers over every library found; about 15 minutes
	@$(SETUP) vllm fabric
	@$(BINARIES)
	$(PYTHON) -m pytest tests/e2e -v
	cargo test -p kvferry-ucx-sys -p kvferry-nixl-sys -p kvferry-transfer

bench: ## the sidecar, connectors and transfers beside their peers; tables, JSON, plots in target/bench; about an hour
	@$(SETUP) peers vllm fabric
	cargo build --release -p kvferry-bench -p kvferry-sidecar -p kvferry-emulator
	target/release/kvferry-bench proxy --sidecar target/release/kvferry-sidecar \
	  --emulator target/release/kvferry-emulator --router .venv-peers/bin/vllm-router --out target/bench
	target/release/kvferry-bench connectors --sidecar target/release/kvferry-sidecar \
	  --emulator target/release/kvferry-emulator --out target/bench
	target/release/kvferry-bench client --emulator target/release/kvferry-emulator --out target/bench
	target/release/kvferry-bench transfer --local --scorecard --out target/bench

lint: ## formatting and lints, Rust and Python
	@$(SETUP) base
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	.venv/bin/ruff check tests benches
	.venv/bin/ruff format --check tests benches

soak: ## minutes of 2,000 streams over engines that fail at random; SOAK_SECONDS, SOAK_STREAMS, KVFERRY_SEED
	cargo build --release -p kvferry-sidecar -p kvferry-soak
	target/release/kvferry-soak --sidecar target/release/kvferry-sidecar --out target/soak

fuzz: ## a minute for each fuzz target, guided by coverage; FUZZ_SECONDS
	@bash tests/fuzz/run.sh

models: ## every order of threads in the wake-up protocol (loom), and the unit tests that miri can run; nightly with miri
	RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom -p kvferry-inbox --test loom
	@bash tests/sanitizers/miri.sh

asan: ## the conformance suite of the fabrics with AddressSanitizer and LeakSanitizer; nightly; ASAN_FABRICS
	@bash tests/sanitizers/asan.sh

bindings: ## write the generated half of ffi/ anew from the headers of UCX and NIXL
	@$(SETUP) fabric bindings
	@bash ffi/bindings.sh
