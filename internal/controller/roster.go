package controller

import (
	"slices"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// unheard is why a node is down of which nothing was heard.
const unheard = "not heard of since the controller started"

// Admitted is a node that the cluster has admitted, whether it was ever heard of or not.
type Admitted struct {
	ID      cluster.NodeID
	Name    string
	Version string
}

// SetRoster says which nodes the cluster has admitted. Those that were not heard of are in the Snapshot all the same, as
// down; those that are not admitted any more disappear when they are down.
func (c *Controller) SetRoster(nodes []Admitted) {
	if c.registry.admit(nodes) {
		c.placer.retry()
	}
}

// Connected says whether a node has a connection, as far as the controller knows: one that is late has.
func (c *Controller) Connected(id cluster.NodeID) bool {
	r := c.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[id]
	return m != nil && !m.away && m.node.State != cluster.NodeDown
}

// admit says whether anything changed.
func (r *registry) admit(nodes []Admitted) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	admitted := make(map[cluster.NodeID]bool, len(nodes))
	for _, a := range nodes {
		if a.ID == "" {
			continue
		}
		admitted[a.ID] = true
		m := r.members[a.ID]
		if m == nil {
			m = &member{streams: make(map[*lifeline]struct{}), node: cluster.Node{
				ID: a.ID, Name: a.Name, Version: a.Version, State: cluster.NodeDown, Reason: unheard, Models: []cluster.Model{},
			}}
			r.members[a.ID] = m
			r.order = append(r.order, m)
			changed = true
		}
		m.admitted = true
	}
	for id, m := range r.members {
		if m.admitted && !admitted[id] && m.node.State == cluster.NodeDown {
			r.remove(m)
			changed = true
		}
	}
	if changed {
		r.sort()
		r.touch(true)
	}
	return changed
}

// forget takes a node that is down out of the list.
func (r *registry) forget(id cluster.NodeID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[id]
	if m == nil {
		return noNode(id)
	}
	if m.node.State != cluster.NodeDown {
		return errorOn(id, cluster.CodeConflict, "node %s is %s: only one that is down can be forgotten", nodeName(&m.node), m.node.State).
			WithHint("`mlxctl rm` takes it out of the cluster")
	}
	r.remove(m)
	r.touch(true)
	return nil
}

// remove is called with mu held, for a node that is down: it has no streams.
func (r *registry) remove(m *member) {
	delete(r.members, m.node.ID)
	delete(r.early, m.node.ID)
	r.order = slices.DeleteFunc(r.order, func(o *member) bool { return o == m })
}

// find returns what is known of a node.
func (r *registry) find(id cluster.NodeID) (cluster.Node, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[id]
	if m == nil {
		return cluster.Node{}, false
	}
	return m.node, true
}
