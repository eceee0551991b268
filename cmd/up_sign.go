package cmd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// pendingPath is the list of nodes whose keys were signed and that are not admitted yet. What is in it after its command
// ended was interrupted: nobody knows who has that key.
func pendingPath(home string) string { return filepath.Join(home, "pending.json") }

// signing is whom this run has signed.
type signing struct {
	mu     sync.Mutex
	signed map[cluster.NodeID]*bootstrap.Host // guarded by mu
}

// sign signs the key of a node, unless the node is another machine: a cloned disk must not be two nodes with one id. The
// token leaves this process after the key was written down as one that is to be admitted or revoked.
func (u *upRun) sign(node cluster.NodeID, key string, h *bootstrap.Host) (string, error) {
	id, own := localIdentity(u.cfg.Dirs.Home)
	if node == id {
		return "", clonedNode(h, node, hostName())
	}
	if key == own {
		return "", keyOfAnother(h, hostName())
	}
	u.signing.mu.Lock()
	defer u.signing.mu.Unlock()
	if other := u.signing.signed[node]; other != nil && other != h {
		return "", clonedNode(h, node, other.Label())
	}
	nodes, err := u.roster.List()
	if err != nil {
		return "", err
	}
	isAdmitted := false
	for i := range nodes {
		n := &nodes[i]
		switch {
		case n.ID != node && n.Key == key:
			return "", keyOfAnother(h, n.Name)
		case n.ID == node && (sighting.AreTwoMachines(n.Hardware, h.Facts.Hardware) || (n.Key != key && !isSameHost(n, h))):
			return "", clonedNode(h, node, n.Name)
		}
		isAdmitted = isAdmitted || n.Key == key
	}
	token, err := u.authority.SignAgent(key, node)
	if err != nil {
		return "", err
	}
	if !isAdmitted {
		if err := roster.Open(pendingPath(u.cfg.Dirs.Home)).Put(newNode(node, key, h)); err != nil {
			return "", err
		}
	}
	if u.signing.signed == nil {
		u.signing.signed = map[cluster.NodeID]*bootstrap.Host{}
	}
	u.signing.signed[node] = h
	return token, nil
}

// newNode is a host as it is written down first.
func newNode(node cluster.NodeID, key string, h *bootstrap.Host) roster.Node {
	return roster.Node{
		ID: node, Key: key, Name: h.Label(), Host: h.Host, Port: h.Port, User: h.User, HostKey: h.Key.Fingerprint, Hardware: h.Facts.Hardware,
		By: "ssh", AddedAt: time.Now().UTC().Truncate(time.Second),
	}
}

// isSameHost says that a node of the list is this host, as far as SSH proves that. A copy of the disk has the host key, but
// another number.
func isSameHost(n *roster.Node, h *bootstrap.Host) bool {
	return n.HostKey != "" && n.HostKey == h.Key.Fingerprint && !sighting.AreTwoMachines(n.Hardware, h.Facts.Hardware)
}

func clonedNode(h *bootstrap.Host, node cluster.NodeID, other string) error {
	return cluster.Errorf(cluster.CodeConflict, "%s says that it is node %s, which is %s: its disk is a clone", printer.Clean(h.Label()), printer.Clean(string(node)), printer.Clean(other)).
		WithHint("remove ~/.mlxctl on %s, then `mlxctl up` again; or `mlxctl nodes rm %s` if that Mac is no more", printer.Clean(h.Label()), printer.Clean(other))
}

func keyOfAnother(h *bootstrap.Host, other string) error {
	return cluster.Errorf(cluster.CodeConflict, "%s shows the key of %s", printer.Clean(h.Label()), printer.Clean(other)).
		WithHint("remove ~/.mlxctl on %s, then `mlxctl up` again", printer.Clean(h.Label()))
}

// settleKey has a key that was signed be worth something only if the list of nodes has it.
func settleKey(home string, list admitted, authority *trust.Authority, node cluster.NodeID, key string) error {
	nodes, err := list.List()
	if err != nil {
		return err
	}
	isAdmitted := false
	for _, n := range nodes {
		isAdmitted = isAdmitted || n.Key == key
	}
	if !isAdmitted {
		if _, _, err := authority.Revoke(key); err != nil {
			return fmt.Errorf("revoke the key of node %s, which was not admitted: %w", printer.Clean(string(node)), err)
		}
	}
	return roster.Open(pendingPath(home)).Remove(node)
}

// settlePending ends what commands that were interrupted have begun. The lock of the nodes is held.
func settlePending(home string, list admitted, authority *trust.Authority) error {
	nodes, err := roster.Open(pendingPath(home)).List()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := settleKey(home, list, authority, n.ID, n.Key); err != nil {
			return err
		}
	}
	return nil
}

// localIdentity is the node of this machine and its public key, as its agent made them; empty before it ran.
func localIdentity(home string) (id cluster.NodeID, key string) {
	data, err := os.ReadFile(filepath.Join(home, "agent", "node.json"))
	if err != nil {
		return "", ""
	}
	var identity struct {
		ID  cluster.NodeID `json:"id"`
		Key string         `json:"public_key"`
	}
	if json.Unmarshal(data, &identity) != nil {
		return "", ""
	}
	return identity.ID, identity.Key
}
