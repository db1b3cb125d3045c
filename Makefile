# `make` alone lists what there is to make.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench lessons install uninstall build contenders tools

PREFIX = /usr/local

help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: build ## compare six concurrency models on this machine, in about a minute and a half
	target/release/echo-client compare --blocks 3 --json results/demo.json

test: tools ## run all tests
	cargo test --workspace --no-fail-fast

check: tools ## format, lints, documentation, tests
	cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items && cargo test --workspace --no-fail-fast

bench: build contenders ## measure event-loop against a plain C epoll loop, and the measure itself
	target/release/echo-client compare --duet event-loop event-loop -c 64 --json results/bench-self.json
	target/release/echo-client compare --duet event-loop c-epoll --with 'c-epoll=target/contenders/epoll {port}' -c 64 --json results/bench.json

lessons: ## list the lessons
	@ls examples/*.rs | sed 's|examples/\(.*\)\.rs|  cargo run --example \1|'

install: build ## install both programs, their manual pages and completions into PREFIX=/usr/local
	install -D -t $(DESTDIR)$(PREFIX)/bin target/release/echo-server target/release/echo-client
	target/release/echo-server generate $(DESTDIR)$(PREFIX)/share && target/release/echo-client generate $(DESTDIR)$(PREFIX)/share

uninstall: ## remove what install put there
	cd $(DESTDIR)$(PREFIX) && for program in echo-server echo-client; do rm -f bin/$$program share/man/man1/$$program*.1 \
	share/bash-completion/completions/$$program.bash share/zsh/site-functions/_$$program share/fish/vendor_completions.d/$$program.fish; done

build:
	cargo build --release

contenders: tools $(patsubst examples/%.c,target/%,$(wildcard examples/contenders/*.c))

target/contenders/%: examples/contenders/%.c $(wildcard examples/contenders/*.h)
	@mkdir -p $(@D)
	cc -O2 -Wall -Wextra -pthread -o $@ $<

tools: # a C linker, and what a test uses to run a server as somebody else
	@command -v cargo >/dev/null || { echo 'install Rust first: https://rustup.rs'; exit 1; }
	@command -v cc >/dev/null && command -v setpriv >/dev/null && command -v prlimit >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y gcc util-linux; } || { echo 'install first: gcc util-linux'; exit 1; }
