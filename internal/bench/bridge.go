package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
)

// pythonPart returns a part that the worker's own benchmarks measure: a module that is run for some models, one after
// the other, and prints a figure a line. They compare with Python programs, and drive the worker as this one does.
func pythonPart(module string, models ...func(root string) string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		for _, model := range models {
			if err := b.measureIn(ctx, module, model(b.root)); err != nil {
				return err
			}
		}
		return nil
	}
}

func (b *bench) measureIn(ctx context.Context, module, model string) error {
	py, err := b.python(ctx)
	if err != nil {
		return err
	}
	worker := workerDir(b.root)
	cmd := exec.CommandContext(ctx, py, "-m", module, "--model", model, "--json")
	cmd.Dir, cmd.Env, cmd.Stderr = worker, pythonEnv(append(b.fast(), "PYTHONPATH="+worker)...), os.Stderr
	// It ends its own processes when it is told to end, which it is not by SIGKILL.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = endWait
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("open pipe from %s: %w", module, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", module, err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var f figure
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			_ = cmd.Cancel()
			_ = cmd.Wait() // what was printed says more
			return fmt.Errorf("read figure %q: %w", lines.Text(), err)
		}
		b.add(f)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", module, err)
	}
	return nil
}
