package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func brokenBy(check, message, fix string) []plan.Finding {
	return []plan.Finding{{Check: check, State: plan.FindingFail, Message: message, Fix: fix}}
}

func wants(t *testing.T, what string, r result, code int, parts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("%s: exit %d, want %d\n%s%s", what, r.code, code, r.out, r.err)
	}
	for _, p := range parts {
		if !strings.Contains(r.out+r.err, p) {
			t.Errorf("%s: nothing says %q\n%s%s", what, p, r.out, r.err)
		}
	}
}

func TestUpMakesNodesAndAgainChangesNothing(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	for _, name := range []string{"mini", "studio", "air"} {
		f.mac(name).keyState = bootstrap.KeyNew
	}
	r := f.run("y\n", "up")
	wants(t, "first", r, 0, "4 nodes serve, 4 changed", "SHA256:studio", "192.0.2.11   Mac16,10", "trust the 3 new host keys above? [y/N]", "install 3")
	if f.logged("trust") != 3 || f.logged("install") != 3 || f.logged("generate n-") != 3 {
		t.Errorf("%v", f.log)
	}
	r = f.run("", "up")
	wants(t, "second", r, 0, "4 nodes serve, 0 changed")
	if f.logged("install") != 3 || f.starts != 1 || strings.Contains(r.err, "NAME") {
		t.Errorf("second: %v\n%s", f.log, r.err)
	}
	nodes, _ := f.List()
	if len(nodes) != 3 || nodes[0].HostKey != "SHA256:air" || nodes[0].Version != newVersion9 || nodes[0].By != "ssh" || nodes[0].Key == "" || nodes[0].Settings == "" {
		t.Errorf("%+v", nodes)
	}
	for _, n := range nodes {
		if n.Host != n.Name+".local" || len(n.Addresses) != 1 {
			t.Errorf("%+v", n)
		}
	}
}

func TestUpAsksOnceAndNoMeansNo(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini").keyState = bootstrap.KeyNew
	f.mac("studio")
	r := f.run("n\n", "up")
	wants(t, "no", r, 0, "install 2, and trust the new host key above?", "1 node serves, 1 changed")
	if f.logged("install") != 0 || f.logged("trust") != 0 || strings.Count(r.err, "[y/N]") != 1 {
		t.Errorf("%v", f.log)
	}
	r = f.run("n\n", "up", "mini.local")
	wants(t, "no to one that was named", r, exitFailed, "mini.local: not agreed to")
}

func TestUpWithoutAnybodyThere(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	r := f.run("", "up", "--dry-run")
	wants(t, "dry run", r, 0, "this machine", "start", "install")
	if f.starts != 0 || strings.Contains(r.err, "NAME") {
		t.Errorf("dry run changed something: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(f.home, "run")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run wrote into the home: %v", err)
	}
	r = f.run("", "up")
	wants(t, "no tty", r, exitUsage, "NAME", "mini", "install", "--yes")
	if f.starts != 0 || f.logged("install") != 0 {
		t.Errorf("something was changed: %v, %d starts", f.log, f.starts)
	}
	if r := f.run("", "up", "-o", "json"); r.code != exitUsage || !strings.HasPrefix(r.out, `{"type":"plan"`) || !strings.Contains(r.err, `"error"`) {
		t.Errorf("%+v", r)
	}
	var told struct {
		Type  string
		Items []planItem
	}
	if r := f.run("", "up", "--dry-run", "-o", "json"); json.Unmarshal([]byte(r.out), &told) != nil || len(told.Items) != 2 || told.Items[1].What != "install" || told.Items[1].Name != "mini" {
		t.Errorf("%+v", r)
	}
	wants(t, "yes", f.run("", "up", "--yes"), 0, "2 nodes serve, 2 changed")
	wants(t, "nothing to agree to", f.run("", "up"), 0, "2 nodes serve, 0 changed")
}

func TestEachMacThatDoesNotServeIsExplained(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("good")
	f.mac("full").findings = brokenBy("disk", "200 MiB free on /, 1 GiB is needed", "free some space")
	f.mac("closed").findings = brokenBy("ssh-auth", "closed does not let anna in", "ssh-copy-id anna@closed.local")
	changed := f.mac("changed")
	changed.keyState, changed.findings = bootstrap.KeyChanged, brokenBy("host-key", "host key changed", "ssh-keygen -R changed.local")
	f.mac("broken").fails = cluster.Errorf(cluster.CodeTimeout, "the agent did not reach its controller within 1m0s").WithHint("allow port 8660 in the firewall")
	f.mac("quiet")
	f.macs[len(f.macs)-1].RemoteLogin = false
	r := f.run("", "up", "--yes")
	wants(t, "seen", r, exitPartial,
		"2 nodes serve", "quiet: switch on System Settings > General > Sharing > Remote Login there",
		"full: 200 MiB free on /, 1 GiB is needed; mend: free some space", "changed: host key changed; mend: ssh-keygen -R changed.local",
		"broken: the agent did not reach its controller within 1m0s; mend: allow port 8660 in the firewall", "ssh-copy-id anna@closed.local")
	if strings.Contains(r.out, "closed:") || strings.Contains(r.out, "quiet:") {
		t.Errorf("what was merely seen counts as a failure:\n%s", r.out)
	}
	wants(t, "all named", f.run("", "up", "--yes", "--no-discover", "full.local"), exitPartial, "full.local: 200 MiB")
	if err := f.Remove("n-good"); err != nil {
		t.Fatal(err)
	}
	wants(t, "all failed", f.run("", "up", "--yes", "full.local", "closed.local"), exitFailed)
	wants(t, "all of authentication", f.run("", "up", "--yes", "closed.local"), exitAuth, "closed.local: closed does not let anna in")
	wants(t, "nobody there", f.run("", "up", "--yes", "nowhere.local"), exitFailed, "nowhere.local does not answer on port 22")
	wants(t, "no such option", f.run("", "up", "--yes", "-oProxyCommand=x"), exitUsage)
	wants(t, "no host", f.run("", "up", "a b"), exitUsage, "must be a host")

	for _, name := range []string{"full", "closed", "changed", "broken"} {
		m := f.hosts[name+".local"]
		m.findings, m.keyState, m.fails = nil, bootstrap.KeyKnown, nil
	}
	f.macs[len(f.macs)-1].RemoteLogin = true
	wants(t, "mended", f.run("", "up", "--yes"), 0, "7 nodes serve")
}

func TestNamedHostsSkipBonjour(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.mac("studio")
	wants(t, "named", f.run("", "up", "--yes", "studio.local"), 0, "2 nodes serve")
	if f.scanned != 0 || f.hosts["mini.local"].installed != "" {
		t.Errorf("%d scans, %v", f.scanned, f.log)
	}
	wants(t, "no-discover", f.run("", "up", "--yes", "--no-discover"), 0, "2 nodes serve, 0 changed")
	if f.scanned != 0 {
		t.Error("asked Bonjour")
	}
	if err := os.WriteFile(filepath.Join(f.home, "config.yaml"), []byte("hosts: [mini.local]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "of the settings", f.run("", "up", "--yes", "--no-discover"), 0, "3 nodes serve, 1 changed")
	// Under its address and its name it is one Mac.
	f.hosts["192.0.2.77"] = f.hosts["mini.local"]
	wants(t, "two names", f.run("", "up", "--yes", "192.0.2.77"), 0, "3 nodes serve, 0 changed")
}

func TestNodeMovedToAnotherAddress(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	m := f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	delete(f.hosts, "mini.local")
	f.hosts["mini-2.local"] = m
	f.macs[0].HostName = "mini-2.local"
	wants(t, "moved", f.run("", "up", "--yes"), 0, "2 nodes serve, 0 changed")
}

func TestUpgradeRepairAndSettings(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	m := f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	key := f.admitted[0].Key
	m.installed = oldVersion9
	wants(t, "old", f.run("", "up", "--yes"), 0, "upgrade: from "+oldVersion9, "1 changed")
	f.setNode(m, "", cluster.NodeDown)
	wants(t, "down", f.run("", "up", "--yes"), 0, "repair", "1 changed")
	if err := os.WriteFile(filepath.Join(f.home, "config.yaml"), []byte("models:\n  memory: 3GiB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "settings", f.run("", "up", "--yes"), 0, "its settings are not these any more", "1 changed")
	wants(t, "nothing", f.run("", "up", "--yes"), 0, "0 changed")
	if f.admitted[0].Key != key {
		t.Error("the key changed")
	}
	f.drained["n-mini"] = true
	wants(t, "drained on purpose", f.run("", "up"), 0, "1 node serves, 0 changed")
}

// After a restart of this machine, nodes need a moment to come back; that is nothing to repair or to agree to.
func TestNodesThatComeBackNeedNoRepair(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	m := f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0, "2 nodes serve")
	f.mu.Lock()
	f.running = false
	f.setNode(m, "", cluster.NodeDown)
	asked := 0
	f.looks = func() { // of this machine's start, then twice of who waits
		if asked++; asked == 3 {
			f.setNode(m, newVersion9, cluster.NodeReady)
		}
	}
	f.mu.Unlock()
	wants(t, "again", f.run("", "up"), 0, "waiting for nodes to come back", "2 nodes serve, 1 changed")
	if f.logged("install") != 1 {
		t.Errorf("%v", f.log)
	}
}

func TestNodeThatAnswersNonsenseIsTakenBack(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.wrong["n-mini"] = true
	wants(t, "wrong", f.run("", "up", "--yes"), exitFailed, `answered "42" instead of`)
	if len(f.admitted) != 0 {
		t.Errorf("%+v", f.admitted)
	}
}

func TestAgentThatMayNotDialIsDialled(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini").denied = true
	f.wrong["n-mini"] = true
	wants(t, "failed", f.run("", "up", "--yes"), exitFailed)
	if len(f.admitted) != 0 {
		t.Errorf("left in the list: %+v", f.admitted)
	}
	f.wrong["n-mini"] = false
	wants(t, "up", f.run("", "up", "--yes"), 0, "2 nodes serve")
	if len(f.admitted) != 1 || len(f.admitted[0].Reverse) != 1 || f.admitted[0].Reverse[0] != "192.0.2.10:8661" {
		t.Errorf("%+v", f.admitted)
	}
}

func TestClonedDiskIsNotTheSameNode(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	f.mac("clone").node = "n-mini"
	wants(t, "clone", f.run("", "up", "--yes"), exitPartial, "clone says that it is node n-mini, which is mini: its disk is a clone", "remove ~/.mlxctl on clone")
	f.hosts["clone.local"].node = "n-own"
	wants(t, "clone of this machine", f.run("", "up", "--yes"), exitPartial, "its disk is a clone")
	f.hosts["clone.local"].node = "n-clone"
	wants(t, "mended", f.run("", "up", "--yes"), 0, "3 nodes serve")
	// The same Mac may have lost its key: it gets another one, and the old one is worth nothing.
	old := f.admitted[1].Key
	m := f.hosts["mini.local"]
	m.key, m.installed = "", ""
	wants(t, "new key", f.run("", "up", "--yes"), 0, "1 changed")
	if f.admitted[1].Key == old {
		t.Error("the key is the old one")
	}
}

func TestTwoClonesAtOnce(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a").node = "n-same"
	f.mac("b").node = "n-same"
	wants(t, "clones", f.run("", "up", "--yes"), exitPartial, "its disk is a clone", "2 nodes serve")
}

func TestParallelIsALimit(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	for name := range strings.FieldsSeq("a b c d e f g h i j") {
		f.mac(name)
	}
	wants(t, "up", f.run("", "up", "--yes", "--parallel", "2"), 0, "11 nodes serve")
	if f.most > 2 {
		t.Errorf("%d at a time", f.most)
	}
	wants(t, "none", f.run("", "up", "--parallel", "0"), exitUsage, "--parallel")
	wants(t, "unit", f.run("", "up", "--unit", "cron"), exitUsage, "--unit")
	wants(t, "transport", f.run("", "up", "--transport", "telnet"), exitUsage, "--transport")
}

func TestSudoIsAskedOnce(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a").sudo = bootstrap.SudoPassword
	f.mac("b").sudo = bootstrap.SudoPassword
	f.mac("free").sudo = "passwordless" // it must not learn the password of others
	r := f.run("y\nsecret\n", "up", "--ask-sudo")
	wants(t, "up", r, 0, "Password for sudo on a, b:")
	if f.logged(`sudo="secret"`) != 2 || f.logged(`install free.local purge=false sudo=""`) != 1 || strings.Contains(r.out+r.err, "secret") {
		t.Errorf("%v\n%s", f.log, r.err)
	}
	f.hosts["a.local"].installed = oldVersion9
	wants(t, "nobody", f.run("", "up", "--ask-sudo", "--yes"), exitUsage, "--ask-sudo")
}

func TestInterruptedUpIsCompletedByTheNext(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a")
	f.mac("b")
	f.gate = make(chan struct{}, 1)
	f.gate <- struct{}{} // one of them gets through
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan result, 1)
	go func() { done <- f.runContext(ctx, "", "up", "--yes") }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for nodes, _ := f.List(); len(nodes) == 0; nodes, _ = f.List() {
		<-tick.C
	}
	cancel(signalError{syscall.SIGINT})
	wants(t, "interrupted", <-done, 130, "`mlxctl up` again completes the rest")
	f.gate = nil
	wants(t, "again", f.run("", "up", "--yes"), 0, "3 nodes serve, 1 changed")
}
