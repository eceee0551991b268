package cmd

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

const (
	newVersion9 = "v1.2.3-aaaaaaaaaaaa"
	oldVersion9 = "v1.2.2-bbbbbbbbbbbb"
)

// fakeNet is a network of machines without machines: what is installed where, and a cluster that sees what runs.
type fakeNet struct {
	t    *testing.T
	home string

	mu       sync.Mutex
	macs     []bonjour.Mac
	hosts    map[string]*fakeMac // by what ssh is given
	nodes    []cluster.Node      // of the cluster
	requests []cluster.RequestStatus
	admitted []roster.Node
	running  bool // the services of this machine
	log      []string
	drained  map[cluster.NodeID]bool
	starts   int
	scanned  int
	wrong    map[cluster.NodeID]bool // nodes that answer nonsense
	applying int
	most     int // orders at the same time
	gate     chan struct{}
	applies  func() // when a host is given an order
	looks    func() // when somebody asks for the state of the cluster; mu is held
	probed   []bootstrap.Target
	leaves   string // host that is gone once its key is trusted
	// sightings are what Bonjour tells, in this order, in place of macs.
	sightings []bonjour.Mac
	live      map[cluster.NodeID]string // keys that nodes prove to have
	keys      []string                  // that were signed
	damaged   error                     // of the list of nodes
}

// fakeMac is one machine.
type fakeMac struct {
	fingerprint string
	keyState    bootstrap.KeyState
	findings    []plan.Finding
	installed   string
	node        cluster.NodeID
	key         string // signed for it
	sudo        bootstrap.Sudo
	self        bool
	fails       error    // of every order
	refuses     error    // of every order, before anything is copied
	logs        []string // end of the agent's log, with that
	vanishes    bool     // before it says what it went back to
	denied      bool     // may not dial the network
	nameless    bool     // its name cannot be resolved
	wheels      int      // packages that are sent to it
	unit        plan.UnitKind
	hardware    string         // hashed
	poses       cluster.NodeID // that it says to be in the end
	dies        func()         // once its key was signed
	runs        bool
	starts      int
	clusterID   string // whose node it is
}

// owner is what its files say.
func (m *fakeMac) owner() plan.Owner {
	if m.installed == "" {
		return plan.Owner{}
	}
	return plan.Owner{Node: m.node, Cluster: "attic", ClusterID: m.clusterID, URL: "tls://192.0.2.99:8660"}
}

func newFakeNet(t *testing.T) *fakeNet {
	t.Helper()
	return &fakeNet{t: t, home: t.TempDir(), hosts: map[string]*fakeMac{}, drained: map[cluster.NodeID]bool{}, wrong: map[cluster.NodeID]bool{}}
}

// mac puts a machine on the network, seen by Bonjour, with a key that is known.
func (f *fakeNet) mac(name string) *fakeMac {
	host := name + ".local"
	m := &fakeMac{fingerprint: "SHA256:" + name, keyState: bootstrap.KeyKnown, node: cluster.NodeID("n-" + name)}
	f.hosts[host] = m
	f.macs = append(f.macs, bonjour.Mac{
		Name: name, HostName: host, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(len(f.macs) + 10)})},
		Port: 22, RemoteLogin: true, Model: "Mac16,10",
	})
	return m
}

func (f *fakeNet) note(format string, args ...any) {
	f.log = append(f.log, fmt.Sprintf(format, args...))
}

func (f *fakeNet) logged(part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, l := range f.log {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

// scan is Bonjour.
func (f *fakeNet) scan(_ context.Context, o bonjour.ScanOptions) ([]bonjour.Mac, error) {
	f.mu.Lock()
	f.scanned++
	macs := slices.Clone(f.macs)
	sightings := f.sightings
	f.mu.Unlock()
	for _, m := range sightings {
		o.Found(m)
	}
	for _, m := range macs {
		if sightings != nil {
			break
		}
		o.Found(m)
		o.Found(m) // more is known of it
	}
	return macs, nil
}

func (f *fakeNet) Close() {}

func (f *fakeNet) binary(_, os, _ string) (path, versionID string, err error) {
	if os != "darwin" {
		return "", "", cluster.Errorf(cluster.CodeUnsupported, "no mlxctl for %s on this machine", os).WithHint("put it there")
	}
	return "/mlxctl", newVersion9, nil
}

func (f *fakeNet) Probe(_ context.Context, t bootstrap.Target) *bootstrap.Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &bootstrap.Host{Target: t}
	f.probed = append(f.probed, t)
	m := f.hostAt(t)
	if m == nil || (m.nameless && len(t.Addresses) == 0) {
		h.Findings = []plan.Finding{{Check: bootstrap.CheckReach, State: plan.FindingFail, Message: t.Host + " does not answer on port 22", Fix: "is it on?"}}
		return h
	}
	h.Key, h.Self = bootstrap.HostKey{Fingerprint: m.fingerprint, State: m.keyState}, m.self
	if m.keyState != bootstrap.KeyNew { // nobody looks at a host whose key is not agreed to
		h.Findings = m.findings
	}
	isDisk := slices.ContainsFunc(h.Findings, func(x plan.Finding) bool { return x.Check == bootstrap.CheckDisk })
	if (m.keyState == bootstrap.KeyKnown && h.Failure() == nil) || isDisk {
		h.Facts = bootstrap.Facts{
			OS: "darwin", Arch: "arm64", Model: "Mac16,10", Chip: "Apple M4", Installed: m.installed, Sudo: m.sudo,
			Home: "/Users/anna/.mlxctl", Hardware: m.hardware, Owner: m.owner(),
		}
	}
	return h
}

// hostAt is what answers; by its port where several are behind one name.
func (f *fakeNet) hostAt(t bootstrap.Target) *fakeMac {
	if m := f.hosts[fmt.Sprintf("%s:%d", t.Host, t.Port)]; m != nil {
		return m
	}
	return f.hosts[t.Host]
}

func (f *fakeNet) Trust(hosts []*bootstrap.Host) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range hosts {
		f.hostAt(h.Target).keyState, h.Key.State = bootstrap.KeyKnown, bootstrap.KeyKnown
		f.note("trust %s", h.Host)
		if h.Host == f.leaves {
			delete(f.hosts, h.Host)
			delete(f.hosts, fmt.Sprintf("%s:%d", h.Host, h.Port))
		}
	}
	return nil
}

func (f *fakeNet) Apply(ctx context.Context, h *bootstrap.Host, job bootstrap.Job, tell func(bootstrap.Event)) (bootstrap.Result, error) {
	f.mu.Lock()
	m := f.hostAt(h.Target)
	f.applying++
	f.most = max(f.most, f.applying)
	f.note("%s %s purge=%v sudo=%q", job.Order.Action, h.Host, job.Order.Purge, job.Order.Password)
	gate, fails := f.gate, m.fails
	f.mu.Unlock()
	if f.applies != nil {
		f.applies()
	}
	defer func() {
		f.mu.Lock()
		f.applying--
		f.mu.Unlock()
	}()
	step := func(name string, state plan.State) {
		tell(bootstrap.Event{Host: h.Label(), Step: name, State: state, At: time.Now()})
	}
	if err := job.Order.Refuses(m.owner()); err != nil {
		return bootstrap.Result{}, err
	}
	if left := job.Order.Spares(m.owner()); left != "" {
		return bootstrap.Result{Left: left}, nil
	}
	if m.refuses != nil {
		return bootstrap.Result{}, m.refuses
	}
	step(plan.StepCopy, plan.StateRunning)
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return bootstrap.Result{}, ctx.Err()
		}
	}
	if fails != nil {
		return bootstrap.Result{Log: m.logs}, fails
	}
	if job.Order.Action != plan.Install {
		f.mu.Lock()
		defer f.mu.Unlock()
		m.runs = false
		f.setNode(m, "", cluster.NodeDown)
		if job.Order.Action == plan.Uninstall {
			m.installed, m.clusterID = "", ""
		}
		return bootstrap.Result{Node: m.node, Changed: true}, nil
	}
	return f.install(ctx, h, m, job, tell)
}

func (f *fakeNet) install(ctx context.Context, h *bootstrap.Host, m *fakeMac, job bootstrap.Job, tell func(bootstrap.Event)) (bootstrap.Result, error) {
	step := func(name string, state plan.State) {
		tell(bootstrap.Event{Host: h.Label(), Step: name, State: state, At: time.Now()})
	}
	_, version, err := job.Binary(h.Facts.OS, h.Facts.Arch)
	if err != nil {
		return bootstrap.Result{}, err
	}
	key, _, err := trust.NewUserKey()
	if err != nil {
		return bootstrap.Result{}, err
	}
	if m.key != "" {
		key = m.key
	}
	step(plan.StepJoin, plan.StateRunning)
	if _, err := job.Sign(ctx, m.node, key, m.hardware); err != nil {
		return bootstrap.Result{}, err
	}
	f.mu.Lock()
	f.keys = append(f.keys, key)
	f.mu.Unlock()
	if m.dies != nil {
		m.dies()
	}
	if m.wheels > 0 {
		step(plan.StepPython, plan.StateRunning)
	}
	link := plan.Link{State: plan.LinkConnected, Node: m.node}
	f.mu.Lock()
	before, wasRunning := m.installed, m.runs
	if m.denied {
		link.State = plan.LinkDenied
	}
	m.starts++
	f.setNode(m, version, cluster.NodeReady)
	f.mu.Unlock()
	for i := range m.wheels {
		tell(bootstrap.Event{Host: h.Label(), Step: plan.StepPython, State: plan.StateRunning, Detail: fmt.Sprintf("sending x (%d of %d)", i+1, m.wheels), At: time.Now()})
	}
	step(plan.StepUnit, plan.StateChanged)
	if err := job.Prove(ctx, m.node, version, link); err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		m.starts++
		if wasRunning {
			f.setNode(m, before, cluster.NodeReady)
		} else {
			f.setNode(m, before, cluster.NodeDown)
		}
		if m.vanishes {
			return bootstrap.Result{}, err
		}
		tell(bootstrap.Event{Host: h.Label(), Step: plan.StepUnit, State: plan.StateUndone, Detail: before + " is back", At: time.Now()})
		return bootstrap.Result{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.installed, m.key, m.runs, m.clusterID = version, key, true, job.Order.Settings.ClusterID
	says := cluster.NodeID(first(string(m.poses), string(m.node)))
	return bootstrap.Result{Node: says, Key: key, Changed: true, VersionID: version, Home: h.Facts.Home, Unit: plan.UnitKind(first(string(m.unit), string(plan.UnitLaunchDaemon)))}, nil
}

// setNode is called with mu held: the controller sees an agent that was started, or that is gone.
func (f *fakeNet) setNode(m *fakeMac, version string, state cluster.NodeState) {
	i := slices.IndexFunc(f.nodes, func(n cluster.Node) bool { return n.ID == m.node })
	if i < 0 {
		f.nodes = append(f.nodes, cluster.Node{ID: m.node, Name: strings.TrimPrefix(string(m.node), "n-")})
		i = len(f.nodes) - 1
	}
	f.nodes[i].State = state
	if state == cluster.NodeReady {
		at := time.Unix(int64(1000+m.starts), 0)
		f.nodes[i].Version, f.nodes[i].StartedAt = versionOf(version), &at
	}
}

// answers is what a person types; empty means that nobody is there.
func (f *fakeNet) run(answers string, args ...string) result {
	f.t.Helper()
	return f.runContext(f.t.Context(), answers, args...)
}

func (f *fakeNet) runContext(ctx context.Context, answers string, args ...string) result {
	f.t.Helper()
	s, _, out, errOut := iostreams.Test()
	if answers != "" {
		s.SetTTY(true, true, true)
		s.In = strings.NewReader(answers)
	}
	env := map[string]string{"HOME": f.home, "MLXCTL_HOME": f.home, "MLXCTL_CACHE": filepath.Join(f.home, "cache")}
	d := &deps{
		streams: s, build: Build{"v1.2.3", "0123456789abcdef"}, exe: "/nonexistent/mlxctl",
		env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		dial: func(context.Context, *config.Config) (clusterClient, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if !f.running {
				return nil, cluster.Errorf(cluster.CodeUnreachable, "nobody is there")
			}
			return fakeLAN{&fakeCluster{}, f}, nil
		},
		parts: &parts{
			scan:      f.scan,
			installer: func(bootstrap.Options) (installer, error) { return f, nil },
			binary:    f.binary,
			roster:    func(string) admitted { return f },
			services:  f.services,
			liveKey:   f.liveKey,
		},
	}
	code := runWith(ctx, d, args)
	return result{code, out.String(), errOut.String()}
}
