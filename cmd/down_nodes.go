package cmd

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// stopOthers stops the agents of all other machines, or removes them. It needs no living cluster, and no readable
// configuration. release frees the lock that is held until the services here are stopped as well.
func (opts *downOptions) stopOthers(ctx context.Context, dirs config.Dirs) (items []*planItem, release func(), err error) {
	free := func() {}
	if opts.local {
		return nil, free, nil
	}
	nodes, err := opts.lanParts().roster(rosterPath(dirs.Home)).List()
	if err != nil {
		return nil, nil, cluster.Errorf(cluster.CodeConflict, "cannot tell which other machines are nodes: %v", err).
			WithHint("`mlxctl down --local` stops the services of this one")
	}
	nodes = otherMachines(nodes, dirs.Home)
	if !opts.purge && opts.isAllStopped(dirs.Home) {
		return nil, free, nil
	}
	if nodes, err = opts.ours(dirs.Home, nodes); err != nil {
		return nil, nil, err
	}
	if len(nodes) == 0 {
		return nil, free, nil
	}
	cfg, err := opts.config(nil)
	if err != nil {
		cfg = &config.Config{Dirs: dirs} // services must not run on for want of a readable file
	}
	if err := opts.cluster.settle(cfg); err != nil {
		return nil, nil, err
	}
	f, closeAll, err := opts.openFleet(ctx, cfg, printer.Options{Format: printer.Table})
	if err != nil {
		return nil, nil, err
	}
	verb := "Stop"
	if opts.purge {
		verb = "Remove everything on"
	}
	if err := f.confirm(ctx, verb+" "+nodeNames(nodes)+" and this machine?"); err != nil {
		closeAll()
		return nil, nil, err
	}
	items = itemsOf(nodes, f.reach(ctx, nodes), whatStop)
	if err := f.askSudo(ctx, items); err != nil {
		closeAll()
		return nil, nil, err
	}
	f.each(ctx, items, func(ctx context.Context, p *planItem) (bool, error) { return opts.stopNode(ctx, f, p) })
	if ctx.Err() != nil {
		closeAll()
		return nil, nil, context.Cause(ctx)
	}
	return items, closeAll, nil
}

// stopNode stops the agent of one other machine, or removes it.
func (opts *downOptions) stopNode(ctx context.Context, f *fleet, p *planItem) (bool, error) {
	action := plan.Stop
	p.done = "stopped"
	if opts.purge {
		action, p.done = plan.Uninstall, "removed"
	}
	if err := unreached(*p.node, p.host); err != nil {
		e := *cluster.AsError(err)
		if opts.purge && opts.force {
			return false, e.WithHint("on that machine: %s", remnants(*p.node))
		}
		return false, &e
	}
	changed, err := f.order(ctx, p, action, opts.purge)
	if err == nil && p.node.By == byBegun {
		err = begunList(f.cfg.Dirs.Home).Remove(p.node.ID)
	}
	return changed, err
}

// ours leaves out the nodes that joined by themselves, and says what becomes of them: they are whose they are to stop. A purge
// also takes the hosts on which an installation was begun.
func (opts *downOptions) ours(home string, nodes []roster.Node) (others []roster.Node, err error) {
	for _, n := range nodes {
		if _, ok := sighting.OfNode(n); ok {
			others = append(others, n)
			continue
		}
		mend := "its agent waits for this cluster until it is stopped there"
		if opts.purge {
			mend = "to remove it there: " + remnants(n)
		}
		if err := opts.say("%s joined without SSH and is left alone; %s", printer.Clean(n.Name), mend); err != nil {
			return nil, err
		}
	}
	if !opts.purge {
		return others, nil
	}
	begun, err := begunHosts(home, nodes)
	if err != nil {
		return nil, err
	}
	return append(others, begun...), nil
}
