package cmd

import (
	"errors"
	"os"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// begun are the hosts on which an installation was begun.
func (f *fakeNet) begun() []roster.Node {
	f.t.Helper()
	nodes, err := begunList(f.home).List()
	if err != nil {
		f.t.Fatal(err)
	}
	return nodes
}

func TestWhatAFailedInstallationLeftIsRemovedWithThePurge(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	m := f.mac("mini")
	f.mac("studio")
	f.wrong["n-mini"] = true
	wants(t, "up", f.run("", "up", "--yes"), exitPartial, "2 nodes serve")
	if b := f.begun(); len(b) != 1 || b[0].Host != "mini.local" {
		t.Fatalf("begun: %+v", b)
	}
	wants(t, "down", f.run("", "down", "--yes"), 0)
	if f.logged("mini.local purge") != 1 { // the installation
		t.Errorf("stopped what is no node: %v", f.log)
	}
	delete(f.hosts, "mini.local")
	wants(t, "it is away", f.run("", "down", "--purge", "--yes"), exitPartial, "mini: mini.local does not answer")
	if len(f.begun()) != 1 {
		t.Errorf("begun: %+v", f.begun())
	}
	f.hosts["mini.local"] = m
	f.admitted = nil // studio was removed
	wants(t, "purge", f.run("", "down", "--purge", "--yes"), 0, "purged")
	if f.logged(`uninstall mini.local purge=true`) != 1 {
		t.Errorf("%v", f.log)
	}
	if left, err := os.ReadDir(f.home); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestABegunInstallationIsForgottenWhenItIsOver(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	m := f.mac("mini")
	f.wrong["n-mini"] = true
	wants(t, "up", f.run("", "up", "--yes"), exitFailed)
	wants(t, "rm", f.run("", "nodes", "rm", "mini", "--yes"), 0, "removed: 1")
	if len(f.begun()) != 0 || f.logged(`uninstall mini.local purge=true`) != 1 {
		t.Errorf("%+v, %v", f.begun(), f.log)
	}
	wants(t, "up", f.run("", "up", "--yes"), exitFailed)
	f.wrong["n-mini"] = false
	wants(t, "up", f.run("", "up", "--yes"), 0, "2 nodes serve")
	if len(f.begun()) != 0 {
		t.Errorf("a node: %+v", f.begun())
	}
	f.admitted = nil
	f.applies = func() {
		if len(f.begun()) != 1 {
			t.Errorf("not written down before it begins: %+v", f.begun())
		}
	}
	m.refuses = cluster.Errorf(cluster.CodeUnreachable, "it is away")
	m.clusterID, m.installed = "", ""
	wants(t, "away", f.run("", "up", "--yes"), exitFailed)
	if len(f.begun()) != 0 {
		t.Errorf("nothing was copied: %+v", f.begun())
	}
}
