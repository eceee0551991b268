package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mlxctl/mlxctl/internal/bus"
)

// drainedPath is the file whose presence says that the node is drained, so that a restart changes nothing about it.
func (a *Agent) drainedPath() string { return filepath.Join(a.o.Home, "agent", "drained") }

// Drain has the node take nothing new, or again take what comes, tells the controller so, and holds beyond the end of
// this process. What runs is finished; nothing waits for that here.
func (a *Agent) Drain(on bool) error {
	if err := a.keepDrained(on); err != nil {
		return err
	}
	a.gate.drain(on)
	a.log.Info("drain changed", "drained", on, "running", a.gate.count())
	poke(a.beat)
	return nil
}

func (a *Agent) keepDrained(on bool) error {
	path := a.drainedPath()
	if !on {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("note that the node is not drained: %w", err)
		}
		return nil
	}
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note that the node is drained: %w", err)
	}
	return nil
}

// recallDrained drains a node that was drained when its last process ended.
func (a *Agent) recallDrained() {
	if _, err := os.Stat(a.drainedPath()); err == nil {
		a.gate.drain(true)
		a.log.Info("this node is drained, as it was before")
	}
}

// drain is asked by the controller.
func (a *Agent) drain(_ context.Context, _ string, decode func(any) error) (any, error) {
	var q bus.DrainRequest
	if err := decode(&q); err != nil {
		return nil, err
	}
	return nil, a.here(a.Drain(q.On))
}
