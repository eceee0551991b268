package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// benchBridge has the worker's own benchmark compare its engine with batch_generate, in alternating blocks of steps in
// one process: whole runs side by side swing by a quarter on a shared machine.
func benchBridge(ctx context.Context, b *bench) error {
	py, err := b.python(ctx)
	if err != nil {
		return err
	}
	worker := workerDir(b.root)
	for _, model := range []string{filepath.Join(b.root, "internal", "library", "tiny"), smallModel(b.root)} {
		cmd := exec.CommandContext(ctx, py, "-m", "bench.bridge", "--model", model, "--json")
		cmd.Dir, cmd.Env, cmd.Stderr = worker, pythonEnv(append(b.fast(), "PYTHONPATH="+worker)...), os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return fmt.Errorf("open pipe from the worker's benchmark: %w", err)
		}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start the worker's benchmark: %w", err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var f figure
			if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
				return fmt.Errorf("read figure %q: %w", lines.Text(), err)
			}
			f.AtMost = f.Unit == "ms" // costs; ratios and rates are better when larger
			b.add(f)
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("the worker's benchmark: %w", err)
		}
	}
	return nil
}
