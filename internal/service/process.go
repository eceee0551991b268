package service

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	terminate = syscall.SIGTERM
	kill      = syscall.SIGKILL
)

// process names one process for good: a pid alone may be reused, so its start is part of the name.
type process struct {
	PID int `json:"pid"`
	// Started is when it started, in the system's own unit, with the boot it belongs to.
	Started string `json:"started"`
}

// self names this process.
func self() process {
	pid := os.Getpid()
	started, _ := startOf(pid)
	return process{PID: pid, Started: started}
}

// alive is false for a zombie, and for another process that was given the same pid.
func (p process) alive() bool {
	started, ok := startOf(p.PID)
	return ok && started == p.Started
}

// signal reaches p only while it is the process that was meant.
func (p process) signal(sig syscall.Signal) {
	if p.PID > 1 && p.alive() {
		_ = syscall.Kill(p.PID, sig) // it may be gone by now; waitGone tells
	}
}

func (p process) waitGone(ctx context.Context, most time.Duration) bool {
	return waitUntil(ctx, most, func() bool { return !p.alive() })
}

// endSession ends every process of the session that p led: SIGTERM, then SIGKILL after grace. This process itself is spared.
func (p process) endSession(ctx context.Context, grace time.Duration) error {
	if p.isReused() {
		return nil
	}
	for _, step := range []struct {
		sig  syscall.Signal
		most time.Duration
	}{{terminate, grace}, {kill, 5 * time.Second}} {
		left := p.members()
		if len(left) == 0 {
			return nil
		}
		for _, m := range left {
			m.signal(step.sig)
		}
		if waitUntil(ctx, step.most, func() bool { return len(p.members()) == 0 }) {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return cluster.Errorf(cluster.CodeTimeout, "pid %d does not end", p.members()[0].PID)
}

// isReused says that the session's number now belongs to somebody else: a living leader that is not p. While members
// of the old session live the kernel gives its number to nobody.
func (p process) isReused() bool {
	if p.PID <= 1 || bootOf(p.Started) != bootOf(self().Started) {
		return true
	}
	started, ok := startOf(p.PID)
	return ok && started != p.Started
}

func (p process) members() []process {
	var out []process
	for _, pid := range sessionMembers(p.PID) {
		if pid == os.Getpid() {
			continue
		}
		if started, ok := startOf(pid); ok {
			out = append(out, process{PID: pid, Started: started})
		}
	}
	return out
}

func waitUntil(ctx context.Context, most time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return done()
		case <-tick.C:
		}
	}
	return true
}

// killGroup kills what a dead child may have left in its process group.
func killGroup(pid int) {
	if err := syscall.Kill(-pid, kill); errors.Is(err, syscall.EPERM) {
		return // only zombies are left
	}
}
