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

	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
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
	macs     []foundMac
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
	looked   func() // after a look at the cluster; called with mu held
	probed   []target
	leaves   string // host that is gone once its key is trusted
	// sightings are what Bonjour tells, in this order, in place of macs.
	sightings []foundMac
	live      map[cluster.NodeID]string // keys that nodes prove to have
	keys      []string                  // that were signed
	damaged   error                     // of the list of nodes
}

// fakeMac is one machine.
type fakeMac struct {
	fingerprint, keyState string
	findings              []bootplan.Finding
	installed             string
	node                  cluster.NodeID
	key                   string // signed for it
	sudo                  string
	self                  bool
	fails                 error    // of every order
	logs                  []string // end of the agent's log, with that
	vanishes              bool     // before it says what it went back to
	denied                bool     // may not dial the network
	nameless              bool     // its name cannot be resolved
	wheels                int      // packages that are sent to it
	unit                  bootplan.UnitKind
	hardware              string         // hashed
	poses                 cluster.NodeID // that it says to be in the end
	dies                  func()         // once its key was signed
	runs                  bool
	starts                int
}

func newFakeNet(t *testing.T) *fakeNet {
	t.Helper()
	return &fakeNet{t: t, home: t.TempDir(), hosts: map[string]*fakeMac{}, drained: map[cluster.NodeID]bool{}, wrong: map[cluster.NodeID]bool{}}
}

// mac puts a machine on the network, seen by Bonjour, with a key that is known.
func (f *fakeNet) mac(name string) *fakeMac {
	host := name + ".local"
	m := &fakeMac{fingerprint: "SHA256:" + name, keyState: keyKnown, node: cluster.NodeID("n-" + name)}
	f.hosts[host] = m
	f.macs = append(f.macs, foundMac{
		Name: name, HostName: host + ".", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(len(f.macs) + 10)})},
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

// Scan is macFinder's.
func (f *fakeNet) Scan(_ context.Context, _ time.Duration, found func(foundMac)) error {
	f.mu.Lock()
	f.scanned++
	macs := slices.Clone(f.macs)
	sightings := f.sightings
	f.mu.Unlock()
	for _, m := range sightings {
		found(m)
	}
	for _, m := range macs {
		if sightings != nil {
			break
		}
		found(m)
		found(m) // more is known of it
	}
	return nil
}

func (f *fakeNet) Close() {}

func (f *fakeNet) Version(os, arch string) (string, error) {
	if os != "darwin" {
		return "", cluster.Errorf(cluster.CodeUnsupported, "no mlxctl for %s/%s on this machine", os, arch).WithHint("put it there")
	}
	return newVersion9, nil
}

func (f *fakeNet) Binary(os, arch string) (path, versionID string, err error) {
	versionID, err = f.Version(os, arch)
	return "/mlxctl", versionID, err
}

func (f *fakeNet) Probe(_ context.Context, targets []target) []*foundHost {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*foundHost
	for _, t := range targets {
		h := &foundHost{target: t}
		out = append(out, h)
		f.probed = append(f.probed, t)
		m := f.hostAt(t)
		if m == nil || (m.nameless && len(t.Addresses) == 0) {
			h.Findings = []bootplan.Finding{{Check: "ssh-reach", State: bootplan.FindingFail, Message: t.Host + " does not answer on port 22", Fix: "is it on?"}}
			continue
		}
		h.Fingerprint, h.KeyState, h.IsSelf = m.fingerprint, m.keyState, m.self
		if m.keyState != keyNew { // nobody looks at a host whose key is not agreed to
			h.Findings = m.findings
		}
		if m.keyState == keyKnown && h.failure() == nil || slices.ContainsFunc(h.Findings, func(x bootplan.Finding) bool { return x.Check == "disk" }) {
			h.OS, h.Arch, h.Model, h.Chip, h.Installed, h.Sudo, h.Home = "darwin", "arm64", "Mac16,10", "Apple M4", m.installed, m.sudo, "/Users/anna/.mlxctl"
			h.Hardware = m.hardware
		}
	}
	return out
}

// hostAt is what answers; by its port where several are behind one name.
func (f *fakeNet) hostAt(t target) *fakeMac {
	if m := f.hosts[fmt.Sprintf("%s:%d", t.Host, t.Port)]; m != nil {
		return m
	}
	return f.hosts[t.Host]
}

func (f *fakeNet) Reversed(h *foundHost) bootplan.Finding {
	return bootplan.Finding{Check: checkLink, State: bootplan.FindingWarn, Message: h.label() + " is dialled", Fix: "let it dial"}
}

func (f *fakeNet) Trust(hosts []*foundHost) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range hosts {
		f.hostAt(h.target).keyState = keyKnown
		f.note("trust %s", h.Host)
		if h.Host == f.leaves {
			delete(f.hosts, h.Host)
			delete(f.hosts, fmt.Sprintf("%s:%d", h.Host, h.Port))
		}
	}
	return nil
}

func (f *fakeNet) Apply(ctx context.Context, h *foundHost, job installJob, tell func(hostEvent)) (installResult, error) {
	f.mu.Lock()
	m := f.hostAt(h.target)
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
	step := func(name string, state bootplan.State) {
		tell(hostEvent{Host: h.label(), Step: name, State: state, At: time.Now()})
	}
	step(bootplan.StepCopy, bootplan.StateRunning)
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return installResult{}, ctx.Err()
		}
	}
	if fails != nil {
		return installResult{Log: m.logs}, fails
	}
	if job.Order.Action != bootplan.Install {
		f.mu.Lock()
		defer f.mu.Unlock()
		m.runs = false
		f.setNode(m, "", cluster.NodeDown)
		if job.Order.Action == bootplan.Uninstall {
			m.installed = ""
		}
		return installResult{Node: m.node, Changed: true}, nil
	}
	return f.install(ctx, h, m, job, tell)
}

func (f *fakeNet) install(ctx context.Context, h *foundHost, m *fakeMac, job installJob, tell func(hostEvent)) (installResult, error) {
	step := func(name string, state bootplan.State) {
		tell(hostEvent{Host: h.label(), Step: name, State: state, At: time.Now()})
	}
	_, version, err := job.Binary(h.OS, h.Arch)
	if err != nil {
		return installResult{}, err
	}
	key, _, err := trust.NewUserKey()
	if err != nil {
		return installResult{}, err
	}
	if m.key != "" {
		key = m.key
	}
	step(bootplan.StepJoin, bootplan.StateRunning)
	if _, err := job.Sign(ctx, m.node, key, m.hardware); err != nil {
		return installResult{}, err
	}
	f.mu.Lock()
	f.keys = append(f.keys, key)
	f.mu.Unlock()
	if m.dies != nil {
		m.dies()
	}
	if m.wheels > 0 {
		step(bootplan.StepPython, bootplan.StateRunning)
	}
	link := bootplan.Link{State: bootplan.LinkConnected, Node: m.node}
	f.mu.Lock()
	before, wasRunning := m.installed, m.runs
	if m.denied {
		link.State = bootplan.LinkDenied
	}
	m.starts++
	f.setNode(m, version, cluster.NodeReady)
	f.mu.Unlock()
	for i := range m.wheels {
		tell(hostEvent{Host: h.label(), Step: bootplan.StepPython, State: bootplan.StateRunning, Detail: fmt.Sprintf("sending x (%d of %d)", i+1, m.wheels), At: time.Now()})
	}
	step(bootplan.StepUnit, bootplan.StateChanged)
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
			return installResult{}, err
		}
		tell(hostEvent{Host: h.label(), Step: bootplan.StepUnit, State: bootplan.StateUndone, Detail: before + " is back", At: time.Now()})
		return installResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.installed, m.key, m.runs = version, key, true
	says := cluster.NodeID(first(string(m.poses), string(m.node)))
	return installResult{Node: says, Key: key, Changed: true, VersionID: version, Home: h.Home, Unit: bootplan.UnitKind(first(string(m.unit), string(bootplan.UnitLaunchDaemon)))}, nil
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

// fakeLAN is the cluster as clients see it.
type fakeLAN struct {
	*fakeCluster
	f *fakeNet
}

func (c fakeLAN) Snapshot(context.Context) (*cluster.Snapshot, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	s := &cluster.Snapshot{Cluster: "lab", Nodes: slices.Clone(c.f.nodes), Requests: slices.Clone(c.f.requests)}
	for i := range s.Nodes {
		if s.Nodes[i].State == cluster.NodeReady && c.f.drained[s.Nodes[i].ID] {
			s.Nodes[i].State = cluster.NodeDraining
		}
	}
	if c.f.looked != nil && c.f.running {
		c.f.looked()
	}
	return s, nil
}

func (c fakeLAN) Generate(_ context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error {
	c.f.mu.Lock()
	c.f.note("generate %s", req.Node)
	isWrong, isDrained := c.f.wrong[req.Node], c.f.drained[req.Node]
	c.f.mu.Unlock()
	text := selfTestAnswer
	if isWrong {
		text = "42"
	}
	if isDrained {
		return cluster.Errorf(cluster.CodeBusy, "node %s is draining", req.Node)
	}
	return emit(cluster.Chunk{Text: text, Finish: "stop"})
}

func (c fakeLAN) Drain(_ context.Context, node cluster.NodeID, on bool) error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.note("drain %s %v", node, on)
	c.f.drained[node] = on
	return nil
}

func (c fakeLAN) Forget(_ context.Context, node cluster.NodeID) error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	i := slices.IndexFunc(c.f.nodes, func(n cluster.Node) bool { return n.ID == node })
	if i < 0 {
		return cluster.Errorf(cluster.CodeNoNode, "no node %s", node)
	}
	c.f.nodes = slices.Delete(c.f.nodes, i, i+1)
	c.f.note("forget %s", node)
	return nil
}

// List and the others are those of the list of nodes.
func (f *fakeNet) List() ([]roster.Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.admitted), f.damaged
}

func (f *fakeNet) Find(name string) (roster.Node, error) {
	nodes, _ := f.List()
	if n, ok := nodeOf(nodes, name); ok {
		return n, nil
	}
	return roster.Node{}, cluster.Errorf(cluster.CodeNoNode, "no node %q", name)
}

func (f *fakeNet) Put(n roster.Node) error {
	_ = f.Remove(n.ID)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admitted = append(f.admitted, n)
	slices.SortFunc(f.admitted, func(a, b roster.Node) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func (f *fakeNet) Remove(id cluster.NodeID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admitted = slices.DeleteFunc(f.admitted, func(n roster.Node) bool { return n.ID == id })
	return nil
}

// liveKey is what a node answers that is asked for its key.
func (f *fakeNet) liveKey(_ context.Context, _ string, _ *trust.Authority, node cluster.NodeID) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if key := f.live[node]; key != "" {
		return key, nil
	}
	return "", cluster.Errorf(cluster.CodeTimeout, "it does not answer")
}

// services starts those of this machine.
func (f *fakeNet) services(_ context.Context, _ *upOptions, cfg *config.Config, _ *iostreams.Progress) (localState, error) {
	if _, err := trust.Init(trustDir(f.home), "lab"); err != nil {
		return localState{}, err
	}
	before, _, err := readLocal(f.home)
	if err != nil {
		return localState{}, err
	}
	l := openToNetwork(before)
	l.Name, l.HTTPAddr, l.Models = "lab", defaultHTTPAddr, cfg.Models
	if err := l.write(f.home); err != nil {
		return localState{}, err
	}
	if err := config.WriteFile(filepath.Join(f.home, "agent", "node.json"), []byte(`{"id":"n-own"}`)); err != nil {
		return localState{}, err
	}
	f.mu.Lock()
	changed := !f.running
	f.running = true
	if changed {
		f.starts++
		f.nodes = append([]cluster.Node{{ID: "n-own", Name: "own", State: cluster.NodeReady, Version: "v1.2.3"}},
			slices.DeleteFunc(f.nodes, func(n cluster.Node) bool { return n.ID == "n-own" })...)
	}
	f.mu.Unlock()
	c := fakeLAN{&fakeCluster{}, f}
	s, err := c.Snapshot(context.Background())
	return localState{client: c, snapshot: s, changed: changed}, err
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
			finder:    func() macFinder { return f },
			installer: func(installerOptions) (installer, error) { return f, nil },
			roster:    func(string) admitted { return f },
			services:  f.services,
			liveKey:   f.liveKey,
		},
	}
	code := runWith(ctx, d, args)
	return result{code, out.String(), errOut.String()}
}
