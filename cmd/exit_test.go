package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
)

func TestExitCode(t *testing.T) {
	t.Parallel()
	interrupted, cancel := context.WithCancelCause(context.Background())
	cancel(signalError{syscall.SIGINT})
	terminated, cancel := context.WithCancelCause(context.Background())
	cancel(signalError{syscall.SIGTERM})
	typed := func(c cluster.Code) error { return fmt.Errorf("wrapped: %w", &cluster.Error{Code: c, Message: "m"}) }
	for _, c := range []struct {
		name string
		ctx  context.Context //nolint:containedctx // a table
		err  error
		want int
	}{
		{"done", nil, nil, 0},
		{"plain", nil, errors.New("x"), 1},
		{"usage", nil, usagef("x"), 2},
		{"wrapped usage", nil, fmt.Errorf("y: %w", usagef("x")), 2},
		{"partial", nil, silentError{exitPartial}, 3},
		{"partly", nil, partly([]rotated{{Node: "n", State: rotatedMissing}}, "x"), 3},
		{"all", nil, partly([]rotated{{Node: "n", State: rotatedDone}}, "x"), 0},
		{"no such", nil, &noSuchError{cluster.Errorf(cluster.CodeNoNode, "x")}, 6},
		{"no context", nil, &config.NoContextError{}, 6},
		{"interrupted", interrupted, typed(cluster.CodeCancelled), 130},
		{"terminated", terminated, typed(cluster.CodeCancelled), 143},
		{"done although interrupted", interrupted, nil, 0},
		{"invalid", nil, typed(cluster.CodeInvalid), 2},
		{"too large", nil, typed(cluster.CodeTooLarge), 2},
		{"context", nil, typed(cluster.CodeContext), 2},
		{"unauthorized", nil, typed(cluster.CodeUnauthorized), 4},
		{"no model", nil, typed(cluster.CodeNoModel), 6},
		{"bad model", nil, typed(cluster.CodeBadModel), 2},
		{"no fit", nil, typed(cluster.CodeNoFit), 5},
		{"no node", nil, typed(cluster.CodeNoNode), 5},
		{"busy", nil, typed(cluster.CodeBusy), 5},
		{"node lost", nil, typed(cluster.CodeNodeLost), 1},
		{"crashed", nil, typed(cluster.CodeWorkerCrashed), 1},
		{"quarantined", nil, typed(cluster.CodeQuarantined), 5},
		{"timeout", nil, typed(cluster.CodeTimeout), 7},
		{"cancelled", nil, typed(cluster.CodeCancelled), 1},
		{"unsupported", nil, typed(cluster.CodeUnsupported), 1},
		{"unreachable", nil, typed(cluster.CodeUnreachable), 7},
		{"conflict", nil, typed(cluster.CodeConflict), 1},
		{"internal", nil, typed(cluster.CodeInternal), 1},
		{"deadline", nil, context.DeadlineExceeded, 7},
	} {
		ctx := c.ctx
		if ctx == nil {
			ctx = context.Background()
		}
		if got := exitCode(ctx, c.err); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// The document says what the program says.
func TestExitCodesAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, m := range exitMeanings() {
		fmt.Fprintf(&table, "| %s | %s |\n", m[0], m[1])
	}
	if !strings.Contains(string(doc), table.String()) {
		t.Errorf("docs/exit-codes.md lacks:\n%s", table.String())
	}
}

func TestWantsJSON(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"nodes":                 false,
		"nodes -o json":         true,
		"nodes -ojson":          true,
		"nodes --output=json":   true,
		"nodes --output json":   true,
		"nodes --json":          true,
		"run m -o jsonl":        true,
		"run m -o text":         false,
		"run m -- -o json":      false,
		"nodes -o":              false,
		"nodes --output yaml x": false,
	} {
		if got := wantsJSON(strings.Fields(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}
