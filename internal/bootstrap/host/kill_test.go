package host

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// killed runs the host's side as a process that dies at its n-th point; false where it came to its end before.
func (n *node) killed(p operator, order plan.Order, point int) (outcome, bool) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), filepath.Join(n.home, "versions", order.Version, "mlxctl"), "host", n.services, strconv.Itoa(point))
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	said := p.converse(n.t, order, out, in)
	err = cmd.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if err != nil && (!ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		n.t.Fatal(err)
	}
	return said, err != nil
}

// struck is what must be so after the host's side died: what runs is what was committed, or nothing.
func (n *node) struck(what, next string) {
	n.t.Helper()
	_, err := os.Stat(journalPath(n.home))
	open := err == nil
	if !open {
		return
	}
	// An agent that starts as its installer dies notices within a second; from then on it does not run, nor come back.
	clean := time.Now()
	eventually(n.t, func() bool {
		if got, _ := n.runs(); got == next {
			clean = time.Now()
		}
		return time.Since(clean) > 2*watchEvery
	}, func() string { return what + ": what was not committed runs" })
}

// afterAKill installs next over before, is killed at a point, and installs it again.
func (n *node) afterAKill(p operator, before, next string, point int) (more bool) {
	n.t.Helper()
	what := fmt.Sprintf("killed at point %d of %q over %q, operator %+v", point, next, before, p)
	if before != "" {
		n.installed(before)
		n.await(before)
	}
	out, died := n.killed(p, n.order(next), point)
	if !died {
		if out.done == nil {
			n.t.Fatalf("%s: it ended without a last word", what)
		}
		return false
	}
	n.struck(what, next)
	n.installed(next)
	n.await(next)
	if _, err := os.Stat(journalPath(n.home)); err == nil {
		n.t.Errorf("%s: the journal is left", what)
	}
	if again := n.installed(next); again.done.Changed {
		n.t.Errorf("%s: the second run after it changed something: %+v", what, again.all)
	}
	return true
}

func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]operator{
		"commit": {user: "other"}, "called off": {user: "other", linked: "no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, plan.UnitKeeper)
			v1, v2 := n.binary("v1"), n.binary("v2")
			points := 1
			for n.afterAKill(p, v1, v2, points) {
				points++
			}
			if points < 9 {
				t.Errorf("only %d points", points-1)
			}
		})
		t.Run(name+", blank", func(t *testing.T) {
			t.Parallel()
			chance := seeded(t)
			for range 4 {
				n := newNode(t, plan.UnitKeeper)
				v := n.binary("v1")
				if !n.afterAKill(p, "", v, 1+chance.IntN(12)) {
					continue
				}
				if out := n.run(operator{}, plan.Order{Action: plan.Uninstall, Home: n.home, Version: v, Purge: true}, nil); out.done.Error != nil {
					t.Errorf("purge: %+v", out.done.Error)
				}
			}
		})
	}
}

// seeded is chance that can be had again.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("MLXCTL_TEST_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("MLXCTL_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// The same with a real init, at points that chance chooses: each takes seconds.
func TestKilledUnderRunit(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	n := newNode(t, plan.UnitRunit)
	v1, v2 := n.binary("v1"), n.binary("v2")
	for range 3 {
		p := operator{user: "other"}
		if chance.IntN(2) == 0 {
			p.linked = "no"
		}
		n.afterAKill(p, v1, v2, 1+chance.IntN(9))
	}
}

// A change of what runs the agent is undone as well.
func TestKilledWhileTheUnitChanges(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v1, v2 := n.binary("v1"), n.binary("v2")
	n.runsvdir()
	chance := seeded(t)
	for range 3 {
		point := 1 + chance.IntN(12)
		n.kind = plan.UnitKeeper
		n.installed(v1)
		n.await(v1)
		n.kind = plan.UnitRunit
		_, died := n.killed(operator{user: "k", linked: "no"}, n.order(v2), point)
		if !died {
			continue
		}
		n.struck(fmt.Sprintf("killed at point %d", point), v2)
		n.kind = plan.UnitKeeper
		if out := n.installed(v1); out.done.Unit != plan.UnitKeeper {
			t.Errorf("point %d: %+v", point, out.done)
		}
		n.await(v1)
		if left, _ := filepath.Glob(filepath.Join(n.services, "*")); len(left) > 0 {
			t.Errorf("point %d: left %v", point, left)
		}
		for _, p := range n.processes() {
			if strings.HasSuffix(p, v2) {
				t.Errorf("point %d: left %s", point, p)
			}
		}
	}
	n.await(v1)
}
