# The commands that people type. What they do is in xtask/; scripts/setup.sh installs what is missing.

.DEFAULT_GOAL := help
.PHONY: help test demo demo-vm bench vm fmt clippy

help:
	@echo 'make test      install what is missing and run every check and test (root or sudo)'
	@echo 'make demo      show the main job in a private network namespace (root or sudo)'
	@echo 'make demo-vm   the same with real QEMU machines as guests'
	@echo 'make bench     print the figures of docs/benchmarks.md'
	@echo 'make vm        run the kernel tests in a QEMU machine; FILTER=words picks some'
	@echo 'make fmt       format the code'
	@echo 'make clippy    the lints, as errors'

test:
	@scripts/setup.sh test
	@cargo xtask ci

demo:
	@scripts/setup.sh demo
	@cargo xtask demo

demo-vm:
	@scripts/setup.sh demo-vm
	@cargo xtask demo --vm

bench:
	@scripts/setup.sh test
	@cargo build --release --workspace
	@cargo xtask bench

vm:
	@scripts/setup.sh test
	@cargo xtask vm -- $(FILTER)

fmt:
	cargo fmt --all

clippy:
	cargo clippy --workspace --all-targets -- -D warnings
