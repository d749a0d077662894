# The commands of daily work. Everything needs a Rust toolchain and a C compiler; the official-client suites of
# `make test` also need npm, and are skipped and counted without it.

CARGO ?= cargo
CLIENTS := tests/clients
INSTALLED := $(CLIENTS)/node_modules/.package-lock.json

.PHONY: help run test clients crash leak cuts loom fuzz bench lint fmt

help:
	@echo 'make run    build the release and start the gateway (ARGS="--listen 127.0.0.1:0" and the like)'
	@echo 'make test   every test, official clients included'
	@echo 'make crash  kill the release under load, again and again (CYCLES=10000 WRITERS=64 SEED=...)'
	@echo 'make leak   look for one session in what leaves another (TURNS=1000000 SEED=...)'
	@echo 'make cuts   cut the power of a recorded run at every sync (COMMITS=2000 SEEDS=1 SEED=...)'
	@echo 'make loom   try every order of threads in mailbox, hub and runs (PREEMPTIONS=4)'
	@echo 'make fuzz   look for inputs that break a parser, with libFuzzer (SECONDS=60 TARGET=key)'
	@echo 'make bench  figures: load and latency, as a table and as JSON (ARGS=--quick takes seconds)'
	@echo 'make lint   formatting, clippy, and cargo-deny where it is installed'
	@echo 'make fmt    format the sources'

run:
	$(CARGO) run --release --locked -p watertight-cli --bin watertight -- serve $(ARGS)

test: clients
	CARGO='$(CARGO)' tests/run

# One folder for every suite. Install scripts stay off: nothing that is driven here needs them.
clients:
	@if ! command -v npm >/dev/null; then \
	    case "$${WATERTIGHT_REQUIRE_CLIENTS:-}" in ''|0) ;; *) echo 'npm is required for the official clients' >&2; exit 1;; esac; \
	    echo 'npm not found: the official-client suites will be skipped'; \
	elif [ ! -e $(INSTALLED) ] || [ $(CLIENTS)/package-lock.json -nt $(INSTALLED) ]; then \
	    cd $(CLIENTS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch node_modules/.package-lock.json; \
	fi

# The machines of docs/reliability.md in their long forms; `make test` runs the short ones.
CYCLES ?= 10000
WRITERS ?= 64

crash:
	$(CARGO) build --release --locked -p watertight-cli
	WATERTIGHT_CRASH_CYCLES=$(CYCLES) WATERTIGHT_CRASH_WRITERS=$(WRITERS) WATERTIGHT_CRASH_SEED=$(SEED) \
	    $(CARGO) test --release --locked -p watertight-tests --test crash -- --nocapture nothing_acknowledged

TURNS ?= 1000000

leak:
	WATERTIGHT_LEAK_TURNS=$(TURNS) WATERTIGHT_LEAK_SEED=$(SEED) \
	    $(CARGO) test --release --locked -p watertight-tests --test leak -- --nocapture

COMMITS ?= 2000
SEEDS ?= 1

cuts:
	WATERTIGHT_CUTS_COMMITS=$(COMMITS) WATERTIGHT_CUTS_SEEDS=$(SEEDS) WATERTIGHT_CUTS_SEED=$(SEED) \
	    $(CARGO) test --locked -p watertight-tests --test cuts -- --nocapture

PREEMPTIONS ?= 4
loom:
	LOOM_MAX_PREEMPTIONS=$(PREEMPTIONS) tests/with-cfg watertight_loom \
	    $(CARGO) test --locked -p watertight-engine --lib interleavings:: -- --nocapture

SECONDS ?= 60

fuzz:
	CARGO='$(CARGO)' WATERTIGHT_FUZZ_SECONDS=$(SECONDS) tests/fuzz $(TARGET)

bench:
	$(CARGO) build --release --locked -p watertight-cli -p watertight-bench
	$(CARGO) run --release --locked --quiet -p watertight-bench -- $(ARGS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check licenses bans sources; else echo 'cargo-deny not found: skipped'; fi

fmt:
	$(CARGO) fmt --all
