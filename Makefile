# make demo, make test: see README.md. Everything else is for developers: see CONTRIBUTING.md.
GO          ?= go
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.7.0
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT      := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
BUILT       := $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
VARS        := homeward/cmd/homeward/cli
LDFLAGS     := -s -w -X $(VARS).version=$(VERSION) -X $(VARS).commit=$(COMMIT) -X $(VARS).built=$(BUILT) -X main.version=$(VERSION)
BUILD       := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
FOR         ?=

export GOFLAGS += -buildvcs=false

.PHONY: build demo test check race bench bench-pack campaign build-all package man schema minify clean

build: ## the programs for this machine, in bin/
	$(BUILD) -o bin/ ./cmd/...

demo: build ## a whole site on this machine; FOR=30s ends by itself
	bin/homeward-simulate demo $(if $(FOR),--for $(FOR))

test: ## everything but the long campaigns, within ten minutes on two cores
	scripts/test-deps
	CGO_ENABLED=0 $(GO) test -timeout 9m -parallel 4 ./... # most of them wait
	cd scripts/flasher && CGO_ENABLED=0 $(GO) test -timeout 5m .
	cd scripts/package && CGO_ENABLED=0 $(GO) test -timeout 9m .
	scripts/test-qemu

check: ## format, vet, staticcheck, import rule, freshness of generated files
	@fmt=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$fmt" ]; then echo "gofmt would change: $$fmt"; exit 1; fi
	$(GO) vet ./...
	CGO_ENABLED=0 $(GO) run $(STATICCHECK) ./...
	cd scripts/flasher && $(GO) vet . && $(GO) mod verify && CGO_ENABLED=0 $(GO) run $(STATICCHECK) .
	cd scripts/package && $(GO) vet . && $(GO) mod verify && CGO_ENABLED=0 $(GO) run $(STATICCHECK) .
	cd scripts/minify && $(GO) vet . && $(GO) mod verify && CGO_ENABLED=0 $(GO) run $(STATICCHECK) .
	cd scripts/minify && CGO_ENABLED=0 $(GO) run . -check ../../agent/pack/packed/packed.js ../../agent/pack/packed/packed.min.js
	$(GO) mod verify
	$(GO) test -count=1 -run 'TestImports|TestReference|TestCodes|TestPromises' ./...

race: ## the unit tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short -timeout 20m ./...

bench: ## what docs/benchmarks.md keeps
	scripts/bench

bench-pack: ## readings per operation, on ../shared/traces or TRACES=DIR and the simulator's recordings; JSON=FILE
	CGO_ENABLED=0 $(GO) run ./scripts/benchpack $(if $(TRACES),--traces '$(TRACES)') $(if $(JSON),--json '$(JSON)')

campaign: ## the long runs that docs/campaigns.md keeps
	scripts/test-deps
	scripts/campaign

build-all: ## device binaries for every platform, with their sizes
	@for p in arm/6 arm/7 arm64/ amd64/; do \
		arch=$${p%%/*} v=$${p##*/}; dir=build/linux-$$arch$${v:+v$$v}; \
		GOOS=linux GOARCH=$$arch GOARM=$$v $(BUILD) -o $$dir/ ./cmd/homeward ./cmd/homeward-launch || exit 1; \
		printf '%-20s %8.2f MB, launcher %.2f MB\n' $$dir $$(stat -c %s $$dir/homeward $$dir/homeward-launch | awk '{print $$1/1e6}'); \
	done

package: build-all man ## Debian packages in build/: armhf (runs on ARMv6), arm64, amd64
	@for p in armhf/armv6 arm64/arm64 amd64/amd64; do \
		(cd scripts/package && CGO_ENABLED=0 $(GO) run . --version '$(VERSION)' --arch $${p%%/*} --source ../.. --out ../../build ../../build/linux-$${p##*/}/homeward) || exit 1; \
	done

man: ## manual pages, in build/man
	$(GO) run ./scripts/man build/man

schema: ## configs/homeward.schema.json from the Go types
	$(GO) test ./agent/config -run TestReference -update

minify: ## the decoder in JavaScript as it is shipped
	cd scripts/minify && CGO_ENABLED=0 $(GO) run . ../../agent/pack/packed/packed.js ../../agent/pack/packed/packed.min.js

clean:
	rm -rf bin build
