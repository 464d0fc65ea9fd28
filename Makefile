# The only door. `make help` explains every target in one line.
#
# Neither target needs sudo itself; those that build interfaces want to be run
# as root, and find Go under sudo too.

SHELL       := /bin/sh
.DEFAULT_GOAL := build
.SUFFIXES:

# sudo resets PATH: look where Go usually lives as well.
GO ?= $(shell command -v go 2>/dev/null || ls /usr/local/go/bin/go /usr/lib/go/bin/go $${SUDO_USER:+$$(eval echo ~$$SUDO_USER)/go/bin/go} 2>/dev/null | head -n 1)
GO_WANT     := $(shell sed -n 's/^go //p' go.mod)
# Tools are kept outside the checkout, so that a fresh clone finds them.
GOBIN       := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/weft/bin
LINT        := $(GOBIN)/golangci-lint
LINT_VERSION := v2.15.0
PROGRAMS    := ./cmd/weft ./cmd/weftd ./cmd/weft-lab
UNIT        = $(shell $(GO) list ./... | grep -v /cmd/weft-lab)
ARTEFACTS   ?= $(CURDIR)/artefacts
FUZZTIME    ?= 2s
# What make soak does in the guest: every test of paths, also those that make kernel leaves out.
PATHS       := ^Test(Chain|LongChain|Star|Ring|TwoSites|RandomGraphs|BothFamilies|SeveralInterfaces|NoDiscovery|OnlyOutbound$\
	|DirectPath.*|RelayDies|OnlyRelayRestarts|SecondRelayDies|BusyEnds|HostMoves|LossyNetwork|RelaySeesNothing$\
	|PathMTU|PathNarrows|LargeMTU|ForgedFragNeeded|Punching|NATs|SymmetricNAT)$$
ROUNDS      ?= 5
export CGO_ENABLED ?= 0

.PHONY: build
build: go-version ## build every program into bin/
	$(GO) build -trimpath -ldflags '-s -w' -o bin/ $(PROGRAMS)

.PHONY: test
test: ## install what is missing and run everything that CI runs; says how long each part took
	@scripts/timed tools lint-fast build unit e2e kernel fuzz

.PHONY: tools
tools: ## install the Debian packages that tests and demo need (starts no service, installs no kernel)
	@scripts/tools test

.PHONY: unit
unit: go-version ## unit and property tests with the race detector, as root also those in fresh namespaces
	CGO_ENABLED=1 $(GO) test -race -timeout 10m $(UNIT)
	$(GO) test -timeout 10m -run '^(TestSim|TestReachedByOneOnly)' ./mesh ./mesh/ipam

.PHONY: race
race: e2e-race ## end-to-end tests with race-built daemons

.PHONY: e2e
e2e: build ## end-to-end tests on lab hosts, userspace data path (root)
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	$(GO) test -count=1 -timeout 10m ./cmd/weft-lab/lab ./cmd/weft-lab/bench
	cd cmd/weft-lab/e2e && ARTEFACTS=$(ARTEFACTS) ../../../bin/e2e.test -test.timeout 20m -test.parallel 8 -test.v=$(if $(V),true,false) -weft-bin $(CURDIR)/bin $(E2E)

.PHONY: e2e-race
e2e-race: go-version
	CGO_ENABLED=1 $(GO) build -race -trimpath -o bin/race/ $(PROGRAMS)
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	cd cmd/weft-lab/e2e && ARTEFACTS=$(ARTEFACTS) ../../../bin/e2e.test -test.timeout 20m -weft-bin $(CURDIR)/bin/race $(E2E)

.PHONY: kernel
kernel: build ## the same end-to-end tests with the kernel data path, in a QEMU guest
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	ARTEFACTS=$(ARTEFACTS) bin/weft-lab guest -- -test.v=$(if $(V),true,false) $(E2E)
	bin/weft-lab guest --append ipv6.disable=1 -- -test.run TestKernelWithoutIPv6
	bin/weft-lab guest -- -mixed -test.run 'TestTraffic|TestChain$$'

.PHONY: fuzz
fuzz: go-version ## run every fuzz target for FUZZTIME (2s)
	@scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: $(LINT) ## golangci-lint, gofumpt, shellcheck
	$(LINT) run ./...
	shellcheck scripts/weft scripts/tools scripts/timed scripts/fuzz scripts/go-version scripts/kernel-guest/run scripts/kernel-guest/init .ci/run

.PHONY: lint-fast
lint-fast: lint

$(LINT):
	GOBIN=$(GOBIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

.PHONY: bench
bench: build ## compare weft with veth, VXLAN, wireguard-go, tinc, Nebula in one run (root); quick: ROUNDS=1
	bin/weft-lab bench --out bin --rounds $(ROUNDS) $(if $(WAYS),--ways $(WAYS))

.PHONY: bench-parts
bench-parts: build ## single parts: address allocator, launch, relay with a processor of its own, idle hosts (root)
	$(GO) test -run '^$$' -bench . ./mesh/ipam
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	cd cmd/weft-lab/e2e && ../../../bin/e2e.test -test.run '^$$' -test.bench . -test.benchtime 1x -test.timeout 20m -weft-bin $(CURDIR)/bin

.PHONY: soak
soak: build ## the long forms: more seeds, a million operations on addresses, kill -9, 200 graphs, half an hour of loss, every path with the kernel data path
	CGO_ENABLED=1 $(GO) test -race -timeout 60m -rapid.checks 2000 $(UNIT)
	$(GO) test -timeout 60m -run '^TestSim' ./mesh/ipam -sim.ops 1000000
	WEFT_SOAK=10m $(MAKE) --no-print-directory e2e E2E='-test.run TestKillUnderStream'
	WEFT_SOAK=30m $(MAKE) --no-print-directory e2e E2E='-test.timeout 120m -test.run "TestRandomGraphs|TestLossyNetwork"'
	bin/weft-lab guest --timeout 10800 -- -all -test.v -test.parallel 1 -test.run '$(PATHS)'
	@scripts/fuzz 60s

.PHONY: demo
demo: ## three hosts on this machine, joined, with a container each; leaves them running (root)
	@scripts/tools demo
	@$(MAKE) --no-print-directory -s build
	@bin/weft-lab demo

.PHONY: demo-down
demo-down: ## remove everything that demo made
	@bin/weft-lab down demo

.PHONY: clean
clean: ## remove what was built
	rm -rf bin artefacts

.PHONY: go-version
go-version:
	@scripts/go-version "$(GO)" "$(GO_WANT)"

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  %-11s %s\n", $$1, $$2}'
