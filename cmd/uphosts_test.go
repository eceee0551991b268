package cmd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
)

func TestYesAgreesToNewKeysButNotToChangedOnes(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini").keyState = bootstrap.KeyNew
	changed := f.mac("changed")
	changed.keyState, changed.findings = bootstrap.KeyChanged, brokenBy("host-key", "host key changed", "ssh-keygen -R changed.local")
	r := f.run("", "up", "--yes", "--known-hosts-only")
	wants(t, "known only", r, exitFailed, "mini: its SSH host key SHA256:mini is not known; mend: compare the fingerprint, then leave out --known-hosts-only")
	if f.logged("trust") != 0 || f.logged("install") != 0 {
		t.Errorf("%v", f.log)
	}
	r = f.run("", "up", "--yes")
	wants(t, "yes", r, exitPartial, "new SHA256:mini", "2 nodes serve", "changed: host key changed\nhint: ssh-keygen -R")
	if f.logged("trust mini.local") != 1 || f.logged("changed.local") != 0 || strings.Index(r.err, "SHA256:mini") > strings.Index(r.err, "copy running") {
		t.Errorf("%v\n%s", f.log, r.err)
	}
	if n := strings.Count(r.err, "NAME "); n != 1 {
		t.Errorf("%d tables, though trust changed nothing:\n%s", n, r.err)
	}
}

func TestPlanIsShownAgainWhereTrustChangesIt(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"table", "json"} {
		f := newFakeNet(t)
		f.mac("mini").keyState = bootstrap.KeyNew
		full := f.mac("full")
		full.keyState, full.findings = bootstrap.KeyNew, brokenBy("disk", "200 MiB free", "free some space")
		r := f.run("", "up", "--yes", "-o", format)
		wants(t, format, r, exitPartial, "200 MiB free", "free some space")
		if format == "table" {
			if n := strings.Count(r.err, "NAME "); n != 2 {
				t.Errorf("%d tables:\n%s", n, r.err)
			}
			continue
		}
		var plans []string
		isDoing := false
		for line := range strings.Lines(r.out) {
			var e struct {
				Type  string
				Items []planItem
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			isDoing = isDoing || e.Type == "step"
			if e.Type != "plan" {
				continue
			}
			if isDoing {
				t.Errorf("a plan comes when something was done already:\n%s", r.out)
			}
			text := ""
			for _, p := range e.Items {
				text += p.Name + " " + p.What + " " + p.KeyState + ", "
			}
			plans = append(plans, text)
		}
		want := []string{"full install new, mini install new, ", "full cannot known, mini install known, "}
		if !slices.Equal(plans, want) {
			t.Errorf("plans are %q, want %q", plans, want)
		}
		// Nothing changes it any more.
		full.findings = nil
		if r := f.run("", "up", "--yes", "-o", "json"); strings.Count(r.out, `"type":"plan"`) != 1 {
			t.Errorf("%+v", r)
		}
	}
}

// Whose key is trusted for good is said, whatever else is not.
func TestTrustedKeysAreAlwaysSaid(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"quiet": {"up", "--yes", "--quiet"}, "json": {"up", "--yes", "--quiet", "-o", "json"}, "nodes add": {"nodes", "add", "mini.local", "b.local", "--yes", "--quiet"},
	} {
		f := newFakeNet(t)
		f.mac("mini").keyState = bootstrap.KeyNew
		f.mac("known")
		f.mac("b").keyState = bootstrap.KeyNew
		r := f.run("", args...)
		var said []string
		for line := range strings.Lines(r.err) {
			said = append(said, line)
		}
		slices.Sort(said)
		label := func(name string) string {
			if args[0] == "nodes" {
				return name + ".local"
			}
			return name + " (" + name + ".local)"
		}
		want := []string{"trusted the SSH host key SHA256:b of " + label("b") + "\n", "trusted the SSH host key SHA256:mini of " + label("mini") + "\n"}
		if r.code != 0 || !slices.Equal(said, want) {
			t.Errorf("%s: exit %d, said %q, want %q", name, r.code, said, want)
		}
		if r := f.run("", args...); r.err != "" {
			t.Errorf("%s: said again: %q", name, r.err)
		}
	}
}

// A host that goes away between the question and the answer is not forgotten.
func TestHostThatGoesAwayAfterItsKeyWasTrusted(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini").keyState = bootstrap.KeyNew
	f.mac("studio")
	f.leaves = "mini.local"
	wants(t, "up", f.run("", "up", "--yes"), exitPartial, "2 nodes serve", "mini: mini.local does not answer on port 22\nhint: is it on?")
}

// A node can be named as the lists name it, and a Mac as Bonjour does where the system knows no such names.
func TestNamesThatTheResolverDoesNotKnow(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.mac("studio").nameless = true
	f.mac("air")
	wants(t, "node of the list", f.run("", "up", "--yes", "mini.local"), 0, "2 nodes serve")
	if f.scanned != 0 {
		t.Error("Bonjour was asked though all was known")
	}
	f.hosts["mini.local"].installed = oldVersion9
	wants(t, "by its name", f.run("", "nodes", "add", "--yes", "mini"), 0, "mini ", "upgrade: from "+oldVersion9)
	wants(t, "by Bonjour", f.run("", "nodes", "add", "--yes", "studio.local"), 0, "3 nodes serve, 1 changed")
	if f.scanned != 1 || f.logged("install air") != 0 {
		t.Errorf("asked Bonjour %d times: %v", f.scanned, f.log)
	}
	// Who names one host hears nothing of others.
	f.hosts["mini.local"].findings = brokenBy("ssh-reach", "mini is off", "wake it")
	wants(t, "named", f.run("", "up", "--yes", "air.local"), 0, "serve, 1 changed")
	r := f.run("", "up", "--yes", "air.local")
	wants(t, "again", r, 0, "0 changed")
	if strings.Contains(r.out+r.err, "mini is off") {
		t.Errorf("%+v", r)
	}
	wants(t, "all", f.run("", "up", "--yes"), exitPartial, "mini is off")
}

// Bonjour tells of addresses one by one; all of them are the host's in the end, and the best comes first.
func TestHostHasEveryAddressThatTheScanSaw(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.mac("linked")
	sight := func(name string, addrs ...string) bonjour.Mac {
		return bonjour.Mac{Name: name, HostName: name + ".local", Addrs: sighting.Addresses(addrs), Port: 22, RemoteLogin: true}
	}
	f.sightings = []bonjour.Mac{
		sight("mini", "fe80::1%en7"), sight("linked", "fe80::2%en7"), sight("mini", "fe80::1%en7", "192.0.2.10"),
		sight("mini", "2001:db8::1", "fe80::1%en7", "192.0.2.10", "169.254.3.4"),
	}
	r := f.run("", "up", "--yes")
	wants(t, "up", r, 0, "3 nodes serve", "192.0.2.10")
	for _, p := range f.probed {
		if p.Host == "mini.local" && p.Addresses[0] != "192.0.2.10" {
			t.Errorf("probed at %v", p.Addresses)
		}
	}
	want := "192.0.2.10 2001:db8::1 169.254.3.4 fe80::1%en7"
	if nodes, _ := f.List(); len(nodes) != 2 || strings.Join(nodes[1].Addresses, " ") != want || strings.Join(nodes[0].Addresses, " ") != "fe80::2%en7" {
		t.Errorf("%+v, want %s", nodes, want)
	}
	// It moved: what nobody answers at any more is forgotten.
	f.sightings = []bonjour.Mac{sight("mini", "192.0.2.99"), sight("linked", "fe80::2%en7")}
	f.hosts["mini.local"].installed = oldVersion9
	wants(t, "moved", f.run("", "up", "--yes"), 0, "1 changed")
	if nodes, _ := f.List(); strings.Join(nodes[1].Addresses, " ") != "192.0.2.99" {
		t.Errorf("%+v", nodes)
	}
}

// A host that is named and whose name this system cannot resolve is reached where Bonjour saw it.
func TestNamedHostIsReachedWhereBonjourSeesIt(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini").nameless = true
	if err := os.WriteFile(filepath.Join(f.home, "config.yaml"), []byte("hosts: [mini.local, gone.local]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "up", f.run("", "up", "--yes"), exitPartial, "2 nodes serve", "192.0.2.10", "gone.local: gone.local does not answer")
	// Without Remote Login it is a failure all the same: it was named.
	f.macs[0].RemoteLogin = false
	delete(f.hosts, "mini.local")
	wants(t, "off", f.run("", "up", "--yes"), exitFailed, "mini: mini.local does not answer on port 22; mend: is it on?")
}

func TestHostThatServesWithAWarningIsExplained(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	warn := func(check, message, fix string) plan.Finding {
		return plan.Finding{Check: check, State: plan.FindingWarn, Message: message, Fix: fix}
	}
	config := warn(bootstrap.CheckConfig, "parts of ssh_config were left out", "add --transport openssh")
	f.mac("late").findings = []plan.Finding{config, warn("clock", "its clock is behind", "set it")}
	// With sudo's password it runs as a service, and needs no more.
	f.mac("asked").findings = []plan.Finding{config, warn(bootstrap.CheckSudo, "no sudo: the controller dials it", "add --ask-sudo")}
	plain := f.mac("plain")
	plain.findings, plain.denied = []plan.Finding{warn(bootstrap.CheckSudo, "no sudo: the controller dials it", "add --ask-sudo")}, true
	plain.unit = plan.UnitLaunchAgent
	f.mac("denied").denied = true
	r := f.run("", "up", "--yes")
	wants(t, "up", r, 0, "5 nodes serve", "late: its clock is behind; mend: set it\n", "plain: no sudo: the controller dials it; mend: add --ask-sudo\n",
		"denied: denied lets its agent dial nobody on the local network, so the controller dials it; mend: there: System Settings")
	if strings.Count(r.out, "mend: ") != 3 || strings.Count(r.err, "ssh_config") != 1 {
		t.Errorf("%s\n%s", r.out, r.err)
	}
	r = f.run("", "up", "--yes", "-o", "json")
	var s upSummary
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || r.code != 0 {
		t.Fatalf("%v\n%+v", err, r)
	}
	for _, h := range s.Hosts {
		if h.Name == "late" && (!h.Serves || len(h.Warnings) != 1 || h.Warnings[0].Fix != "set it") {
			t.Errorf("%+v", h)
		}
	}
}
