# make demo    both published cases, told as a story (boots a kernel with bonding by itself)
# make test    every ring of tests: unit, kernel (inside the guest), e2e
# make check   linters, types, import contracts, unit ring; seconds, no root
# make kernel  the kernel ring alone; KERNEL=6.1|6.12|7.2|smp|host, WAY=direct|thick, ARGS=pytest's
# make soak    random requests and kills until told to stop; SECONDS=300, KERNEL=
# make clean   remove what these made in the tree

.PHONY: demo test check kernel soak shim clean setup
BIN := .venv/bin
KERNEL ?=
WAY ?=
ARGS ?=
SECONDS ?= 300

setup:
	@tools/setup

demo: setup
	@$(BIN)/bondctl lab run --crash $(if $(KERNEL),--kernel $(KERNEL)) \
		examples/host-links-daemonset.yaml examples/sriov-lacp-pod.yaml

test: setup
	@$(BIN)/python tests/rings.py $(if $(KERNEL),--kernel $(KERNEL))

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q tests/unit

kernel: setup
	@$(BIN)/python tests/rings.py kernel $(if $(KERNEL),--kernel $(KERNEL)) $(if $(WAY),--way $(WAY)) -- $(ARGS)

soak: setup
	@$(BIN)/bondctl lab exec $(if $(KERNEL),--kernel $(KERNEL)) --timeout $$(($(SECONDS) + 120)) -- \
		$(BIN)/python tools/soak.py $(SECONDS)

clean:
	@rm -rf .venv build dist .hypothesis .mypy_cache .ruff_cache .import_linter_cache src/*.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +
