package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
)

// stop ends the agent and keeps everything.
func (s *session) stop(ctx context.Context) error {
	return s.withUnit(ctx, func(d unit.Driver, status unit.Status) (bool, error) {
		return status.Wanted || status.Running, d.Stop(ctx)
	})
}

// uninstall takes the unit away and, to purge, all that was installed.
func (s *session) uninstall(ctx context.Context) error {
	err := s.withUnit(ctx, func(d unit.Driver, status unit.Status) (bool, error) {
		there, err := d.Installed()
		if err != nil {
			return false, err
		}
		return there != nil || status.Loaded, d.Remove(ctx)
	})
	if err != nil {
		return err
	}
	s.at("removed")
	if err := restore(s.path("unit.json"), nil); err != nil {
		return s.failed(plan.StepUnit, err)
	}
	if !s.order.Purge {
		return nil
	}
	if err := s.purge(); err != nil {
		return s.failed(plan.StepCommit, err)
	}
	s.settled(plan.StepCommit, true, "purged")
	return nil
}

// withUnit does something with the unit, if there is one; do says whether it changed anything.
func (s *session) withUnit(ctx context.Context, do func(unit.Driver, unit.Status) (bool, error)) error {
	s.talk.step(plan.StepUnit, plan.StateRunning, "")
	r, err := s.record()
	if err == nil && r == nil {
		s.settled(plan.StepUnit, false, "nothing is installed")
		return nil
	}
	var d unit.Driver
	var status unit.Status
	if err == nil {
		d, err = s.open(*r)
	}
	if err == nil {
		status, err = d.Status(ctx)
	}
	changed := false
	if err == nil {
		s.done.Unit = r.Kind
		changed, err = do(d, status)
	}
	if err != nil {
		return s.failed(plan.StepUnit, err)
	}
	s.settled(plan.StepUnit, changed, string(r.Kind))
	return nil
}

// purge removes what a home holds of ours, and the home itself where nothing else is in it. The lock, which is held, goes
// last. What a controller of the same home has there stays.
func (s *session) purge() error {
	names := []string{"current", "versions", "node.json", "ca.pem", "cache"}
	if _, err := os.Stat(s.path("local.json")); errors.Is(err, fs.ErrNotExist) {
		names = append(names, "agent", "log", "run", "spill")
	}
	for _, name := range append(names, "lock") {
		if err := os.RemoveAll(s.path(name)); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	if left, err := os.ReadDir(s.order.Home); err == nil && len(left) == 0 {
		if err := os.Remove(s.order.Home); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	return nil
}
