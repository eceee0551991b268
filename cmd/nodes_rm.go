package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

const (
	defaultDrain = 10 * time.Minute
	// forgetTimeout bounds how long a node whose key was revoked may take to be down.
	forgetTimeout = 15 * time.Second
)

func newNodesRm(d *deps, runF func(context.Context, *fleetOptions) error) *cobra.Command {
	if runF == nil {
		runF = runNodesRm
	}
	opts := &fleetOptions{deps: d}
	cmd := &cobra.Command{
		Use: "rm NODE…", Short: "Take machines out of the cluster and remove what was installed there", Args: between(1, 1<<10, "the node"),
		Long: `rm lets a node finish what it answers, removes its agent over SSH, and revokes its key. With --force a node that
cannot be reached is taken out as well: its key is worth nothing from then on, and what is left on it is told. A host that is
another node by now, or one of another cluster, is left as it is.`,
		Example:     "  mlxctl nodes rm studio-2\n  mlxctl nodes rm lost-laptop --force --yes",
		Annotations: exits("0", "1", "2", "3", "4", "6", "7", "130"), ValidArgsFunction: completeNodes(d),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.names = args
			return runF(cmd.Context(), opts)
		},
	}
	opts.cmd = cmd
	opts.output = addOutput(cmd, objectFormats()...)
	f := cmd.Flags()
	opts.cluster.add(f)
	f.BoolVarP(&opts.cluster.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&opts.force, "force", false, "also one that cannot be reached")
	f.DurationVar(&opts.drain, "drain-timeout", defaultDrain, "how long what it answers may take")
	return cmd
}

func runNodesRm(ctx context.Context, opts *fleetOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	cfg, err := opts.settle()
	if err != nil {
		return err
	}
	f, closeAll, err := opts.openFleet(ctx, cfg, out)
	if err != nil {
		return err
	}
	defer closeAll()
	authority, err := trust.Open(trustDir(cfg.Dirs.Home))
	if err != nil {
		return err
	}
	if err := settlePending(cfg.Dirs.Home, f.roster, authority); err != nil {
		return err
	}
	f.dialCluster(ctx)
	if f.strays, err = f.unlisted(ctx); err != nil {
		return err
	}
	listed, err := f.roster.List()
	if err != nil {
		return err
	}
	begun, err := begunHosts(cfg.Dirs.Home, listed)
	if err != nil {
		return err
	}
	f.strays = append(f.strays, begun...)
	nodes, err := f.named()
	if err != nil {
		return err
	}
	if err := f.confirm(ctx, "Remove "+nodeNames(nodes)+" from the cluster, and what was installed there?"); err != nil {
		return err
	}
	items := itemsOf(nodes, f.reach(ctx, nodes), whatRemove)
	if err := f.askSudo(ctx, items); err != nil {
		return err
	}
	f.each(ctx, items, func(ctx context.Context, p *planItem) (bool, error) { return true, f.remove(ctx, authority, p) })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f.finish(items, "removed")
}

// settle reads the settings of a command for nodes of the cluster of this home.
func (opts *fleetOptions) settle() (*config.Config, error) {
	cfg, err := opts.clusterConfig(opts.cmd, &opts.cluster)
	if err != nil {
		return nil, err
	}
	if l, _, err := readLocal(cfg.Dirs.Home); err != nil || l == nil {
		return nil, cmp.Or(err, notRunning(cfg.Dirs.Home))
	}
	return cfg, nil
}

// named finds the nodes of the command line in the list.
func (f *fleet) named() ([]roster.Node, error) {
	all, err := f.roster.List()
	if err != nil {
		return nil, err
	}
	others := otherMachines(all, f.cfg.Dirs.Home)
	var out []roster.Node
	for _, name := range f.names {
		if n, ok := nodeOf(all, name); ok && len(otherMachines([]roster.Node{n}, f.cfg.Dirs.Home)) == 0 {
			return nil, usageHint("`mlxctl down` stops its services", "%s is this machine", name)
		}
		if strings.EqualFold(name, hostName()) || name == string(localNode(f.cfg.Dirs.Home)) {
			return nil, usageHint("`mlxctl down` stops its services", "%s is this machine", name)
		}
		n, ok := nodeOf(others, name)
		if !ok {
			n, ok = nodeOf(f.strays, name)
		}
		if !ok {
			_, err := f.roster.Find(name)
			return nil, noSuchNode(name, others, err)
		}
		if _, isThere := nodeOf(out, string(n.ID)); !isThere {
			out = append(out, n)
		}
	}
	return out, nil
}

// nodeOf finds a node by id, or by a name that only one has.
func nodeOf(nodes []roster.Node, name string) (roster.Node, bool) {
	var named []roster.Node
	for _, n := range nodes {
		if string(n.ID) == name {
			return n, true
		}
		if strings.EqualFold(n.Name, name) {
			named = append(named, n)
		}
	}
	if len(named) != 1 {
		return roster.Node{}, false
	}
	return named[0], true
}

func noSuchNode(name string, nodes []roster.Node, found error) error {
	var known, ids []string
	for _, n := range nodes {
		known = append(known, n.Name)
		if strings.EqualFold(n.Name, name) {
			ids = append(ids, string(n.ID))
		}
	}
	if len(ids) > 1 {
		return usagef("%d nodes are called %q; say which by its id: %s", len(ids), name, strings.Join(ids, " "))
	}
	if e := cluster.AsError(found); e != nil && e.Code != cluster.CodeNoNode && e.Code != cluster.CodeInternal {
		return found
	}
	e := cluster.Errorf(cluster.CodeNoNode, "no node %q", name).WithHint("`mlxctl nodes` lists them")
	if near := cluster.Nearest(name, known); len(near) > 0 {
		e = e.WithHint("did you mean %q?", near[0])
	}
	return &noSuchError{e}
}

func nodeNames(nodes []roster.Node) string {
	var names []string
	for _, n := range nodes {
		names = append(names, printer.Clean(n.Name))
	}
	return strings.Join(names, ", ")
}

// confirm asks, unless it is told not to. Where nobody is there, it is a usage error.
func (f *fleet) confirm(ctx context.Context, question string) error {
	if f.cluster.yes {
		return nil
	}
	yes, err := f.streams.Confirm(ctx, question)
	switch {
	case errors.Is(err, iostreams.ErrNobody):
		return usageHint("add --yes to do it", "nobody is there to agree")
	case err != nil:
		return err
	case !yes:
		return cluster.Errorf(cluster.CodeCancelled, "not agreed to; nothing was changed")
	}
	return nil
}

// remove takes one node out of the cluster.
func (f *fleet) remove(ctx context.Context, authority *trust.Authority, p *planItem) (failed error) {
	key, err := f.keyNow(ctx, authority, p.Node)
	if p.node.By == byNobody {
		if err != nil {
			e := *cluster.AsError(err)
			return e.WithHint("`mlxctl keys rotate signing` ends all that was signed for nodes that are not in the list")
		}
		p.done = "thrown out"
		return f.revoke(ctx, authority, p, key)
	}
	err = unreached(*p.node, p.host) // a node that does not say what its key is has the one in the list
	if err != nil && !f.force {
		return f.orForce(err) // while it goes on as it is
	}
	isEmptied, emptyErr := f.empty(ctx, p)
	if emptyErr != nil && !f.force {
		return emptyErr
	}
	if isEmptied {
		defer func() {
			if failed != nil { // it is still a node
				failed = errors.Join(failed, f.fill(ctx, p))
			}
		}()
	}
	if err == nil {
		_, err = f.order(ctx, p, plan.Uninstall, true)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	left := ""
	if err != nil {
		if !f.force {
			return f.orForce(err)
		}
		left = printer.OneLine(err.Error())
	}
	if err := f.revoke(ctx, authority, p, key); err != nil {
		return err
	}
	p.done = "removed"
	if p.left != "" {
		p.done = "taken out of the list; what is there is left as it is: " + p.left
	}
	if left != "" {
		p.done = "removed, but not what is on it"
		return f.events.warn(fmt.Sprintf("%s: taken out of the cluster, its key is worth nothing now; it could not be reached (%s). On that machine: %s",
			p.Name, left, remnants(*p.node)), "")
	}
	return nil
}

// orForce says what else there is to do about a node that cannot be reached.
func (f *fleet) orForce(err error) error {
	e := *cluster.AsError(err)
	return e.WithHint("%s", strings.TrimPrefix(e.Hint+"; or --force takes it out all the same", "; "))
}

// revoke has a node be nobody: its keys, its place in the list, its line in the controller. It may live with another key than
// that in the list.
func (f *fleet) revoke(ctx context.Context, authority *trust.Authority, p *planItem, live string) error {
	if p.node.By == byBegun { // it never was anybody
		return begunList(f.cfg.Dirs.Home).Remove(p.node.ID)
	}
	for _, key := range slices.Compact([]string{p.node.Key, live}) {
		if key == "" {
			continue
		}
		if _, _, err := authority.Revoke(key); err != nil {
			return err
		}
	}
	if err := f.roster.Remove(p.Node); err != nil {
		return err
	}
	return f.forget(ctx, p.Node)
}

// forget waits until the node is down, which the end of its key brings about.
func (f *fleet) forget(ctx context.Context, node cluster.NodeID) error {
	if f.client == nil {
		return nil // there is no controller that could know it
	}
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f.client.Forget(ctx, node)
		if code := cluster.CodeOf(err); err == nil || code == cluster.CodeNoNode {
			return nil
		} else if code != cluster.CodeConflict {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// empty lets a node that is up finish what it answers, and says whether it was this command that drained it: one that a
// person drained stays so.
func (f *fleet) empty(ctx context.Context, p *planItem) (isOurs bool, err error) {
	n := nodeIn(f.snapshotNow(ctx), p.Node)
	if n == nil || n.State == cluster.NodeDown || n.State == cluster.NodeSuspect {
		return false, nil
	}
	f.events.step(p, bootstrap.Event{Host: p.Name, Step: "drain", State: plan.StateRunning, At: time.Now()})
	if n.State == cluster.NodeDraining && p.node.Drained == "" {
		return false, f.awaitEmpty(ctx, p)
	}
	if err := f.drainNode(ctx, p); err != nil {
		return false, err
	}
	if err := f.awaitEmpty(ctx, p); err != nil {
		return false, errors.Join(err, f.fill(ctx, p))
	}
	return true, nil
}

// drainNode has a node take nothing new. That it did so is written down before: where this command is killed, the next one
// undoes it.
func (f *fleet) drainNode(ctx context.Context, p *planItem) error {
	if err := setDrained(f.roster, p.Node, f.cmd.CommandPath()); err != nil {
		return err
	}
	return f.client.Drain(ctx, p.Node, true)
}

// fill undoes empty, also when the command is to end.
func (f *fleet) fill(ctx context.Context, p *planItem) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	return undrain(ctx, f.client, f.roster, p.Node)
}

// awaitEmpty waits until nothing runs on a node.
func (f *fleet) awaitEmpty(ctx context.Context, p *planItem) error {
	limit, cancel := context.WithTimeout(ctx, f.drain)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := f.client.Snapshot(limit)
		if err != nil && limit.Err() == nil {
			return err
		}
		busy := workOn(s, p.Node)
		if err == nil && busy == 0 {
			return nil
		}
		f.events.step(p, bootstrap.Event{Host: p.Name, Step: "drain", State: plan.StateRunning, Detail: fmt.Sprintf("%d open", busy), At: time.Now()})
		select {
		case <-limit.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return cluster.Errorf(cluster.CodeTimeout, "it still answers %d requests after %s", busy, f.drain).WithHint("--drain-timeout lets it take longer")
		case <-tick.C:
		}
	}
}

// workOn counts what a node answers; an empty id means all nodes, and what waits for one.
func workOn(s *cluster.Snapshot, node cluster.NodeID) int {
	if s == nil {
		return 0
	}
	n := 0
	for _, r := range s.Requests {
		if node == "" || r.Node == node {
			n++
		}
	}
	if x := nodeIn(s, node); x != nil {
		running := 0
		for _, r := range x.Replicas {
			running += r.Running + r.Waiting
		}
		n = max(n, running)
	}
	return n
}
