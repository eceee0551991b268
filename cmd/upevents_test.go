package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/iostreams"
)

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

// Why a host failed is said once, and the last line is the error of the command.
func TestReasonIsSaidOnce(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.mac("full").findings = brokenBy("disk", "200 MiB free", "free some space")
	f.mac("broken").fails = cluster.Errorf(cluster.CodeTimeout, "the agent hides").WithHint("look there")
	wants(t, "up", f.run("", "up", "--yes", "mini.local"), 0, "2 nodes serve")
	for _, c := range []struct{ host, reason, hint string }{{"full", "200 MiB free", "free some space"}, {"broken", "the agent hides", "look there"}} {
		r := f.run("", "nodes", "add", "--yes", c.host+".local")
		wants(t, c.host, r, exitFailed)
		if !strings.HasSuffix(r.err, "mlxctl: nodes add: "+c.host+".local: "+c.reason+"\nhint: "+c.hint+"\n") || r.out != "" {
			t.Errorf("%s:\n%s%s", c.host, r.out, r.err)
		}
		for _, part := range []string{c.reason, c.hint} {
			if n := strings.Count(r.out+r.err, part); n != 1 {
				t.Errorf("%s: %q is said %d times\n%s%s", c.host, part, n, r.out, r.err)
			}
		}
	}
	r := f.run("", "nodes", "add", "--yes", "full.local", "broken.local")
	wants(t, "both", r, exitFailed, "full.local: 200 MiB free; mend: free some space\n", "broken.local: the agent hides; mend: look there\n")
	if !strings.HasSuffix(r.err, "mlxctl: nodes add: 2 machines failed: broken.local, full.local\n") {
		t.Errorf("both:\n%s", r.err)
	}
}

func TestKeyIsShownByWhoeverMadeTheCluster(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	wants(t, "first", f.run("", "up", "--yes"), 0, "  key      mlx-")
	for _, args := range [][]string{{"up"}, {"up", "-o", "json"}, {"nodes", "add", "mini.local"}, {"nodes", "add", "mini.local", "-o", "json"}} {
		if r := f.run("", args...); r.code != 0 || strings.Contains(r.out+r.err, "mlx-") || strings.Contains(r.out, "api_key") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	wants(t, "again", f.run("", "up"), 0, "key      `mlxctl env` prints it")
}

// Commands want a node by its own name, which may be another one than that of its Mac.
func TestLineOfAHostSaysWhatTheNodeIsCalled(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("Fred’s Studio").node = "n-mac3"
	f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0, "Fred’s Studio serves as mac3 (", "mini serves (", "3 changed with this machine")
	wants(t, "by that", f.run("", "nodes", "rm", "mac3", "--yes"), 0, "removed: 1")
}

func TestInterruptedHostSaysSo(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.gate = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	f.applies = cancel
	r := f.runContext(ctx, "", "up", "--yes")
	wants(t, "up", r, exitFailed, "mini interrupted (")
	if strings.Contains(r.err, "failed") {
		t.Errorf("%s", r.err)
	}
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
	wants(t, "up", r, exitPartial, "mlxctl: up: a: the agent did not come up\n", "a: the end of its agent's log\n    line 2\n", "    boom: ?[31mno metal\n")
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

// Forty packages are not forty lines in a log.
func TestProgressIsToldNowAndThen(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"table", "json"} {
		f := newFakeNet(t)
		f.mac("mini").wheels = 40
		r := f.run("", "up", "--yes", "-o", format)
		wants(t, format, r, 0)
		if n := strings.Count(r.out+r.err, "sending x"); n != 1 || !strings.Contains(r.out+r.err, "sending x (1 of 40)") {
			t.Errorf("%s: %d lines of progress\n%s%s", format, n, r.out, r.err)
		}
	}
}
