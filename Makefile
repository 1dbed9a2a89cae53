# Everything a person or CI runs. `make help` lists the targets.
SHELL := /bin/bash
export CGO_ENABLED ?= 0
export GOFLAGS := -buildvcs=false -trimpath
BUILD := build

.PHONY: help build demo test chaos check bench fuzz testbed-record generate clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' Makefile

build: ## the one static binary, build/keystead
	@go build -ldflags='-s -w -buildid=' -o $(BUILD)/keystead ./cmd/keystead

demo: ## the main job on this machine, narrated, in under a minute
	@scripts/need demo
	@$(MAKE) --no-print-directory build
	@$(BUILD)/keystead demo

test: ## everything that CI runs
	@scripts/need test
	@scripts/test

SEEDS ?= 2000
SEED ?= 1
chaos: ## thousands of simulated groups through crashes and cuts: SEEDS=2000 from SEED=1
	@go test ./replica/sim -count=1 -timeout=0 -v -run 'TestChaos|TestDefectsAreFound' -seeds=$(SEEDS) -seed=$(SEED)

check: ## format, vet, staticcheck, generated code
	@scripts/check

clean: ## remove build output
	rm -rf $(BUILD)
