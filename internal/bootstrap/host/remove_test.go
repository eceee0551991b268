package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func (n *node) write(name, text string) {
	n.t.Helper()
	path := filepath.Join(n.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// purged has all of a node removed, and fails the test where something is left.
func (n *node) purged(version string) {
	n.t.Helper()
	out := n.run(operator{}, plan.Order{Action: plan.Uninstall, Home: n.home, Version: version, Purge: true}, nil)
	if out.done.Error != nil || !out.done.Changed {
		n.t.Errorf("purge: %+v, %+v", out.done, out.done.Error)
	}
	if left := n.processes(); len(left) > 0 {
		n.t.Errorf("left: %v", left)
	}
	if left, err := filepath.Glob(filepath.Join(n.services, "*")); err != nil || len(left) > 0 {
		n.t.Errorf("left: %v, %v", left, err)
	}
	if entries, err := os.ReadDir(n.home); err == nil {
		n.t.Errorf("the home is left: %v", entries)
	}
}

// What cannot be gone back from blocks an installation, and says what to do; that does it.
func TestPurgeMendsAJournalThatCannotBeUndone(t *testing.T) {
	t.Parallel()
	for name, journal := range map[string]string{
		"damaged":        "{\"operator\"",
		"not to be undo": `{"next": {"kind": "none of these"}}`,
	} {
		for _, kind := range kinds() {
			t.Run(name+", "+string(kind), func(t *testing.T) {
				t.Parallel()
				n := newNode(t, kind)
				v := n.binary("v1")
				n.installed(v)
				n.await(v)
				if err := n.driver().Stop(t.Context()); err != nil { // the agent would not run with such a journal
					t.Fatal(err)
				}
				n.write("install.json", journal)
				for _, action := range []plan.Action{plan.Install, plan.Stop, plan.Uninstall} {
					order := n.order(v)
					order.Action = action
					e := n.run(operator{user: "k"}, order, nil).done.Error
					if e == nil || !strings.Contains(e.Hint, "mlxctl down --purge") {
						t.Errorf("%s: %+v", action, e)
					}
				}
				n.purged(v)
			})
		}
	}
}

// A record that is damaged does not hide the unit.
func TestAUnitIsFoundWithoutItsRecord(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, kind)
			v1, v2 := n.binary("v1"), n.binary("v2")
			n.installed(v1)
			n.await(v1)
			n.write("unit.json", "{")
			if out := n.run(operator{user: "k", linked: "no"}, n.order(v2), nil); cluster.CodeOf(out.done.Error) != cluster.CodeCancelled {
				t.Errorf("called off: %+v", out.done.Error)
			}
			n.await(v1)
			n.write("unit.json", `{"kind": "none of these"}`)
			if out := n.run(operator{}, plan.Order{Action: plan.Stop, Home: n.home, Version: v1}, nil); out.done.Error != nil || !out.done.Changed {
				t.Errorf("stop: %+v", out.done)
			}
			if left := n.processes(); len(left) > 0 && kind == plan.UnitKeeper {
				t.Errorf("stopped, and left: %v", left)
			}
			n.installed(v1)
			n.write("unit.json", "")
			n.purged(v1)
		})
	}
}

// A purge that cannot remove the unit, as where sudo is gone, removes the rest, and says what is left.
func TestAForcedPurgeGoesOnBehindAUnit(t *testing.T) {
	n := newNode(t, plan.UnitRunit)
	v := n.binary("v1")
	n.installed(v)
	n.await(v)
	if err := n.driver().Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.write("install.json", "{")
	t.Setenv("PATH", t.TempDir())
	out := n.run(operator{}, plan.Order{Action: plan.Uninstall, Home: n.home, Version: v, Purge: true}, nil)
	if e := out.done.Error; e == nil || !strings.Contains(e.Message, "unit") || out.last(plan.StepUnit) != plan.StateFailed || out.last(plan.StepCommit) != plan.StateChanged {
		t.Errorf("got %+v, %+v", out.done, e)
	}
	if entries, err := os.ReadDir(n.home); err == nil {
		t.Errorf("the home is left: %v", entries)
	}
}

// What killed installations left goes with a purge; what is another's stays, and is named.
func TestPurgeRemovesWhatKilledInstallationsLeft(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v := n.binary("v1")
	n.installed(v)
	leave := func() {
		for _, name := range []string{
			".node.json.part-123", ".ca.pem.part-4", ".unit.json.part-56", ".install.json.part-7", "versions/.put.12.mlxctl",
			"agent/.node.creds.part-8", "cache/.x.part-9", "run/.link.json.part-1",
		} {
			n.write(name, "x")
		}
		if err := os.Symlink("versions/v0", filepath.Join(n.home, ".current.new")); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	for _, name := range []string{"thesis.txt", ".node.json.part-mine"} {
		n.write(name, "x")
	}
	out := n.run(operator{}, plan.Order{Action: plan.Uninstall, Home: n.home, Version: v, Purge: true}, nil)
	if out.done.Error != nil {
		t.Fatalf("purge: %+v", out.done.Error)
	}
	said := ""
	for _, m := range out.all {
		if m.Step == plan.StepCommit {
			said = m.Detail
		}
	}
	if want := "purged; left in " + n.home + ": .node.json.part-mine, thesis.txt"; said != want {
		t.Errorf("said %q, want %q", said, want)
	}
	entries, err := os.ReadDir(n.home)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(n.home, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	n.purged(n.binary("v1"))
}
