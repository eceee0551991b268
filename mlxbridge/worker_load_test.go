package mlxbridge_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestWorkerRefusesBrokenModels(t *testing.T) {
	t.Parallel()
	whole := enginetest.Tiny(t)
	for name, spoil := range map[string]func(dir string) error{
		"no folder":      os.RemoveAll,
		"no config":      func(dir string) error { return os.Remove(filepath.Join(dir, "config.json")) },
		"config no JSON": func(dir string) error { return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600) },
		"no weights":     func(dir string) error { return os.Remove(filepath.Join(dir, "model.safetensors")) },
		"short weights":  func(dir string) error { return os.Truncate(filepath.Join(dir, "model.safetensors"), 100_000) },
		"no tokenizer":   func(dir string) error { return os.Remove(filepath.Join(dir, "tokenizer.json")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := whole
			spec.Dir = filepath.Join(t.TempDir(), "model")
			if err := os.CopyFS(spec.Dir, os.DirFS(whole.Dir)); err != nil {
				t.Fatal(err)
			}
			if err := spoil(spec.Dir); err != nil {
				t.Fatal(err)
			}
			engine, err := enginetest.RealLauncher(t).Launch(t.Context(), spec)
			mustCode(t, err, cluster.CodeBadModel)
			if engine != nil {
				t.Error("there is an engine")
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "tiny")) {
				t.Errorf("not one line that names the model: %q", err)
			}
		})
	}
}

func TestLaunchIsCancelledWhileItLoads(t *testing.T) {
	t.Parallel()
	launcher, spec := enginetest.RealLauncher(t), enginetest.Tiny(t)
	dir := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(dir, os.DirFS(spec.Dir)); err != nil {
		t.Fatal(err)
	}
	// Whoever reads a pipe waits until it is written: a load that never ends, and that says when it has begun.
	spec.Dir = dir
	pipe := filepath.Join(dir, "tokenizer.json")
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	launched := make(chan error, 1)
	go func() {
		_, err := launcher.Launch(ctx, spec)
		launched <- err
	}()
	waitFor(t, "the worker reads its tokenizer", func() bool {
		f, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			t.Cleanup(func() { _ = f.Close() })
		}
		return err == nil || len(launched) > 0
	})
	cancel()
	mustCode(t, <-launched, cluster.CodeCancelled)
}
