package cmd

import (
	"context"
	"slices"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// byNobody stands where a node would say how it was admitted: it has a key that was signed, and is not in the list.
const byNobody = "nobody"

// unlisted are the nodes that are up and are not in the list, without that of this machine.
func (f *fleet) unlisted(ctx context.Context) ([]roster.Node, error) {
	s := f.snapshotNow(ctx)
	if s == nil {
		return nil, nil
	}
	listed, err := f.roster.List()
	if err != nil {
		return nil, err
	}
	var out []roster.Node
	for _, n := range s.Nodes {
		isListed := slices.ContainsFunc(listed, func(l roster.Node) bool { return l.ID == n.ID })
		if !isListed && n.State != cluster.NodeDown {
			out = append(out, roster.Node{ID: n.ID, Name: n.Name, By: byNobody})
		}
	}
	return otherMachines(out, f.cfg.Dirs.Home), nil
}

// keyNow is the key with which a node lives; empty for one that is down.
func (f *fleet) keyNow(ctx context.Context, authority *trust.Authority, node cluster.NodeID) (string, error) {
	n := nodeIn(f.snapshotNow(ctx), node)
	if n == nil || n.State == cluster.NodeDown {
		return "", nil
	}
	return f.lanParts().liveKey(ctx, f.cfg.Dirs.Home, authority, node)
}

// liveKey asks a node for the token that it has, which says whose key was signed: what the node says itself counts for
// nothing.
func (d *deps) liveKey(ctx context.Context, home string, authority *trust.Authority, node cluster.NodeID) (string, error) {
	info, err := d.readInfo(home)
	if err != nil {
		return "", err
	}
	if info == nil {
		return "", notRunning(home)
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	r := &rotation{authority: authority, bus: func() bus.Options { return embeddedBus(authority, info.NATS) }, log: d.log()}
	return r.liveKey(ctx, node)
}

func (r *rotation) liveKey(ctx context.Context, node cluster.NodeID) (string, error) {
	conn, err := r.dial(ctx, r.authority.SignController)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // all was said
	has, err := rejoin(ctx, conn, node, bus.RejoinRequest{})
	if err != nil {
		return "", err
	}
	return r.keyOf(node, has)
}
