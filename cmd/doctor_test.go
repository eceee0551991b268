package cmd

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/doctor"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// patient is a home that doctor looks at, with what it is told of other Macs.
type patient struct {
	t     *testing.T
	home  string
	state *cluster.Snapshot
	macs  []bonjour.Mac
	err   error // of the scan
	names []string
	found map[string][]plan.Finding // by the names of hosts that are looked at

	mu     sync.Mutex
	looked []string // guarded by mu
}

// healthy is a cluster of this home and one other Mac, in which nothing is wrong.
func healthy(t *testing.T) *patient {
	t.Helper()
	p := &patient{t: t, home: t.TempDir()}
	if _, err := trust.Init(trustDir(p.home), "lab"); err != nil {
		t.Fatal(err)
	}
	p.state = &cluster.Snapshot{
		At: time.Now(), Cluster: "lab", Controller: cluster.Controller{Version: "v1.2.3"},
		Nodes: []cluster.Node{{ID: "n-studio", Name: "studio", State: cluster.NodeReady, Version: "v1.2.3", LastSeen: time.Now()}},
	}
	p.macs = []bonjour.Mac{{Name: "Studio", HostName: "studio.local", Addrs: sighting.Addresses([]string{"10.0.0.7"}), Port: 22, RemoteLogin: true}}
	p.admit(roster.Node{ID: "n-studio", Name: "studio", Host: "anna@studio.local", By: "ssh"})
	return p
}

func (p *patient) admit(n roster.Node) {
	p.t.Helper()
	if err := roster.Open(filepath.Join(p.home, "roster.json")).Put(n); err != nil {
		p.t.Fatal(err)
	}
}

// Inspect is what SSH would find.
func (p *patient) Inspect(_ context.Context, h doctor.Host) []plan.Finding {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looked = append(p.looked, h.Label())
	return p.found[h.Label()]
}

func (p *patient) run(args ...string) result {
	p.t.Helper()
	s, _, out, errOut := iostreams.Test()
	env := map[string]string{"HOME": p.home, "MLXCTL_HOME": p.home, "MLXCTL_CACHE": filepath.Join(p.home, "cache")}
	d := &deps{
		streams: s, build: Build{"v1.2.3", "0123456789abcdef"}, exe: "/nonexistent/mlxctl",
		env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		around: surroundings{
			Scan:      func(context.Context, bonjour.ScanOptions) ([]bonjour.Mac, error) { return p.macs, p.err },
			Inspector: p, Named: func(*config.Config) []string { return p.names },
		},
	}
	if p.state != nil {
		d.dial = func(context.Context, *config.Config) (clusterClient, error) { return &fakeCluster{state: p.state}, nil }
	}
	code := run(d, append([]string{"doctor"}, args...))
	return result{code, out.String(), errOut.String()}
}

// report reads `-o json`, without what depends on this machine's services: none run here.
func (p *patient) report(args ...string) (doctorReport, int) {
	p.t.Helper()
	r := p.run(append(args, "-o", "json")...)
	var report doctorReport
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		p.t.Fatalf("%v\n%s%s", err, r.out, r.err)
	}
	return report, r.code
}

// has asserts on one finding.
func (r doctorReport) has(t *testing.T, subject, check string, state plan.FindingKind, part string) {
	t.Helper()
	for _, i := range r.Items {
		if i.Subject == subject && i.Check == check && i.State == state && strings.Contains(i.Message, part) {
			return
		}
	}
	t.Errorf("no %s %s %s %q in %+v", subject, check, state, part, r.Items)
}

func TestDoctorTellsOfEachMac(t *testing.T) {
	t.Parallel()
	p := healthy(t)
	p.state.Nodes = append(p.state.Nodes, cluster.Node{ID: "n-mini", Name: "mini", State: cluster.NodeDown, Reason: "no heartbeat for 7 s", LastSeen: time.Now().Add(-7 * time.Second)})
	p.admit(roster.Node{ID: "n-mini", Name: "mini", Host: "10.0.0.8", By: "ssh"})
	p.admit(roster.Node{ID: "n-lost", Name: "lost", By: "token"})
	p.macs = append(p.macs,
		bonjour.Mac{Name: "Fred’s MacBook Pro", HostName: "freds-macbook-pro.local", Addrs: sighting.Addresses([]string{"10.0.0.9"})},
		bonjour.Mac{Name: "new", HostName: "new.local", Addrs: sighting.Addresses([]string{"10.0.0.10"}), RemoteLogin: true, Port: 22},
		bonjour.Mac{Name: "me", HostName: "me.local", Addrs: sighting.Addresses([]string{"10.0.0.1"}), RemoteLogin: true, Port: 22, Self: true},
	)
	p.names = []string{"root@10.0.0.11"}
	p.found = map[string][]plan.Finding{
		"mini":      {{Check: "ssh", State: plan.FindingFail, Message: "10.0.0.8: connection refused", Fix: "System Settings → General → Sharing → Remote Login"}},
		"10.0.0.11": {{Check: "ssh", State: plan.FindingFail, Message: "the host key has changed"}},
		"studio":    {{Check: "disk", State: plan.FindingOK, Message: "90 GiB free"}},
	}
	report, code := p.report()
	if code != exitFailed {
		t.Errorf("exit %d", code)
	}
	report.has(t, "studio", "serving", plan.FindingOK, "serving")
	report.has(t, "studio", "disk", plan.FindingOK, "90 GiB free")
	report.has(t, "mini", "ssh", plan.FindingFail, "down, last heard 7s ago: no heartbeat for 7 s: 10.0.0.8: connection refused")
	report.has(t, "lost", "serving", plan.FindingFail, "joined by a token, and was never heard of")
	report.has(t, "Fred’s MacBook Pro", "serving", plan.FindingWarn, "Remote Login is off")
	report.has(t, "new", "serving", plan.FindingWarn, "never been admitted")
	report.has(t, "10.0.0.11", "ssh", plan.FindingFail, "not a node yet, though the configuration names it: the host key has changed")
	failures := map[string]int{}
	for _, i := range report.Items {
		if i.State == plan.FindingFail && i.Subject != thisMac() {
			if failures[i.Subject]++; failures[i.Subject] > 1 {
				t.Errorf("%s: one cause is two failures: %+v", i.Subject, report.Items)
			}
		}
	}
	report.has(t, thisMac(), "bonjour", plan.FindingOK, "3 other Macs answered")
	report.has(t, thisMac(), "serving", plan.FindingWarn, "no agent runs on this machine")
	slices.Sort(p.looked)
	if want := []string{"10.0.0.11", "lost", "mini", "studio"}; !slices.Equal(p.looked, want) {
		t.Errorf("looked at %q, want %q: Macs that are nobody's nodes are left alone", p.looked, want)
	}
	var subjects []string
	for _, i := range report.Items {
		if len(subjects) == 0 || subjects[len(subjects)-1] != i.Subject {
			subjects = append(subjects, i.Subject)
		}
	}
	if want := []string{thisMac(), "10.0.0.11", "Fred’s MacBook Pro", "lost", "mini", "new", "studio"}; !slices.Equal(subjects, want) {
		t.Errorf("order %q, want %q", subjects, want)
	}
}

// What SSH saw and what the host said of the same thing is one finding, and so is what follows from one cause.
func TestBothSidesOfAHostAreOneFinding(t *testing.T) {
	t.Parallel()
	finding := func(check string, state plan.FindingKind, message string) plan.Finding {
		return plan.Finding{Check: check, State: state, Message: message}
	}
	got := bothSides([]plan.Finding{
		finding("clock", plan.FindingWarn, "seen"), finding("platform", plan.FindingWarn, "seen"),
		finding("sudo", plan.FindingWarn, "no sudo: the controller dials it"), finding("disk", plan.FindingWarn, "seen"),
	}, []plan.Finding{
		finding("clock", plan.FindingFail, "said"), finding("link", plan.FindingWarn, "said"), finding("disk", plan.FindingSkip, "said"),
	})
	var all []string
	for _, f := range got {
		all = append(all, f.Check+" "+string(f.State))
	}
	if want := []string{"platform warn", "sudo warn", "disk warn", "clock fail", "disk skip"}; !slices.Equal(all, want) {
		t.Errorf("%q, want %q", all, want)
	}
}

func TestDoctorOfOneNode(t *testing.T) {
	t.Parallel()
	p := healthy(t)
	p.found = map[string][]plan.Finding{"studio": {
		{Check: "disk", State: plan.FindingOK, Message: "90 GiB free"},
		{Check: "power", State: plan.FindingWarn, Message: "sleeps\x1b[31m", Fix: "sudo pmset -a sleep 0"},
	}}
	want := "ok    studio  serving  serving; 0 models in memory, 0 on disk\n" +
		"ok    studio  disk     90 GiB free\n" +
		"warn  studio  power    sleeps?[31m\n" +
		"      fix: sudo pmset -a sleep 0\n" +
		"\n2 ok, 1 warn, 0 fail, 0 skip\n"
	for _, name := range []string{"studio", "STUDIO", "n-studio", "studio.local"} {
		if r := p.run("--node", name); r.code != 0 || r.out != want {
			t.Errorf("%s: exit %d\n%s", name, r.code, r.out)
		}
	}
	r := p.run("--node", "studio", "-o", "json")
	golden(t, "doctor.json", regexp.MustCompile(`"took_ms": \d+`).ReplaceAllString(r.out, `"took_ms": 0`))
	if r := p.run("--node", "studio", "--strict"); r.code != exitFailed || r.out != want {
		t.Errorf("strict: exit %d\n%s", r.code, r.out)
	}
	if r := p.run("--node", "studo"); r.code != exitNoSuch || !strings.Contains(r.err, `did you mean "studio"?`) {
		t.Errorf("unknown: %+v", r)
	}
}

func TestDoctorShowsOnlyWhatMattersOfOthers(t *testing.T) {
	t.Parallel()
	p := healthy(t)
	p.found = map[string][]plan.Finding{"studio": {{Check: "disk", State: plan.FindingOK, Message: "90 GiB free"}}}
	if r := p.run(); strings.Contains(r.out, "90 GiB") || !regexp.MustCompile(`studio +serving`).MatchString(r.out) {
		t.Errorf("%s", r.out)
	}
	if r := p.run("-v"); !strings.Contains(r.out, "90 GiB") {
		t.Errorf("-v: %s", r.out)
	}
}

func TestDoctorOfThisMac(t *testing.T) {
	t.Parallel()
	p := healthy(t)
	report, _ := p.report()
	report.has(t, thisMac(), "version", plan.FindingOK, "v1.2.3")
	report.has(t, thisMac(), "trust", plan.FindingOK, "cluster lab, id ")
	report.has(t, thisMac(), "controller", plan.FindingFail, "no cluster runs on this machine")
	report.has(t, thisMac(), "ports", plan.FindingSkip, "never set up")
	report.has(t, thisMac(), "bus", plan.FindingOK, "the controller of lab answers in ")
	report.has(t, thisMac(), "clock", plan.FindingOK, "")

	if err := os.Chmod(filepath.Join(trustDir(p.home), "api.key"), 0o644); err != nil {
		entries, _ := os.ReadDir(trustDir(p.home))
		t.Fatalf("%v: %v", err, entries)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	l := &localSettings{Name: "lab", HTTPAddr: taken.Addr().String()}
	if err := l.write(p.home); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.home, "roster.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.state.At = time.Now().Add(-time.Hour)
	p.err = cluster.Errorf(cluster.CodeUnauthorized, "may not speak").WithHint("allow it")
	report, _ = p.report()
	report.has(t, thisMac(), "trust", plan.FindingFail, "api.key is open to others")
	report.has(t, thisMac(), "ports", plan.FindingWarn, taken.Addr().String()+" is in use by another process")
	report.has(t, thisMac(), "clock", plan.FindingFail, "the controller's Mac: its clock is")
	report.has(t, thisMac(), "local-network", plan.FindingFail, "may not speak")
	report.has(t, thisMac(), "roster", plan.FindingFail, "")

	p.state, p.err, p.macs = nil, nil, nil
	report, _ = p.report()
	report.has(t, thisMac(), "bus", plan.FindingSkip, "no cluster is running")
	report.has(t, thisMac(), "bonjour", plan.FindingWarn, "no other Mac answered")
}

func TestDoctorSaysThatMulticastIsFiltered(t *testing.T) {
	t.Parallel()
	p := healthy(t)
	p.macs = nil
	report, _ := p.report()
	report.has(t, thisMac(), "bonjour", plan.FindingWarn, "nobody answered, though studio serves: multicast is filtered")
}

func TestDoctorOfWhatReallyRuns(t *testing.T) {
	t.Parallel()
	h := running(t)
	p := &patient{t: t, home: h.dir}
	cache := ""
	for _, v := range h.env {
		if value, ok := strings.CutPrefix(v, "MLXCTL_CACHE="); ok {
			cache = value
		}
	}
	s, _, out, errOut := iostreams.Test()
	env := map[string]string{"HOME": h.dir, "MLXCTL_HOME": h.dir, "MLXCTL_CACHE": cache}
	d := &deps{
		streams: s, build: Build{"v0.0.0-test", "0123456789abcdef"}, exe: os.Args[0], engine: pythonEngine{},
		env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		around: surroundings{Scan: func(context.Context, bonjour.ScanOptions) ([]bonjour.Mac, error) {
			return []bonjour.Mac{{Name: "x", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, RemoteLogin: true}}, nil
		}},
	}
	if code := run(d, []string{"doctor", "-o", "json"}); code != exitDone {
		t.Errorf("exit %d", code)
	}
	var report doctorReport
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errOut)
	}
	for check, part := range map[string]string{
		"controller": "controller and agent run", "ports": "127.0.0.1:", "bus": "answers in", "clock": "", "serving": "serving; ", "python": "", "worker": "a worker answered after",
	} {
		report.has(p.t, thisMac(), check, plan.FindingOK, part)
	}
	if report.Fail > 0 {
		t.Errorf("%+v", report.Items)
	}
}

func TestChecksOfNodeLookAtItsHome(t *testing.T) {
	t.Parallel()
	d := &deps{env: func(string) (string, bool) { return "", false }, engine: pythonEngine{}}
	var checks []string
	for _, f := range d.checksOfNode(t.Context(), t.TempDir()) {
		checks = append(checks, f.Check+" "+string(f.State))
	}
	for _, want := range []string{"unit fail", "version fail", "link skip", "clock ok"} {
		if !slices.Contains(checks, want) {
			t.Errorf("no %q in %q", want, checks)
		}
	}
}
