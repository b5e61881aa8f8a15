# make demo    run both published examples in a guest and report each step; ARGS=--direct: without
#              the daemon
# make test    run all rings of tests: unit, kernel (in a guest), e2e
# make check   linters, types, import contracts, unit tests; about a minute, no root
# make kernel  the kernel ring only; KERNEL=6.1|6.12|7.2|smp|host, WAY=direct|thick,
#              ARGS="arguments of pytest"
# make soak    random requests and kills, until SECONDS (300) are over; KERNEL=, WAY=
# make bench   compare the speed with another plugin and with the kernel alone;
#              KERNELS="6.1 7.2 smp", QUICK=1
# make fuzz    random input for the parsers of the shim and the daemon; SECONDS=300
# make shim    build build/bond, the static executable of thick mode
# make clean   remove all that these targets created in the tree

.PHONY: demo test check kernel soak bench fuzz shim clean setup
BIN := .venv/bin
KERNEL ?=
KERNELS ?=
QUICK ?=
WAY ?=
ARGS ?=
SECONDS ?= 300
SHIM_FLAGS := -std=c11 -D_GNU_SOURCE -static -Os -s -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror

setup:
	@tools/setup

shim: setup build/bond

build/bond: $(wildcard shim/*.c shim/*.h)
	@mkdir -p build
	@musl-gcc $(SHIM_FLAGS) -o $@ $(filter-out shim/fuzz%,$(filter %.c,$^))

demo: shim
	@$(BIN)/bondctl lab run --crash $(ARGS) $(if $(KERNEL),--kernel $(KERNEL)) \
		examples/host-links-daemonset.yaml examples/sriov-lacp-pod.yaml

test: shim
	@$(BIN)/python tests/rings.py $(if $(KERNEL),--kernel $(KERNEL))

check: shim
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q tests/unit

kernel: shim
	@$(BIN)/python tests/rings.py kernel $(if $(KERNEL),--kernel $(KERNEL)) $(if $(WAY),--way $(WAY)) -- $(ARGS)

soak: shim
	@$(BIN)/bondctl lab exec $(if $(KERNEL),--kernel $(KERNEL)) --timeout $$(($(SECONDS) + 120)) -- \
		env BONDCNI_WAY=$(or $(WAY),thick) $(BIN)/python tools/soak.py $(SECONDS)

bench: shim
	@$(BIN)/python -m benchmarks $(if $(KERNELS),--kernels "$(KERNELS)") $(if $(QUICK),--quick)

fuzz: shim
	@tools/fuzz $(SECONDS)

clean:
	@rm -rf .venv build lab/build dist .hypothesis .mypy_cache .ruff_cache .import_linter_cache src/*.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +
