package cmd

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/doctor"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

const checkServing = "serving"

// hostInspector looks at a host over SSH and changes nothing there: what keeps an installation from it, and what its own
// checks find where something is installed.
type hostInspector interface {
	Inspect(ctx context.Context, h doctor.Host) []plan.Finding
}

// surroundings is where other Macs are learnt of.
type surroundings struct {
	// Scan takes the place of the network where it is set.
	Scan scanner
	// Inspector looks at hosts; where it is nil they are judged by what the controller and Bonjour know.
	Inspector hostInspector
	// Named lists hosts of the configuration, as SSH would be given them; nil means that there are none.
	Named func(*config.Config) []string
}

func (s surroundings) scan(ctx context.Context, o bonjour.ScanOptions) ([]bonjour.Mac, error) {
	if s.Scan != nil {
		return s.Scan(ctx, o)
	}
	return bonjour.Scan(ctx, o)
}

// hosts are those that are known: this Mac, and whom the list of nodes, the configuration, the controller and Bonjour tell of.
// This Mac is first, the others are by name.
func (e *examination) hosts() []doctor.Host {
	e.mu.Lock()
	defer e.mu.Unlock()
	var known []*bootstrap.Host
	var nodes []roster.Node
	if isLocal(e.cfg) {
		known = append(known, &bootstrap.Host{
			Target: bootstrap.Target{Name: hostName(), Node: ownNode(e.home), Source: bootstrap.SourceLocal}, Self: true,
		})
		nodes, _ = roster.Open(rosterPath(e.home)).List() // network tells of one that is damaged
		for _, n := range nodes {
			known = append(known, hostOfNode(n))
		}
	}
	if e.around.Named != nil {
		for _, name := range e.around.Named(e.cfg) {
			known = append(known, hostNamed(name))
		}
	}
	states := map[cluster.NodeID]*cluster.Node{}
	if e.snapshot != nil {
		for i := range e.snapshot.Nodes {
			n := &e.snapshot.Nodes[i]
			states[n.ID] = n
			known = append(known, &bootstrap.Host{Target: bootstrap.Target{Name: n.Name, Node: n.ID, Source: bootstrap.SourceCluster}})
		}
	}
	for _, m := range e.macs {
		known = append(known, sighting.OfMac(m, ""))
	}
	var out []doctor.Host
	for _, h := range sighting.Merge(known, nodes) {
		x := doctor.Host{Host: h, State: states[h.Node]}
		if i := slices.IndexFunc(nodes, func(n roster.Node) bool { return n.ID == h.Node }); i >= 0 {
			x.Home, x.By = nodes[i].Home, nodes[i].By
		}
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(a, b doctor.Host) int {
		if a.Self != b.Self {
			return map[bool]int{true: -1, false: 1}[a.Self]
		}
		return strings.Compare(a.Label(), b.Label())
	})
	return out
}

// hostOfNode is a node of the list. Its host may be written as a person writes one.
func hostOfNode(n roster.Node) *bootstrap.Host {
	t, ok := sighting.OfNode(n)
	if named, err := config.ParseHost(n.Host); ok && err == nil {
		t.Host, t.User, t.Port = named.Host, first(n.User, named.User), cmp.Or(n.Port, named.Port)
	}
	return &bootstrap.Host{Target: t, Self: n.By == "local"}
}

// hostNamed is a host of the configuration: [user@]host[:port], or an alias.
func hostNamed(name string) *bootstrap.Host {
	named, err := config.ParseHost(name)
	if err != nil { // what is wrong with it is found when it is looked at
		named = config.Host{Host: name}
	}
	t := sighting.OfName(named, bootstrap.SourceConfig)
	t.Name = t.Host
	return &bootstrap.Host{Target: t}
}

// network judges what needs all hosts to be known.
func (e *examination) network(hosts []doctor.Host) []doctor.Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []doctor.Result
	if isLocal(e.cfg) {
		if _, err := roster.Open(rosterPath(e.home)).List(); err != nil {
			out = append(out, doctor.Result{Name: "roster", Findings: []plan.Finding{doctor.Failure("roster", "mlxctl up", err)}})
		}
	}
	if e.scanErr != nil {
		return out
	}
	seen, known := 0, 0
	var missed []string
	for _, h := range hosts {
		if h.Self {
			continue
		}
		if h.From(bootstrap.SourceBonjour) {
			seen++
		}
		if h.IsNode() || h.From(bootstrap.SourceConfig) {
			known++
		}
		if h.State != nil && h.State.State == cluster.NodeReady && !h.From(bootstrap.SourceBonjour) {
			missed = append(missed, h.Label())
		}
	}
	f := doctor.Multicast(seen, known, missed)
	f.Check = "bonjour"
	return append(out, doctor.Result{Name: f.Check, Findings: []plan.Finding{f}})
}

// each lists the checks of the hosts.
func (e *examination) each(hosts []doctor.Host) []doctor.Check {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := doctor.Cluster{At: time.Now()}
	if s := e.snapshot; s != nil {
		c = doctor.Cluster{Up: true, Version: s.Controller.Version, At: s.At}
	}
	var out []doctor.Check
	for _, h := range hosts {
		subject := h.Label()
		if h.Self {
			subject = "" // as of every check of this Mac
		}
		out = append(out, doctor.Check{Name: checkServing, Subject: subject, Timeout: hostTimeout, Run: func(ctx context.Context) []plan.Finding {
			return doctor.Explained(h.Serving(c), e.inspect(ctx, h))
		}})
	}
	return out
}

// inspect looks at a host from within. Macs that only Bonjour knows are somebody's, and are left alone until `up` is told
// to install there.
func (e *examination) inspect(ctx context.Context, h doctor.Host) []plan.Finding {
	switch {
	case h.Self:
		o := e.nodeOptions(e.home, e.cfg.Dirs)
		o.Own = true
		return doctor.Node(ctx, o)
	case e.around.Inspector != nil && (h.IsNode() || h.From(bootstrap.SourceConfig)):
		return e.around.Inspector.Inspect(ctx, h)
	}
	return nil
}

// inspectable is an engine that can say whether it would run.
type inspectable interface {
	inspect(ctx context.Context, cache string) (string, error)
}

func (pythonEngine) inspect(ctx context.Context, cache string) (string, error) {
	return mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache}).Inspect(ctx)
}

// nodeOptions describe the node of a home, as far as this program's engine can be asked.
func (d *deps) nodeOptions(home string, dirs config.Dirs) doctor.NodeOptions {
	o := doctor.NodeOptions{Home: home}
	e, ok := d.engine.(inspectable)
	if !ok {
		return o
	}
	o.Python = func(ctx context.Context) (string, error) { return e.inspect(ctx, dirs.Cache) }
	o.SelfTest = func(ctx context.Context) (string, error) { return testWorker(ctx, d.engine, dirs.Cache) }
	return o
}

// testWorker starts a worker with the embedded model; it is up when it has produced a token.
func testWorker(ctx context.Context, e engine, cache string) (said string, err error) {
	began := time.Now()
	lib, err := library.Open(library.Options{CacheDir: cache, HubDirs: []string{}})
	if err != nil {
		return "", err
	}
	model, dir, err := lib.Resolve(ctx, selfTestModel)
	if err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp("", "mlxctl-doctor-") // the home's own log of such a worker may be in use
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // the system empties that folder as well
	worker, err := e.launcher(scratch, cache, slog.New(slog.DiscardHandler)).Launch(ctx, mlxbridge.LaunchSpec{Model: model, Dir: dir, MaxRows: 1})
	if err != nil {
		return "", err
	}
	if err := worker.Close(ctx); err != nil {
		return "", err
	}
	return "a worker answered after " + time.Since(began).Round(100*time.Millisecond).String(), nil
}
