package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/service"
)

func brokenBy(check, message, fix string) []bootplan.Finding {
	return []bootplan.Finding{{Check: check, State: bootplan.FindingFail, Message: message, Fix: fix}}
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
		f.mac(name).keyState = keyNew
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
	f.mac("mini").keyState = keyNew
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
	var plan struct {
		Type  string
		Items []planItem
	}
	if r := f.run("", "up", "--dry-run", "-o", "json"); json.Unmarshal([]byte(r.out), &plan) != nil || len(plan.Items) != 2 || plan.Items[1].What != "install" || plan.Items[1].Name != "mini" {
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
	changed.keyState, changed.findings = keyChanged, brokenBy("host-key", "host key changed", "ssh-keygen -R changed.local")
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
		m.findings, m.keyState, m.fails = nil, keyKnown, nil
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
	f.macs[0].HostName = "mini-2.local."
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
	f.mu.Unlock()
	back := time.AfterFunc(400*time.Millisecond, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.setNode(m, newVersion9, cluster.NodeReady)
	})
	defer back.Stop()
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

func TestUpAsEvents(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.mac("bad\x1b[2J").fails = errors.New("no\x1b[2J")
	r := f.run("", "up", "--yes", "-o", "json")
	if r.code != exitPartial || strings.ContainsRune(r.out+r.err, '\x1b') {
		t.Errorf("%+v", r)
	}
	var types []string
	for line := range strings.Lines(r.out) {
		var e struct{ Type, Name, Host, Step string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		types = append(types, e.Type)
	}
	if types[0] != "plan" || types[len(types)-1] != "summary" || strings.Count(strings.Join(types, " "), "host") != 2 {
		t.Errorf("%v", types)
	}
	var s upSummary
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.Serving != 2 || s.Failed != 1 || s.Changed != 2 || len(s.Hosts) != 2 || s.APIKey == "" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestUpTellsEachStepOfEachHost(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	r := f.run("", "up", "--yes")
	for _, want := range []string{`(?m)^\d\d:\d\d:\d\d mini copy running$`, `(?m)^\d\d:\d\d:\d\d mini join running$`, `(?m)^\d\d:\d\d:\d\d mini serves \(\d+\.\d s\)$`} {
		if !regexp.MustCompile(want).MatchString(r.err) {
			t.Errorf("no %s in\n%s", want, r.err)
		}
	}
	if r := f.run("", "up", "--yes", "-q"); r.err != "" {
		t.Errorf("quiet: %q", r.err)
	}
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

func TestFailureShowsTheEndOfTheLog(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	m := f.mac("a")
	f.mac("b")
	m.fails = cluster.Errorf(cluster.CodeTimeout, "the agent did not come up")
	m.logs = []string{"line 1"}
	for i := range 9 {
		m.logs = append(m.logs, fmt.Sprintf("line %d", i+2))
	}
	m.logs = append(m.logs, "boom: \x1b[31mno metal")
	r := f.run("", "up", "--yes")
	wants(t, "up", r, exitPartial, "a: the agent did not come up\n    line 2\n", "    boom: ?[31mno metal\n")
	if strings.Contains(r.out, "line 1\n") {
		t.Errorf("it is more than 10 lines:\n%s", r.out)
	}
	wants(t, "json", f.run("", "up", "--yes", "-o", "json"), exitPartial, `"log":["line 2",`, `"boom: ?[31mno metal"]`)
	fails := m.fails
	m.fails = nil
	wants(t, "mended", f.run("", "up", "--yes"), 0)
	m.fails = fails
	wants(t, "stop", f.run("", "down", "--yes"), exitPartial, "    boom: ?[31mno metal\n")
	s, _, _, errOut := iostreams.Test()
	if err := (&deps{streams: s}).withLog(cluster.AsError(fails), m.logs[9:]); !errors.Is(err, fails) || !strings.HasSuffix(errOut.String(), ":\n    line 10\n    boom: ?[31mno metal\n") {
		t.Errorf("here: %v, %q", err, errOut)
	}
}

func TestEventsTellMacsOfOneNameApart(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a")
	f.mac("b")
	f.macs[0].Name, f.macs[1].Name = "mini", "mini"
	r := f.run("", "up", "--yes", "-o", "json")
	wants(t, "up", r, 0)
	seen := map[string]map[string]bool{}
	for line := range strings.Lines(r.out) {
		var e struct {
			Type, Host, Name, Address string
			HostKey                   string `json:"host_key"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == "step" || e.Type == "host" {
			if first(e.Host, e.Name) != "mini" {
				t.Errorf("%s", line)
			}
			if seen[e.Type] == nil {
				seen[e.Type] = map[string]bool{}
			}
			seen[e.Type][e.Address+" "+e.HostKey] = true
		}
	}
	for _, kind := range []string{"step", "host"} {
		if len(seen[kind]) != 2 || !seen[kind]["192.0.2.10 SHA256:a"] || !seen[kind]["192.0.2.11 SHA256:b"] {
			t.Errorf("%s: %v", kind, seen[kind])
		}
	}
}

func TestSudoIsAskedOnce(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a").sudo = sudoPassword
	f.mac("b").sudo = sudoPassword
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

func TestTwoCommandsDoNotInterleave(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("a")
	release, err := service.Lock(t.Context(), f.home, nodesLock)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "locked", f.run("", "up", "--yes", "--timeout", "400ms"), exitUnreachable, "waiting for another mlxctl", "another mlxctl still changes")
	if len(f.log) > 0 {
		t.Errorf("%v", f.log)
	}
	release()
	wants(t, "free", f.run("", "up", "--yes"), 0, "2 nodes serve")
}

func TestUpRefusesSettingsWithWhichNobodyCouldJoin(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	wants(t, "loopback", f.run("", "up", "--nats-addr", "127.0.0.1:8660"), exitUsage, "lets no other Mac in", "0.0.0.0:8660")
	wants(t, "own NATS", f.run("", "up", "--nats-url", "tls://h:1"), exitUsage, "nats_url is set")
}

func TestBusOpensToTheNetwork(t *testing.T) {
	t.Parallel()
	for was, want := range map[string]string{
		"127.0.0.1:8660": "0.0.0.0:8660", "localhost:8670": "0.0.0.0:8670", "[::1]:9": "0.0.0.0:9", "": "0.0.0.0:8660",
		"0.0.0.0:8671": "0.0.0.0:8671", "10.0.0.5:8660": "10.0.0.5:8660",
	} {
		if got := openToNetwork(&localSettings{NATSAddr: was, Name: "x"}); got.NATSAddr != want || got.Name != "x" {
			t.Errorf("%q: %+v, want %q", was, got, want)
		}
	}
	if got := openToNetwork(nil); got.NATSAddr != openNATSAddr {
		t.Errorf("%+v", got)
	}
	urls, err := networkURLs("tls://", "0.0.0.0:8660")
	if err != nil || len(urls) == 0 || !strings.HasSuffix(urls[len(urls)-1], ".local:8660") {
		t.Errorf("%v, %v", urls, err)
	}
	for _, u := range urls {
		if !strings.HasPrefix(u, "tls://") || strings.Contains(u, "127.0.0.1") || strings.Contains(u, "0.0.0.0") {
			t.Errorf("%v", urls)
		}
	}
}

// With real services: a bus on loopback is opened, which is said, and another up changes nothing and is quick.
func TestUpOpensTheBusOfRealServices(t *testing.T) {
	t.Parallel()
	h := running(t, "MLXCTL_NATS_ADDR=") // where up --local wants no address, it takes a free one
	before := h.pid("controller")
	addr := func() string {
		l, _, err := readLocal(h.dir)
		if err != nil {
			t.Fatal(err)
		}
		return l.NATSAddr
	}
	was := addr()
	if !isLoopback(was) {
		t.Fatalf("up --local listens on %s", was)
	}
	dry := h.run("up", "--no-discover", "--dry-run")
	wants(t, "dry run", dry, 0, "again, with the bus on 0.0.0.0:")
	if h.pid("controller") != before || addr() != was {
		t.Error("the dry run changed something")
	}
	wants(t, "up", h.run("up", "--no-discover"), 0, "starting the services again, with the bus on 0.0.0.0:", "in place of "+was, "1 node serves, 1 changed")
	if got, want := addr(), "0.0.0.0"+strings.TrimPrefix(was, "127.0.0.1"); got != want {
		t.Errorf("the bus is on %s, want %s", got, want)
	}
	opened := h.pid("controller")
	began := time.Now()
	wants(t, "again", h.run("up", "--no-discover"), 0, "1 node serves, 0 changed")
	if took := time.Since(began); took > 3*time.Second || h.pid("controller") != opened {
		t.Errorf("took %v", took)
	}
	wants(t, "named and not there", h.run("up", "--yes", "nobody@127.0.0.1:1"), exitFailed, "127.0.0.1:")
	wants(t, "upgrade", h.run("upgrade", "--all", "--yes"), 0, "runs this version")
	if h.pid("controller") != opened {
		t.Error("an upgrade to the same version started the services again")
	}
	wants(t, "local", h.run("up", "--local"), 0, "nothing changed")
}
