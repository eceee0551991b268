package cmd

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

func TestNodesAddTakesTheNamedOnesOnly(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a")
	f.mac("b")
	wants(t, "add", f.run("", "nodes", "add", "a.local", "--yes"), 0, "2 nodes serve")
	if f.scanned != 0 || f.hosts["b.local"].installed != "" {
		t.Errorf("%v", f.log)
	}
	wants(t, "nobody", f.run("", "nodes", "add"), exitUsage, "the host is missing")
	wants(t, "unknown", f.run("", "nodes", "ad", "x"), exitUsage, "add")
}

func TestNodesRm(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	for _, name := range []string{"mini", "studio", "lost"} {
		f.mac(name)
	}
	wants(t, "up", f.run("", "up", "--yes"), 0, "4 nodes serve")
	wants(t, "nobody agrees", f.run("", "nodes", "rm", "mini"), exitUsage, "--yes")
	wants(t, "no", f.run("n\n", "nodes", "rm", "mini"), exitFailed, "not agreed to")
	wants(t, "unknown", f.run("", "nodes", "rm", "minni", "--yes"), exitNoSuch, "did you mean \"mini\"?")
	wants(t, "this machine", f.run("", "nodes", "rm", "n-own", "--yes"), exitUsage, "mlxctl down")
	r := f.run("y\n", "nodes", "rm", "mini")
	wants(t, "rm", r, 0, "removed: 1")
	order := strings.Join(f.log[len(f.log)-3:], "|")
	if order != `drain n-mini true|uninstall mini.local purge=true sudo=""|forget n-mini` {
		t.Errorf("%s", order)
	}
	delete(f.hosts, "lost.local")
	wants(t, "lost", f.run("", "nodes", "rm", "lost", "--yes"), exitFailed, "does not answer", "--force")
	if f.drained["n-lost"] {
		t.Errorf("a node that cannot be removed was emptied: %v", f.log)
	}
	f.setNode(&fakeMac{node: "n-lost"}, "", cluster.NodeDown)
	wants(t, "lost by force", f.run("", "nodes", "rm", "lost", "--yes", "--force"), 0, "its key is worth nothing now", "sudo launchctl bootout", "rm -r /Users/anna/.mlxctl")
	nodes, _ := f.List()
	if len(nodes) != 1 || nodes[0].Name != "studio" {
		t.Errorf("%+v", nodes)
	}
	// What is revoked is written down.
	account, err := os.ReadFile(filepath.Join(trustDir(f.home), "account.jwt"))
	if err != nil || len(account) == 0 {
		t.Error(err)
	}
}

func TestNodesRmWaitsForWhatRuns(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	f.requests = []cluster.RequestStatus{{ID: "r", Node: "n-mini"}}
	wants(t, "busy", f.run("", "nodes", "rm", "mini", "--yes", "--drain-timeout", "300ms"), exitFailed, "still answers 1 requests", "--drain-timeout")
	if f.drained["n-mini"] || f.logged("uninstall") != 0 {
		t.Errorf("%v", f.log)
	}
}

func TestDownStopsEverything(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.mac("studio")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	f.running = false // the controller is dead
	wants(t, "local", f.run("", "down", "--local"), 0)
	if f.logged("stop ") != 0 {
		t.Errorf("%v", f.log)
	}
	wants(t, "no", f.run("n\n", "down"), exitFailed, "Stop mini, studio and this machine?", "not agreed to")
	studio := f.hosts["studio.local"]
	delete(f.hosts, "studio.local")
	wants(t, "nobody agrees to stop", f.run("", "down"), exitUsage, "--yes")
	if f.logged("stop ") != 0 {
		t.Errorf("%v", f.log)
	}
	wants(t, "one is lost", f.run("", "down", "--yes"), exitPartial, "studio: studio.local does not answer", "1 other machines stopped")
	if f.hosts["mini.local"].runs || f.hosts["mini.local"].installed == "" {
		t.Errorf("%+v", f.hosts["mini.local"])
	}
	wants(t, "nobody agrees", f.run("", "down", "--purge"), exitUsage, "--yes")
	if f.logged("uninstall") != 0 || f.hosts["mini.local"].installed == "" {
		t.Errorf("%v", f.log)
	}
	wants(t, "purge with one lost", f.run("", "down", "--purge", "--yes"), exitPartial, "studio")
	if _, err := os.Stat(trustDir(f.home)); err != nil {
		t.Errorf("what is needed to try again is gone: %v", err)
	}
	f.hosts["studio.local"] = studio
	var r downResult
	out := f.run("", "down", "--purge", "--yes", "-o", "json")
	if err := json.Unmarshal([]byte(out.out), &r); err != nil || out.code != 0 || !r.Purged || len(r.Hosts) != 2 || r.Hosts[0].Serves {
		t.Errorf("%+v, %v", out, err)
	}
	if left, err := os.ReadDir(f.home); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left are %v, %v", left, err)
	}
	if studio.installed != "" {
		t.Error("studio keeps what was installed")
	}
}

func TestSudoIsAskedToStopAndRemove(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	for _, name := range []string{"a", "b", "free"} {
		f.mac(name)
	}
	f.hosts["a.local"].sudo, f.hosts["b.local"].sudo = bootstrap.SudoPassword, bootstrap.SudoPassword
	wants(t, "up", f.run("", "up", "--yes"), 0)
	wants(t, "nobody", f.run("", "nodes", "rm", "a", "--ask-sudo", "--yes"), exitUsage, "--ask-sudo")
	wants(t, "nobody to stop", f.run("", "down", "--yes", "--ask-sudo"), exitUsage, "--ask-sudo")
	wants(t, "none needs it", f.run("", "nodes", "rm", "free", "--ask-sudo", "--yes"), 0)
	wants(t, "rm", f.run("y\nsecret\n", "nodes", "rm", "a", "--ask-sudo"), 0, "Password for sudo on a:")
	wants(t, "down", f.run("y\nsecret\n", "down", "--ask-sudo"), 0, "Password for sudo on b:")
	for order, want := range map[string]int{
		`uninstall a.local purge=true sudo="secret"`: 1, `stop b.local purge=false sudo="secret"`: 1, `uninstall free.local purge=true sudo=""`: 1, "stop ": 1,
	} {
		if f.logged(order) != want {
			t.Errorf("%s: %d times in %v", order, f.logged(order), f.log)
		}
	}
}

func TestUpgradeOneAtATime(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	for _, name := range []string{"a", "b", "c"} {
		f.mac(name)
	}
	wants(t, "up", f.run("", "up", "--yes"), 0)
	wants(t, "neither", f.run("", "upgrade"), exitUsage, "--all")
	wants(t, "nothing", f.run("", "upgrade", "a"), 0, "on this version: 1")
	for _, name := range []string{"a", "b"} {
		f.hosts[name+".local"].installed = oldVersion9
	}
	f.log, f.most = nil, 0
	wants(t, "nobody agrees", f.run("", "upgrade", "--all"), exitUsage, "--yes")
	wants(t, "all", f.run("", "upgrade", "--all", "--yes"), 0, "upgrade: from "+oldVersion9+" to "+newVersion9, "on this version: 4")
	want := []string{
		"drain n-a true", `install a.local purge=false sudo=""`, "drain n-a false", "generate n-a",
		"drain n-b true", `install b.local purge=false sudo=""`, "drain n-b false", "generate n-b",
	}
	if strings.Join(f.log, "|") != strings.Join(want, "|") || f.most != 1 {
		t.Errorf("%d at a time: %v", f.most, f.log)
	}
}

func TestUpgradeThatFailsIsRolledBackAndStops(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	for _, name := range []string{"a", "b"} {
		f.mac(name)
	}
	wants(t, "up", f.run("", "up", "--yes"), 0)
	old := func() {
		for _, name := range []string{"a", "b"} {
			f.hosts[name+".local"].installed = oldVersion9
		}
	}
	old()
	f.wrong["n-a"] = true
	starts := f.starts
	wants(t, "stops", f.run("", "upgrade", "--all", "--yes"), exitFailed, oldVersion9+" is back", "b: left as it is, since another node failed")
	if f.drained["n-a"] || f.drained["n-b"] || f.hosts["b.local"].installed != oldVersion9 || f.starts != starts {
		t.Errorf("%v", f.log)
	}
	wants(t, "goes on", f.run("", "upgrade", "--all", "--yes", "--keep-going"), exitPartial, "a: self-test")
	if f.hosts["b.local"].installed != newVersion9 || f.drained["n-a"] {
		t.Errorf("%v", f.log)
	}
	f.hosts["a.local"].vanishes = true
	wants(t, "nobody says", f.run("", "upgrade", "a", "--yes"), exitFailed, "a: self-test", "; what it runs now is not known")
	f.wrong["n-a"] = false
	f.hosts["a.local"].fails = cluster.Errorf(cluster.CodeInternal, "the disk is full")
	wants(t, "nothing was touched", f.run("", "upgrade", "a", "--yes"), exitFailed, "the disk is full; it runs "+oldVersion9+" as before")
	f.hosts["a.local"].fails = nil
	f.requests = []cluster.RequestStatus{{ID: "r", Node: "n-a"}}
	wants(t, "busy", f.run("", "upgrade", "a", "--yes", "--drain-timeout", "300ms"), exitFailed, "still answers 1 requests")
	if f.drained["n-a"] || f.hosts["a.local"].installed != oldVersion9 {
		t.Errorf("%v", f.log)
	}
}

func TestUpgradeOfADrainedNodeWaitsForWhatItAnswers(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	f.hosts["a.local"].installed = oldVersion9
	f.drained["n-a"] = true // by a person
	f.requests = []cluster.RequestStatus{{ID: "r", Node: "n-a"}}
	f.log = nil
	for _, args := range [][]string{{"upgrade", "a"}, {"nodes", "rm", "a"}} {
		wants(t, args[0], f.run("", append(args, "--yes", "--drain-timeout", "300ms")...), exitFailed, "still answers 1 requests")
	}
	if len(f.log) != 0 || !f.drained["n-a"] {
		t.Errorf("%v", f.log)
	}
	f.requests = nil
	wants(t, "empty", f.run("", "upgrade", "a", "--yes"), 0)
	if f.hosts["a.local"].installed != newVersion9 || !f.drained["n-a"] {
		t.Errorf("%v", f.log)
	}
	wants(t, "up", f.run("", "up", "--yes"), 0)
	if !f.drained["n-a"] {
		t.Error("what a person drained was undrained")
	}
}

func TestWhatAKilledCommandDrainedIsUndrained(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"upgrade": {"upgrade", "a"}, "nodes rm": {"nodes", "rm", "a"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeNet(t)
			f.mac("a")
			wants(t, "up", f.run("", "up", "--yes"), 0)
			a := f.hosts["a.local"]
			a.installed = oldVersion9
			// What is written down while the node is empty is all that a kill leaves.
			a.fails = cluster.Errorf(cluster.CodeInternal, "it fails")
			var left []roster.Node
			f.applies = func() { left, _ = f.List() }
			wants(t, "fails", f.run("", append(args, "--yes")...), exitFailed, "it fails")
			f.applies, a.fails = nil, nil
			if now, _ := f.List(); f.drained["n-a"] || now[0].Drained != "" {
				t.Errorf("it stays drained: %+v", now)
			}
			killed := func() {
				f.admitted, f.drained["n-a"], a.installed = slices.Clone(left), true, newVersion9
			}
			undrained := func() {
				t.Helper()
				if now, _ := f.List(); f.drained["n-a"] || now[0].Drained != "" {
					t.Errorf("drained %v, %+v", f.drained["n-a"], now)
				}
			}
			killed()
			wants(t, "up", f.run("", "up", "--yes"), 0, "a takes requests again: `mlxctl "+name+"`, which drained it, was cut short", "2 nodes serve")
			undrained()
			killed()
			wants(t, "upgrade", f.run("", "upgrade", "--all", "--yes"), 0, "a takes requests again")
			undrained()
			killed()
			f.setNode(a, "", cluster.NodeDown) // it comes up drained when it is repaired
			wants(t, "repair", f.run("", "up", "--yes"), 0, "2 nodes serve")
			undrained()
			killed()
			f.drained["n-a"] = false
			wants(t, "by hand", f.run("", "drain", "a", "--no-wait"), 0)
			wants(t, "up leaves it", f.run("", "up", "--yes"), 0)
			if !f.drained["n-a"] {
				t.Error("what a person drained was undrained")
			}
		})
	}
}

func TestNodesThatJoinedByThemselves(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	wants(t, "up", f.run("", "up", "--yes"), 0)
	f.admitted = []roster.Node{{ID: "n-tok", Name: "tok", By: "token"}, {ID: "n-own", Name: "own", By: "local"}}
	wants(t, "down", f.run("", "up", "--yes"), exitFailed, "tok: is not up, and it joined without SSH")
	f.setNode(&fakeMac{node: "n-tok"}, newVersion9, cluster.NodeReady)
	wants(t, "ready", f.run("", "up", "--yes"), 0, "2 nodes serve, 0 changed")
	wants(t, "rm", f.run("", "nodes", "rm", "tok", "--yes"), exitFailed, "joined without SSH", "--force")
	f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0, "3 nodes serve")
	wants(t, "nothing to upgrade", f.run("", "upgrade", "--all", "--yes"), 0, "on this version: 3")
	f.setNode(&fakeMac{node: "n-tok"}, oldVersion9, cluster.NodeReady)
	f.hosts["mini.local"].installed = oldVersion9
	r := f.run("", "upgrade", "--all", "--yes")
	wants(t, "upgrade", r, exitPartial, "tok: it joined without SSH\nhint: there, with this version of mlxctl: mlxctl agent join TOKEN", "on this version: 2")
	if f.hosts["mini.local"].installed != newVersion9 || strings.Contains(r.out+r.err, "left as it is") {
		t.Errorf("%+v\n%s%s", f.hosts["mini.local"], r.out, r.err)
	}
	wants(t, "down", f.run("", "down", "--yes"), 0, "tok joined without SSH and is left alone")
}

func TestANodeThatJoinedByATokenIsOneLine(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	wants(t, "up", f.run("", "up", "--yes"), 0)
	m := f.mac("mac4")
	key, _, err := trust.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	m.key, m.installed, m.runs, m.clusterID = key, newVersion9, true, clusterIDOf(f.home)
	f.admitted = []roster.Node{{ID: m.node, Name: "mac4", Key: key, By: "token"}}
	lines := func(r result) int {
		var told struct{ Items []planItem }
		if err := json.Unmarshal([]byte(r.out), &told); err != nil {
			t.Fatalf("%v\n%s%s", err, r.out, r.err)
		}
		return len(told.Items)
	}
	f.setNode(m, newVersion9, cluster.NodeReady)
	if n := lines(f.run("", "up", "--dry-run", "-o", "json")); n != 2 { // this machine, and mac4
		t.Errorf("%d lines", n)
	}
	installs := f.logged("install")
	wants(t, "ready", f.run("", "up", "--yes"), 0, "2 nodes serve, 0 changed")
	if f.logged("install") != installs {
		t.Errorf("%v", f.log)
	}
	f.setNode(m, "", cluster.NodeDown)
	m.fails = cluster.Errorf(cluster.CodeInternal, "the disk is full")
	r := f.run("", "nodes", "add", "mac4.local", "--yes", "-o", "json")
	if r.code != exitFailed || !strings.Contains(r.out, `"failed":1`) {
		t.Errorf("%+v", r)
	}
	m.fails, m.installed = nil, oldVersion9
	wants(t, "upgraded over SSH", f.run("", "up", "mac4.local", "--yes"), 0, "2 nodes serve, 1 changed")
	if len(f.admitted) != 1 || f.admitted[0].Host != "mac4.local" || f.admitted[0].Version != newVersion9 {
		t.Errorf("%+v", f.admitted)
	}
}
