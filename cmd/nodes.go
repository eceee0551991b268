package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
)

func newNodes(d *deps, runF func(context.Context, *listOptions) error) *cobra.Command {
	add, rm := newNodesAdd(d, nil), newNodesRm(d, nil)
	cmd := newListing(d, &cobra.Command{
		Use: "nodes", Aliases: []string{"node"}, Short: "List the machines of the cluster, add and remove them",
	}, runF, showNodes)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args)
		}
		return nil
	}
	cmd.AddCommand(add, rm)
	return cmd
}

func newNodesAdd(d *deps, runF func(context.Context, *upOptions) error) *cobra.Command {
	if runF == nil {
		runF = runNodesAdd
	}
	opts := &upOptions{deps: d, finish: defaultFinish}
	cmd := &cobra.Command{
		Use: "add HOST…", Short: "Make nodes of machines, as `mlxctl up` does, and of no others", Args: between(1, 1<<10, "the host"),
		Example:     "  mlxctl nodes add anna@studio.local mini-2:2222",
		Annotations: exits("0", "1", "2", "3", "4", "5", "6", "7", "130"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.hosts = args
			return runF(cmd.Context(), opts)
		},
	}
	opts.cmd = cmd
	opts.output = addOutput(cmd, objectFormats()...)
	opts.cluster.addInstall(cmd.Flags())
	opts.addTakeOver(cmd.Flags())
	opts.cluster.only = true
	return cmd
}

func runNodesAdd(ctx context.Context, opts *upOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	return runUpCluster(ctx, opts, out)
}

// fleetOptions are those of commands that change nodes which are there already.
type fleetOptions struct {
	*deps
	cluster clusterFlags
	output  *outputFlags
	cmd     *cobra.Command
	names   []string
	force   bool
	drain   time.Duration // how long what runs on a node may take
}

// fleet is one such command.
type fleet struct {
	*fleetOptions
	cfg       *config.Config
	events    *upEvents
	installer installer
	roster    admitted
	client    clusterClient // nil where the cluster cannot be reached
	password  string        // for sudo, where a host wants one
	strays    []roster.Node // that the command takes as well, though they are not in the list
	clusterID string        // of the cluster of this home; empty where its identity cannot be read
}

// openFleet takes the lock and makes what the command works with. Close must be called.
func (opts *fleetOptions) openFleet(ctx context.Context, cfg *config.Config, out printer.Options) (f *fleet, closeAll func(), err error) {
	release, err := opts.acquireNodes(ctx, cfg.Dirs.Home)
	if err != nil {
		return nil, nil, err
	}
	p := opts.lanParts()
	f = &fleet{fleetOptions: opts, cfg: cfg, events: newUpEvents(opts.deps, out), roster: p.roster(rosterPath(cfg.Dirs.Home))}
	if id := clusterIDOf(cfg.Dirs.Home); id != noCluster { // else nodes are told by their ids alone
		f.clusterID = id
	}
	f.installer, err = p.installer(opts.installerOptions(ctx, cfg, &opts.cluster.sshFlags, f.events.pause))
	if err != nil {
		f.events.close()
		release()
		return nil, nil, err
	}
	return f, func() {
		if f.client != nil {
			f.client.Close()
		}
		f.installer.Close()
		f.events.close()
		release()
	}, nil
}

// dialCluster connects where that is possible: nodes can be changed without it.
func (f *fleet) dialCluster(ctx context.Context) {
	if f.parts == nil {
		if info, err := f.readInfo(f.cfg.Dirs.Home); err != nil || info == nil {
			return
		}
	}
	soon, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if c, err := f.connect(soon, f.cfg); err == nil {
		f.client = c
	}
}

func (f *fleet) snapshotNow(ctx context.Context) *cluster.Snapshot {
	if f.client == nil {
		return nil
	}
	soon, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := f.client.Snapshot(soon)
	if err != nil {
		return nil // as good as a cluster that cannot be reached
	}
	return s
}

// reach probes nodes over SSH, in parallel.
func (f *fleet) reach(ctx context.Context, nodes []roster.Node) map[cluster.NodeID]*bootstrap.Host {
	var targets []bootstrap.Target
	for _, n := range nodes {
		if t, ok := sighting.OfNode(n); ok {
			targets = append(targets, t)
		}
	}
	out := map[cluster.NodeID]*bootstrap.Host{}
	if len(targets) == 0 {
		return out
	}
	f.events.looking("reaching the nodes")
	for _, h := range sighting.Probe(ctx, f.installer, targets, f.cluster.parallel) {
		out[h.Node] = h
	}
	f.events.endLooking()
	return out
}

// unreached is why a node cannot be changed over SSH; nil where it can.
func unreached(n roster.Node, h *bootstrap.Host) error {
	if _, ok := sighting.OfNode(n); !ok {
		return cluster.Errorf(cluster.CodeUnreachable, "it joined without SSH, and cannot be reached from here")
	}
	if h == nil {
		return cluster.Errorf(cluster.CodeUnreachable, "it was not looked at")
	}
	if h.Key.State == bootstrap.KeyNew {
		return cluster.Errorf(cluster.CodeConflict, "its SSH host key is not known here").WithHint("`mlxctl nodes add %s` shows it and asks", n.Host)
	}
	if x := h.Failure(); x != nil {
		code := cluster.CodeUnreachable
		if x.Check == bootstrap.CheckAuth {
			code = cluster.CodeUnauthorized
		}
		return (&cluster.Error{Code: code, Message: x.Message}).WithHint("%s", x.Fix)
	}
	if sighting.AreTwoMachines(n.Hardware, h.Facts.Hardware) {
		return cluster.Errorf(cluster.CodeConflict, "another Mac answers in its place, with a copy of its disk").
			WithHint("`mlxctl up` finds the node where it is now")
	}
	return nil
}

// askSudo asks once for a password, where it was wanted and a host that can be changed needs one.
func (f *fleet) askSudo(ctx context.Context, items []*planItem) (err error) {
	if !f.cluster.askSudo {
		return nil
	}
	var hosts []*bootstrap.Host
	for _, p := range items {
		if unreached(*p.node, p.host) == nil {
			hosts = append(hosts, p.host)
		}
	}
	f.password, err = f.sudoPassword(ctx, hosts, "do it on a terminal, or allow sudo without a password there")
	return err
}

// each does something with every item, as many at a time as is allowed, and keeps what came of it.
func (f *fleet) each(ctx context.Context, items []*planItem, do func(context.Context, *planItem) (bool, error)) {
	room := make(chan struct{}, f.cluster.parallel)
	var wg sync.WaitGroup
	for _, p := range items {
		wg.Go(func() {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-room }()
			f.one(ctx, p, do)
		})
	}
	wg.Wait()
	f.events.endBoard()
}

func (f *fleet) one(ctx context.Context, p *planItem, do func(context.Context, *planItem) (bool, error)) {
	began := time.Now()
	changed, err := do(ctx, p)
	p.outcome = &outcome{err: err, changed: changed, took: time.Since(began), node: p.Node, isCut: err != nil && ctx.Err() != nil}
	f.events.ended(p)
}

// order has a host do something that needs no proof. A host that is not the node of the item any more is left as it is, which
// the item then says.
func (f *fleet) order(ctx context.Context, p *planItem, action plan.Action, purge bool) (bool, error) {
	o := plan.Order{
		Action: action, Operator: operatorName(), Purge: purge, Home: p.node.Home, Unit: plan.UnitKind(p.node.Unit),
		Password: sudoFor(p.host, f.password), Node: p.Node, ClusterID: f.clusterID,
	}
	r, err := f.installer.Apply(ctx, p.host, bootstrap.Job{Order: o, Binary: f.binaries(f.cfg.Dirs.Cache), Wheels: f.wheels(f.cfg.Dirs.Cache)}, func(e bootstrap.Event) { f.events.step(p, e) })
	p.log, p.left = r.Log, r.Left
	if r.Left != "" && err == nil {
		p.done = "left as it is: " + r.Left
	}
	return r.Changed, err
}

// remnants says what is left on a host that could not be reached, and how to remove it there.
func remnants(n roster.Node) string {
	home := first(n.Home, "~/.mlxctl")
	var stop string
	switch plan.UnitKind(n.Unit) {
	case plan.UnitLaunchDaemon:
		stop = "sudo launchctl bootout system/ai.mlxctl.agent; sudo rm /Library/LaunchDaemons/ai.mlxctl.agent.plist; "
	case plan.UnitLaunchAgent:
		stop = "launchctl bootout gui/$(id -u)/ai.mlxctl.agent; rm ~/Library/LaunchAgents/ai.mlxctl.agent.plist; "
	case plan.UnitSystemd:
		stop = "systemctl --user disable --now 'mlxctl*'; rm ~/.config/systemd/user/mlxctl*.service; "
	case plan.UnitRunit:
		stop = "sv down /etc/service/mlxctl*; rm -r /etc/service/mlxctl*; "
	case plan.UnitKeeper:
	}
	return stop + "rm -r " + home
}

// itemsOf are the nodes of a command as items of its plan.
func itemsOf(nodes []roster.Node, hosts map[cluster.NodeID]*bootstrap.Host, what string) []*planItem {
	var out []*planItem
	for i := range nodes {
		n := &nodes[i]
		p := &planItem{Name: n.Name, Node: n.ID, HostKey: n.HostKey, Source: bootstrap.SourceRoster, What: what, node: n, host: hosts[n.ID]}
		if len(n.Addresses) > 0 {
			p.Address = n.Addresses[0]
		}
		if n.By == byBegun {
			p.Node = "" // its id is none of a node
		}
		out = append(out, p)
	}
	return out
}

// otherMachines leaves out this machine, whose agent is one of its own services.
func otherMachines(nodes []roster.Node, home string) []roster.Node {
	own := localNode(home)
	return slices.DeleteFunc(slices.Clone(nodes), func(n roster.Node) bool { return n.By == "local" || (own != "" && n.ID == own) })
}

// fleetSummary is the last line of `-o json`.
type fleetSummary struct {
	Type   string       `json:"type"` // summary
	Hosts  []hostResult `json:"hosts"`
	Failed int          `json:"failed"`
}

// finish tells what came of the nodes, and gives the exit code for it.
func (f *fleet) finish(items []*planItem, done string) error {
	failures := failuresOf(items)
	r := fleetSummary{Type: "summary", Hosts: []hostResult{}, Failed: len(failures)}
	for _, p := range items {
		r.Hosts = append(r.Hosts, resultOf(p))
	}
	switch f.events.out.Format {
	case printer.JSON:
		if err := printer.Line(f.streams.Out, r); err != nil {
			return err
		}
	case printer.YAML:
		if err := printer.Object(f.streams.Out, printer.YAML, r); err != nil {
			return err
		}
	default:
		var b strings.Builder
		if n := len(items) - len(failures); n > 0 {
			fmt.Fprintf(&b, "%s: %d\n", done, n)
		}
		b.WriteString(leftLines(items))
		b.WriteString(failuresBefore(failures))
		if _, err := f.streams.Out.Write([]byte(b.String())); err != nil {
			return err
		}
	}
	return exitOfHosts(items, failures)
}
