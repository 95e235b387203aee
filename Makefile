# What there is to do here; `make` alone lists it. Each is a command that can as well be typed.

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

run: ## the demo, on http://127.0.0.1:3000
	cargo run

test: ## all tests that need nothing but cargo
	cargo test

test-browser: ## the page in real Chromium (chromium, chromium-driver)
	cargo test --test it -- --ignored browser::

bench: ## the figures, held against bare loops in the same run
	cargo bench

bench-quick: ## the same in under a minute: nothing may be lost
	cargo bench -- --quick

soak: ## a crowd that comes, goes and stalls, for 15 minutes or TIDINGS_SOAK_SECONDS
	TIDINGS_SOAK_SECONDS=$${TIDINGS_SOAK_SECONDS:-900} cargo test --release --test it -- --ignored soak:: --nocapture

bare: ## library and binary by rustc alone: no cargo, no registry, no network
	.ci/bare

static: ## static binaries, with musl and with glibc, in an empty root directory (Debian 12)
	.ci/static

targets: ## seven other processors under qemu (Debian 12)
	.ci/targets

lint: ## format and clippy, as CI has it
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

docs: ## the documentation, without a warning
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps

.PHONY: help run test test-browser bench bench-quick soak bare static targets lint docs
