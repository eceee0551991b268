package cmd

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// byBegun stands where a node would say how it was admitted: an installation was begun on that host, and it is no node.
const byBegun = "begun"

// begunFile lists the hosts on which an installation was begun and that are no nodes: what it left there is to be found again.
const begunFile = "begun.json"

func begunList(home string) *roster.Roster { return roster.Open(filepath.Join(home, begunFile)) }

// begunEntry is a host as it is in that list. Its id is the way to it: who it is going to be is not known yet.
func begunEntry(h *bootstrap.Host) roster.Node {
	n := newNode("", "", h)
	n.ID, n.By, n.Addresses = cluster.NodeID(fmt.Sprintf("%s@%s:%d", h.User, h.Host, h.Port)), byBegun, h.Addresses
	n.Home = h.Facts.Home
	return n
}

// begin writes down that something is going to be copied to a host that is no node. The result takes that back where nothing
// was copied, or the host is a node now.
func (u *upRun) begin(p *planItem) (settle func(isNode bool) error, err error) {
	if p.node != nil {
		return func(bool) error { return nil }, nil // the list of nodes has it
	}
	list := begunList(u.cfg.Dirs.Home)
	before, err := list.List()
	if err != nil {
		return nil, err
	}
	entry := begunEntry(p.host)
	isNew := !slices.ContainsFunc(before, func(n roster.Node) bool { return n.ID == entry.ID })
	if err := list.Put(entry); err != nil {
		return nil, fmt.Errorf("write down that an installation begins: %w", err)
	}
	return func(isNode bool) error {
		if isNode || (isNew && !p.isCopied) {
			return list.Remove(entry.ID)
		}
		return nil
	}, nil
}

// copied takes note of a step of the host.
func (p *planItem) copied(e bootstrap.Event) { p.isCopied = p.isCopied || e.Step == plan.StepCopy }

// begunHosts are the hosts on which an installation was begun, without those that are nodes by now.
func begunHosts(home string, nodes []roster.Node) ([]roster.Node, error) {
	begun, err := begunList(home).List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(begun, func(b roster.Node) bool {
		return slices.ContainsFunc(nodes, func(n roster.Node) bool {
			return n.Host == b.Host && cmp.Or(n.Port, sshPort) == cmp.Or(b.Port, sshPort) && n.HostKey == b.HostKey && n.User == b.User
		})
	}), nil
}

const sshPort = 22
