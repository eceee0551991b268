package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// stop ends the agent and keeps everything.
func (s *session) stop(ctx context.Context) error {
	return s.withUnits(ctx, func(d unit.Driver, status unit.Status) (bool, error) {
		return status.Wanted || status.Running, d.Stop(ctx)
	})
}

// uninstall takes the unit away and, to purge, all that was installed. A purge that is forced goes on where a unit cannot
// be removed; that it is left is the error then.
func (s *session) uninstall(ctx context.Context) error {
	var left []int // agents of such units
	unitErr := s.withUnits(ctx, func(d unit.Driver, status unit.Status) (bool, error) {
		there, err := d.Installed()
		if err == nil {
			err = d.Remove(ctx)
		}
		if err != nil && status.PID > 0 {
			left = append(left, status.PID)
		}
		return there != nil || status.Loaded, err
	})
	if unitErr != nil && !s.forced {
		return unitErr
	}
	s.at("removed")
	err := pointToNothing(s.order.Home, s.order.Purge) // so that nobody starts those again
	for _, pid := range left {
		_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended
	}
	for _, name := range []string{"unit.json", "node.json"} { // it is no node of any cluster from now on
		if err == nil {
			err = restore(s.path(name), nil)
		}
	}
	if err != nil {
		return s.failed(plan.StepUnit, err)
	}
	if !s.order.Purge {
		return nil
	}
	others, err := s.purge()
	if err != nil {
		return s.failed(plan.StepCommit, err)
	}
	s.settled(plan.StepCommit, true, s.purged(others))
	return unitErr
}

// pointToNothing takes current away before a purge.
func pointToNothing(home string, purge bool) error {
	if !purge {
		return nil
	}
	return pointTo(home, "")
}

// withUnits does something with each unit that there is; do says whether it changed anything.
func (s *session) withUnits(ctx context.Context, do func(unit.Driver, unit.Status) (bool, error)) error {
	s.talk.step(plan.StepUnit, plan.StateRunning, "")
	records, err := s.records(ctx)
	changed, detail := false, "nothing is installed"
	for i, r := range records {
		s.done.Unit = r.Kind
		if i == 0 {
			detail = string(r.Kind)
		} else {
			detail += ", " + string(r.Kind)
		}
		one, failed := s.withUnit(ctx, r, do)
		changed = changed || one
		if err = errors.Join(err, failed); err != nil && !s.forced {
			break
		}
	}
	if err != nil {
		return s.failed(plan.StepUnit, err)
	}
	s.settled(plan.StepUnit, changed, detail)
	return nil
}

func (s *session) withUnit(ctx context.Context, r unitRecord, do func(unit.Driver, unit.Status) (bool, error)) (bool, error) {
	d, err := s.open(r)
	if err != nil {
		return false, err
	}
	status, err := d.Status(ctx)
	if err != nil && !s.forced {
		return false, err
	}
	return do(d, status)
}

// ownFiles are what an installation puts at the top of a home, which it writes under a hidden name first.
func ownFiles() []string { return []string{"install.json", "unit.json", "node.json", "ca.pem"} }

// purge removes what a home holds of ours, and the home itself where nothing else is in it; left is what else there is.
// The lock, which is held, goes last. What a controller of the same home has there stays.
func (s *session) purge() (left []string, err error) {
	names := append([]string{"current", ".current.new", "versions", "cache"}, ownFiles()...)
	if _, err := os.Stat(s.path("local.json")); errors.Is(err, fs.ErrNotExist) {
		names = append(names, "agent", "log", "run", "spill")
	}
	entries, err := os.ReadDir(s.order.Home)
	if err != nil {
		return nil, fmt.Errorf("purge: %w", err)
	}
	for _, e := range entries {
		if isTemporary(e.Name()) {
			names = append(names, e.Name())
		}
	}
	for _, name := range append(names, "lock") {
		if err := os.RemoveAll(s.path(name)); err != nil {
			return nil, fmt.Errorf("purge: %w", err)
		}
	}
	if entries, err = os.ReadDir(s.order.Home); err != nil {
		return nil, fmt.Errorf("purge: %w", err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if len(left) > 0 {
		return left, nil
	}
	if err := os.Remove(s.order.Home); err != nil {
		return nil, fmt.Errorf("purge: %w", err)
	}
	return nil, nil
}

// isTemporary says that a name is of a file that was being written when its writer was killed.
func isTemporary(name string) bool {
	of, ok := durable.PartOf(name)
	return ok && slices.Contains(ownFiles(), of)
}

// purged tells of what a purge left.
func (s *session) purged(left []string) string {
	const most = 8
	switch {
	case len(left) == 0:
		return "purged"
	case len(left) > most:
		left = append(left[:most:most], fmt.Sprintf("and %d more", len(left)-most))
	}
	return fmt.Sprintf("purged; left in %s: %s", s.order.Home, strings.Join(left, ", "))
}
