package cmd

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// formerTimeout bounds how long the agent that a host ran under an earlier id may take to be down.
const formerTimeout = 15 * time.Second

// isFormer says that an entry of the list is what the host of a node was before it had its id: they show one host key, which
// SSH proves, on one machine.
func isFormer(old, n *roster.Node) bool {
	if old.ID == n.ID || old.By == "local" || old.HostKey == "" || old.HostKey != n.HostKey || sighting.AreTwoMachines(old.Hardware, n.Hardware) {
		return false
	}
	isOneNumber := old.Hardware != "" && old.Hardware == n.Hardware
	return isOneNumber || (old.Host == n.Host && old.Port == n.Port)
}

// replaceFormer takes what the host of a node was before out of the list, and throws out the key of that. One that is up is
// another machine after all; it may take patience to be down.
func (u *upRun) replaceFormer(ctx context.Context, n roster.Node, patience time.Duration) ([]cluster.NodeID, error) {
	nodes, err := u.roster.List()
	if err != nil {
		return nil, err
	}
	var replaced []cluster.NodeID
	for i := range nodes {
		old := &nodes[i]
		if !isFormer(old, &n) || !u.isDown(ctx, old.ID, patience) {
			continue
		}
		if _, _, err := u.authority.Revoke(old.Key); err != nil {
			return replaced, fmt.Errorf("revoke the key that %s had as node %s: %w", n.Name, old.ID, err)
		}
		if err := u.roster.Remove(old.ID); err != nil {
			return replaced, err
		}
		if err := u.local.client.Forget(ctx, old.ID); err != nil && cluster.CodeOf(err) != cluster.CodeNoNode {
			return replaced, err
		}
		replaced = append(replaced, old.ID)
		if err := u.events.warn(fmt.Sprintf("%s is node %s now; as %s it is out of the list, and that key is worth nothing", n.Name, n.ID, old.ID), ""); err != nil {
			return replaced, err
		}
	}
	return replaced, nil
}

// isDown waits until the controller sees a node down, or knows it no more.
func (u *upRun) isDown(ctx context.Context, node cluster.NodeID, patience time.Duration) bool {
	late := time.NewTimer(patience)
	defer late.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := u.local.client.Snapshot(ctx); err == nil {
			if n := nodeIn(s, node); n == nil || n.State == cluster.NodeDown {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-late.C:
			return false
		case <-tick.C:
		}
	}
}

// settleFormer replaces what hosts were before that have been nodes under another id for a while.
func (u *upRun) settleFormer(ctx context.Context, hosts []*bootstrap.Host) error {
	nodes, err := u.roster.List()
	if err != nil {
		return err
	}
	for _, h := range hosts {
		i := slices.IndexFunc(nodes, func(n roster.Node) bool { return n.ID == h.Facts.Owner.Node && isSameHost(&n, h) })
		if i < 0 || h.Key.State != bootstrap.KeyKnown || h.Facts.Owner.IsOfAnother(u.authority.ClusterID()) {
			continue
		}
		replaced, err := u.replaceFormer(ctx, nodes[i], 0)
		if err != nil {
			return err
		}
		if slices.Contains(replaced, h.Node) {
			h.Node = nodes[i].ID
		}
	}
	return nil
}
