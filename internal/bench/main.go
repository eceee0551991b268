// Command bench measures mlxctl against the bare thing in the same run: the whole path against mlx-lm's own
// batch_generate, the bridge against the same, the gateway against plain HTTP. It prints one line a figure,
// `NAME VALUE UNIT TARGET ok|short`, and writes the same to bench.json.
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

// part is one group of figures: `make bench-NAME` runs it alone.
type part struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

func parts() []part {
	return []part{{"gateway", benchGateway}, {"bridge", benchBridge}, {"path", benchPath}}
}

// bench is what parts are given.
type bench struct {
	*report
	root   string // of the repository
	rounds int

	// Set by python.
	interpreter, blas, preload string
}

func main() {
	only := flag.String("part", "", "measure only this part: gateway, bridge or path")
	rounds := flag.Int("rounds", 5, "measure each pair so often and take the median")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, rounds int) error {
	root, err := filepath.Abs(".")
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	b := &bench{report: &report{out: os.Stdout}, root: root, rounds: max(1, rounds)}
	known := false
	for _, p := range parts() {
		if only != "" && only != p.name {
			continue
		}
		known = true
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if !known {
		return fmt.Errorf("no part %q; there are gateway, bridge and path", only)
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
