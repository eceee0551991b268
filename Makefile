# make demo    builds, forms a cluster on this machine and answers a prompt from a real model
# make test    every check there is, installing what it needs; continuous integration runs the same
# make lab     only what needs a network of hosts, for root on Linux; make lab-up HOSTS=8 leaves one standing to try by
#              hand, make lab-down removes it
# make bench   measures against bare mlx-lm, its server and plain HTTP; one line a figure, and bench.json
#              make bench-PART runs one part; only so: make bench-soak MINUTES=30, and make bench-up, which needs a lab

SHELL    := /bin/bash
GIT      := git -c safe.directory=$(CURDIR)
VERSION  ?= $(shell $(GIT) describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT   ?= $(shell $(GIT) rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
TOOLS    := $(CURDIR)/.tools
LINT     := $(TOOLS)/golangci-lint-v2.15.0
RELEASER := $(TOOLS)/goreleaser-v2.16.0
WORKER   := mlxbridge/worker
TARGETS  := darwin/arm64 linux/amd64 linux/arm64
FUZZTIME ?= 30s
MINUTES  ?= 30
HOSTS    ?= 8
PREFIX   ?= 64MiB
# The version comes by the linker; asking git for it again fails where the checkout is another user's.
export GOFLAGS += -buildvcs=false

.PHONY: build demo down test go-test worker-test lint fmt cross lab lab-up lab-down bench bench-% fuzz snapshot clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/mlxctl ./cmd/mlxctl

demo: build
	@scripts/deps.sh run
	bin/mlxctl up --local
	bin/mlxctl run tiny "Count from 1 to 20."
	@echo; echo 'The cluster goes on running: try `bin/mlxctl top`, end it with `bin/mlxctl down`.'

down:
	bin/mlxctl down

test: build
	@scripts/deps.sh test
	$(MAKE) lint cross worker-test
	$(MAKE) go-test

# A network of hosts takes all of a small machine: its tests run when the others are done, a package at a time.
go-test:
	go test -race -timeout 20m $$(go list ./... | grep -v /internal/lab)
	go test -race -timeout 30m -p 1 ./internal/lab/...
	@go run ./internal/lab/up -check

worker-test:
	scripts/worker-test.sh

lab: build
	@scripts/deps.sh test
	@go run ./internal/lab/up -check
	go test -count=1 -timeout 30m -p 1 ./internal/lab/...

lab-up: build
	@scripts/deps.sh test
	@go run ./internal/lab/up -hosts $(HOSTS) -binary bin/mlxctl $(if $(BLANK),-cache '')

lab-down:
	@go run ./internal/lab/up -down $(LAB)

lint: $(LINT)
	$(LINT) run ./...

fmt: $(LINT)
	$(LINT) fmt ./...

cross:
	@for t in $(TARGETS); do echo "build $$t"; CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} go build -trimpath -o /dev/null ./cmd/mlxctl || exit 1; done

fuzz:
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep ^Fuzz); do \
	  go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

bench: build
	@scripts/deps.sh run
	go run ./internal/bench

bench-%: build
	@scripts/deps.sh run
	go run ./internal/bench -part $* -minutes $(MINUTES) -prefix $(PREFIX)

snapshot: $(RELEASER)
	GOTOOLCHAIN=local $(RELEASER) release --snapshot --clean --skip=publish

$(LINT):
	GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(TOOLS)/golangci-lint $@

$(RELEASER):
	GOBIN=$(TOOLS) go install github.com/goreleaser/goreleaser/v2@v2.16.0
	mv $(TOOLS)/goreleaser $@

clean:
	rm -rf bin dist bench.json
