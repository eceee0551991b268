package controller

import (
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/flood"
)

// What a node may tell unasked: two heartbeats a second and some news are usual. What is above is not read, so that nobody
// else's words are lost in it.
const (
	talkBurst  = 500
	talkRate   = 100 // a second
	mostTalked = 4096
)

// talk bounds what each node tells, and what the log says of it. The zero value is ready.
type talk struct {
	said flood.Complaints

	mu    sync.Mutex
	nodes map[cluster.NodeID]*allowance // guarded by mu
}

type allowance struct {
	left float64
	at   time.Time
}

// allows takes one message from what a node may tell.
func (t *talk) allows(node cluster.NodeID, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nodes == nil {
		t.nodes = make(map[cluster.NodeID]*allowance)
	}
	a := t.nodes[node]
	if a == nil && len(t.nodes) >= mostTalked {
		for id, old := range t.nodes {
			if now.Sub(old.at) > talkBurst/talkRate*time.Second {
				delete(t.nodes, id) // its allowance is whole again
			}
		}
	}
	if a == nil && len(t.nodes) >= mostTalked {
		node = "" // the rest share one
		a = t.nodes[node]
	}
	if a == nil {
		a = &allowance{left: talkBurst, at: now}
		t.nodes[node] = a
	}
	a.left = min(talkBurst, a.left+now.Sub(a.at).Seconds()*talkRate)
	a.at = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// heeds says whether a message of a node is to be read.
func (c *Controller) heeds(node cluster.NodeID) bool {
	if c.talk.allows(node, c.now()) {
		return true
	}
	if before, ok := c.talk.said.Say(string(node)+" much", c.now()); ok {
		c.o.Log.Warn("node sends too much; some of it is not read", "node", node, "before", before)
	}
	return false
}

// unreadable logs that something of a node makes no sense: a line a second, however much comes.
func (c *Controller) unreadable(node cluster.NodeID, what string, err error) {
	if before, ok := c.talk.said.Say(string(node)+" "+what, c.now()); ok {
		c.o.Log.Warn("could not read what a node told", "node", node, "what", what, "before", before, "err", err)
	}
}
