# Everything a person or CI runs. `make help` lists the targets.
SHELL := /bin/bash
export CGO_ENABLED ?= 0
export GOFLAGS := -buildvcs=false -trimpath
BUILD := build
# What is built from a checkout says from which commit: the same commit, the same bytes.
COMMIT := $(shell git describe --always --abbrev=40 --match=- --dirty 2>/dev/null)

.PHONY: help build demo demo-apps quick test chaos check bench bench-proof bench-ledger bench-hosts bench-flood fuzz testbed testbed-record generate clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' Makefile

build: ## the one static binary, build/keystead
	@go build -ldflags='-s -w -buildid= -X main.commit=$(COMMIT)' -o $(BUILD)/keystead ./cmd/keystead

demo: ## the main job on this machine, narrated, in under a minute
	@scripts/need demo
	@$(MAKE) --no-print-directory build
	@$(BUILD)/keystead demo

demo-apps: ## signed programs and keys that are for them, narrated, in under a minute; as root
	@scripts/need demo
	@$(MAKE) --no-print-directory build
	@scripts/demo-apps $(BUILD)/keystead

quick: ## build, vet, and tests in short of what changed since BASE=main and what depends on it
	@BASE=$(or $(BASE),main) scripts/quick

test: ## everything that CI runs
	@scripts/need test
	@scripts/test

SEEDS ?= 2000
SEED ?= 1
chaos: ## the ledger through crashes, cuts, full disks and a node that lies: ROUNDS=10 of processes, SEEDS=2000 simulated from SEED=1
	@scripts/need test
	@go test ./node -count=$(or $(ROUNDS),10) -timeout=0 -v -run 'TestCrashes|TestLinks|TestFullDisk|TestGovernance'
	@go test ./replica/sim -count=1 -timeout=0 -v -run 'TestChaos|TestDefectsAreFound' -seeds=$(SEEDS) -seed=$(SEED)
	@go test ./replica/sim/domain -count=1 -timeout=0 -v -run 'TestLiar|TestDefectsAreFound' -seeds=$(SEEDS) -seed=$(SEED)

check: ## format, vet, staticcheck, generated code
	@scripts/check

generate: ## generated code from its sources (api/v1)
	@scripts/generate api

testbed: ## a real machine, emulated, with the agent inside, in a domain of three nodes
	@scripts/need testbed
	@$(MAKE) --no-print-directory build
	@go test -tags testbed ./internal/testbed -count=1 -timeout=20m -v -run TestMachineInADomain

testbed-record: ## boot a packaged guest and record it afresh
	@scripts/need testbed
	@go run ./internal/testbed/cmd/record -cache $(BUILD)/guest

fuzz: ## every fuzz target, FOR=60s each
	@scripts/fuzz $(or $(FOR),60s)

bench: ## all promised figures beside their limits and peers: about ten minutes, and a fleet of at most FLEET=5000 hosts
	@$(MAKE) --no-print-directory --keep-going bench-proof bench-ledger bench-hosts bench-flood bench-fleet MOST=$(or $(FLEET),5000)

bench-proof: ## appraisal, reference values, attested connections
	@scripts/need bench
	@go run ./internal/bench

bench-ledger: ## the ledger's figures: three node processes, etcd beside them
	@scripts/need bench
	@$(MAKE) --no-print-directory build
	@go run ./internal/bench/ledger

bench-hosts: ## admission's figures: three node processes with software TPMs, synthetic hosts
	@scripts/need bench
	@$(MAKE) --no-print-directory build
	@go run ./internal/bench/hosts

bench-flood: ## strangers of 64 addresses flood three nodes: memory, and good hosts' renewals, beside each flood
	@scripts/need bench
	@$(MAKE) --no-print-directory build
	@go build -o $(BUILD)/bench-hosts ./internal/bench/hosts
	@ulimit -n $$(ulimit -Hn) && $(BUILD)/bench-hosts -flood -hosts 24 -length 14s

bench-fleet: ## a fleet that re-attests every minute, grown by 5,000 synthetic hosts until the domain does not hold it: takes an hour
	@scripts/need bench
	@$(MAKE) --no-print-directory build
	@go build -o $(BUILD)/bench-hosts ./internal/bench/hosts
	@$(BUILD)/bench-hosts -fleet $(or $(MOST),100000) -hosts $(or $(STEP),5000)

clean: ## remove build output
	rm -rf $(BUILD)
