// Command bench measures mlxctl against the bare thing in the same run: the whole path and the bridge against mlx-lm's
// own batch_generate, the worker against mlx-lm's server, the gateway against plain HTTP. It prints one line a figure,
// `NAME VALUE UNIT TARGET ok|short BLAS`, and writes the same to bench.json.
//
// A figure that is short does not fail the run: speed is recorded in docs/benchmarks.md and judged by people.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// part is one group of figures: `make bench-NAME` runs it alone, and only so where extra says that it takes long, or what
// few machines have.
type part struct {
	name  string
	run   func(ctx context.Context, b *bench) error
	extra bool
}

func parts() []part {
	return []part{
		{name: "gateway", run: benchGateway},
		{name: "bridge", run: pythonPart("bench.bridge", tinyModel, smallModel)},
		{name: "path", run: benchPath},
		{name: "mixed", run: pythonPart("bench.mixed", smallModel)},
		{name: "gap", run: pythonPart("bench.gap", tinyModel, smallModel)},
		{name: "turns", run: pythonPart("bench.turns", tinyModel, smallModel)},
		{name: "copy", run: pythonPart("bench.copying", tinyModel, smallModel)},
		{name: "start", run: pythonPart("bench.start", tinyModel, smallModel)},
		{name: "cancel", run: pythonPart("bench.cancel", tinyModel, smallModel)},
		{name: "up", run: benchUp, extra: true},
		{name: "soak", run: benchSoak, extra: true},
	}
}

func partNames() string {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// bench is what parts are given.
type bench struct {
	*report
	root   string // of the repository
	rounds int
	soak   time.Duration // of the part soak
	prefix string        // for stored prefixes in the part soak

	// Set by python.
	interpreter, blas, preload string
}

func main() {
	only := flag.String("part", "", "measure only this part: "+partNames())
	rounds := flag.Int("rounds", 5, "measure each pair of the part path so often and take the median")
	minutes := flag.Float64("minutes", 30, "how long the part soak lasts")
	prefix := flag.String("prefix", "64MiB", "memory for stored prefixes in the part soak; it must be full early, or its filling looks like a leak")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	soak := time.Duration(*minutes * float64(time.Minute))
	if err := run(ctx, *only, &bench{rounds: max(1, *rounds), soak: soak, prefix: *prefix}); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, b *bench) error {
	root, err := filepath.Abs(".")
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	b.report, b.root = &report{out: os.Stdout}, root
	known := false
	for _, p := range parts() {
		if (only == "" && p.extra) || (only != "" && only != p.name) {
			continue
		}
		known = true
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if !known {
		return fmt.Errorf("no part %q; there are %s", only, partNames())
	}
	return b.write("bench.json", machine(ctx, b.blas))
}

// machine says what the figures were measured on; numbers from another one do not compare.
func machine(ctx context.Context, blas string) map[string]string {
	on := map[string]string{
		"date": time.Now().UTC().Format(time.DateOnly), "os": runtime.GOOS + "/" + runtime.GOARCH,
		"cpus": fmt.Sprint(runtime.NumCPU()), "go": runtime.Version(), "blas": cmp.Or(blas, "not used"),
	}
	if out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		on["commit"] = strings.TrimSpace(string(out))
	}
	return on
}
