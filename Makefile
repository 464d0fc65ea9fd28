# The only door. `make help` explains every target in one line.
#
# No recipe calls sudo but scripts/tools, where packages are missing; those that
# build interfaces want to be run as root, and find Go under sudo too.

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
NFPM        := $(GOBIN)/nfpm
NFPM_VERSION := v2.45.2
PKG_VERSION ?= $(shell sed -n 's/^\tVersion  *= "\(.*\)"$$/\1/p' cmd/settings/settings.go)
# What packages and pages are dated with: the same commit gives the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
DESTDIR     ?=
PREFIX      ?= /usr
PROGRAMS    := ./cmd/weft ./cmd/weftd ./cmd/weft-lab
# Many tests wait for the kernel or for each other: so many packages at a time.
PACKAGES    ?= 4
UNIT        = $(shell $(GO) list ./... | grep -v /cmd/weft-lab)
ARTEFACTS   ?= $(CURDIR)/artefacts
FUZZTIME    ?= 1s
# What make soak-kernel does: every test of paths, also those that make kernel leaves out, a few for each boot.
PATHS       := Chain LongChain Star|Ring TwoSites|NoDiscovery RandomGraphs BothFamilies|SeveralInterfaces OnlyOutbound $\
	DirectPathDies|DirectPathDiesUnderLoad DirectPathDiesOneWay|DirectPathDiesOtherWay RelayDies|OnlyRelayRestarts $\
	SecondRelayDies BusyEnds HostMoves LossyNetwork RelaySeesNothing|ForgedFragNeeded PathMTU $\
	PathNarrows|LargeMTU Punching|SymmetricNAT NATs/0- NATs/1- NATs/2- NATs/3- Day
# What make soak-mixed does: the same with kernel and userspace hosts in one mesh, and tests of the switch, addresses and repairs.
# What it does not have is in cmd/weft-lab/e2e/skip_test.go, with the reason. MIXED='RelayDies NATs/1-' does some of it.
MIXED       := Traffic|ARPStorm|MulticastMembers StopAndReset|RestartGap KillAndLaunch|NothingLostAcrossKill KillAll|PowerCut $\
	VanishedHostReturns|StateDirectoryDeleted OverIPv6|IPv6Off Repair ForwardPolicyDrop HostileService HostileFrames $\
	DoctorHost|NoSecretLeaves $(PATHS)
# $(call pieces,LIST,FLAGS) runs tests in the guest, some for each boot.
pieces       = @failed=; for tests in $(foreach p,$(1),'$(p)'); do \
		bin/weft-lab guest --timeout 540 -- -all $(2) -test.v -test.parallel 2 -test.run "^Test($${tests%%/*})\$$$$(case $$tests in */*) echo "/$${tests\#*/}";; esac)" || failed="$$failed $$tests"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }
ROUNDS      ?= 5
# How long TestDay runs in make soak: until the hosts have agreed on keys as often as in a day, every two minutes.
DAY         ?= 2h
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
	@scripts/promtool

.PHONY: unit
unit: go-version ## unit and property tests with the race detector, as root also those in fresh namespaces
	CGO_ENABLED=1 $(GO) test -vet=off -race -timeout 10m -p $(PACKAGES) -parallel 4 $(UNIT)
	$(GO) test -vet=off -timeout 10m -run '^(TestSim|TestReachedByOneOnly|TestLoss$$)' ./mesh ./mesh/ipam ./router/path

.PHONY: race
race: e2e-race ## end-to-end tests with race-built daemons

.PHONY: previous
previous: go-version ## the previous release's programs into bin/previous, for the test of upgrades
	@scripts/previous $(GO) $(CURDIR)/bin/previous

.PHONY: e2e
e2e: build package previous ## end-to-end tests on lab hosts, userspace data path (root)
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	$(GO) test -count=1 -timeout 10m -parallel 4 ./cmd/weft-lab/lab ./cmd/weft-lab/bench
	cd cmd/weft-lab/e2e && ARTEFACTS=$(ARTEFACTS) ../../../bin/e2e.test -test.timeout 20m -test.parallel 200 -test.v=$(if $(V),true,false) -weft-bin $(CURDIR)/bin $(E2E)

.PHONY: e2e-race
e2e-race: go-version
	CGO_ENABLED=1 $(GO) build -race -trimpath -o bin/race/ $(PROGRAMS)
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	cd cmd/weft-lab/e2e && ARTEFACTS=$(ARTEFACTS) ../../../bin/e2e.test -test.timeout 20m -weft-bin $(CURDIR)/bin/race $(E2E)

.PHONY: kernel
kernel: build ## the end-to-end tests that depend on the data path, with the kernel's, in a QEMU guest
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	ARTEFACTS=$(ARTEFACTS) bin/weft-lab guest -- -test.v=$(if $(V),true,false) $(E2E)
	bin/weft-lab guest --append ipv6.disable=1 -- -test.run TestKernelWithoutIPv6
	bin/weft-lab guest -- -mixed -test.run 'TestTraffic|TestChain$$'

.PHONY: fuzz
fuzz: go-version ## run every fuzz target for FUZZTIME (1s)
	@scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: $(LINT) ## golangci-lint, gofumpt, shellcheck
	$(LINT) run ./...
	shellcheck -s sh packaging/rpm/*
	shellcheck scripts/previous scripts/promtool packaging/build packaging/install packaging/deb/* scripts/weft scripts/tools scripts/timed scripts/fuzz scripts/go-version scripts/kernel-guest/run scripts/kernel-guest/init .ci/run

.PHONY: lint-fast
lint-fast: lint

$(LINT):
	GOBIN=$(GOBIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

.PHONY: bench
bench: build ## compare weft with veth, VXLAN, wireguard-go, tinc, Nebula in one run (root); quick: ROUNDS=1
	bin/weft-lab bench --out bin --rounds $(ROUNDS) $(if $(WAYS),--ways $(WAYS)) $(if $(FILTER),--filter)

.PHONY: bench-parts
bench-parts: build ## single parts: address allocator, launch, relay with a processor of its own, idle hosts, docker run (root)
	$(GO) test -run '^$$' -bench . ./mesh/ipam/...
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	cd cmd/weft-lab/e2e && ../../../bin/e2e.test -test.run '^$$' -test.bench . -test.benchtime 1x -test.timeout 20m -weft-bin $(CURDIR)/bin

.PHONY: man
man: go-version ## the manual pages, into bin/package/share/man
	rm -rf bin/package/share/man
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(GO) test -count=1 -run '^TestManPages$$' ./cmd/weft ./cmd/weftd -man $(CURDIR)/bin/package/share/man >/dev/null

.PHONY: package
package: build man $(NFPM) ## deb and rpm into bin/package: programs, units, manual pages, completions, weft.yaml
	@PATH="$(dir $(GO)):$$PATH" packaging/build $(PKG_VERSION) $(SOURCE_DATE_EPOCH) $(NFPM)

$(NFPM):
	GOBIN=$(GOBIN) $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)

.PHONY: install
install: build man ## install without a package manager, below DESTDIR and PREFIX (/usr); weft.yaml is kept
	@packaging/install "$(DESTDIR)" "$(PREFIX)"

.PHONY: image
image: build ## the Docker image weftnet/weft, for hosts without an install of weft (works offline)
	rm -rf bin/image && mkdir bin/image && cp bin/weft bin/weftd scripts/image/Dockerfile bin/image/
	docker build -q -t weftnet/weft bin/image

.PHONY: soak
soak: build ## the long forms: more seeds, a million operations on addresses, kill -9, 200 graphs, half an hour of loss, a day of traffic in two hours (shorter: DAY=8m), every order of killing Docker and weft, every path with the kernel data path, both data paths side by side
	CGO_ENABLED=1 $(GO) test -race -timeout 60m -rapid.checks 2000 $(UNIT)
	$(GO) test -timeout 60m -run '^TestSim' ./mesh/ipam -sim.ops 1000000
	WEFT_SOAK=10m $(MAKE) --no-print-directory e2e E2E='-test.run TestKillUnderStream'
	WEFT_SOAK=30m $(MAKE) --no-print-directory e2e E2E='-test.timeout 120m -test.run "TestRandomGraphs|TestLossyNetwork|TestPartitionHeals"'
	WEFT_SOAK=$(DAY) $(MAKE) --no-print-directory e2e E2E='-test.timeout 12h -test.run TestDay'
	WEFT_SOAK=1m $(MAKE) --no-print-directory e2e E2E='-test.timeout 60m -test.parallel 3 -test.run "TestOrders|TestProxyPasses"'
	WEFT_SOAK=1m $(MAKE) --no-print-directory e2e E2E='-test.run TestFaultsAreTold'
	$(MAKE) --no-print-directory e2e E2E='-test.count 5 -test.run "TestUnit|TestPackage|TestBoot"'
	WEFT_SOAK=6m $(MAKE) --no-print-directory soak-kernel
	$(MAKE) --no-print-directory soak-mixed
	@scripts/fuzz 60s

.PHONY: soak-kernel
soak-kernel: build ## the part of soak that runs in the QEMU guest: every path, in pieces of at most nine minutes; some of them: PATHS='Ring NATs/2-'
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	$(call pieces,$(PATHS))

.PHONY: soak-mixed
soak-mixed: build ## the part of soak in the QEMU guest where hosts with either data path stand side by side; some of it: MIXED='Traffic'
	$(GO) test -c -o bin/e2e.test ./cmd/weft-lab/e2e
	$(call pieces,$(MIXED),-mixed)

.PHONY: demo
demo: ## three hosts on this machine, joined, with a container each; leaves them running (root)
	@scripts/tools demo
	@$(MAKE) --no-print-directory -s build
	@bin/weft-lab demo

.PHONY: demo-ui
demo-ui: ## the same, and prints an address that shows it as a picture in a browser (root)
	@scripts/tools demo
	@$(MAKE) --no-print-directory -s build
	@bin/weft-lab demo ui

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
