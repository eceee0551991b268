package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Times of the registry, all by when this process heard from a node; clocks of nodes are never compared.
const (
	suspectAfter = 1500 * time.Millisecond
	downAfter    = 5 * time.Second
	// lingerFor is how long, if nothing else is set, the streams of a node that lost its connection are kept: one that is
	// back by then goes on with them.
	lingerFor = 700 * time.Millisecond
	// aliveFor is how long after its last word a process is taken to live on, where nothing says that it ended: more
	// than two heartbeats.
	aliveFor = 1200 * time.Millisecond
	// twinAfter is how long another process has to speak as a node to be no message of an earlier one that was late.
	twinAfter = 600 * time.Millisecond
	// mostEarly bounds the heartbeats that wait for a hello.
	mostEarly = 256
)

// registry keeps what is known about nodes. Its methods take the time of the call, and return what an operator should
// hear of; they are safe for concurrent use.
type registry struct {
	mu      sync.Mutex
	members map[cluster.NodeID]*member // guarded by mu, as is everything below
	order   []*member                  // by name, then id
	view    *cluster.Snapshot          // of the nodes alone; nil when something changed since
	changed chan struct{}              // closed when a node comes, goes, changes state or says hello
	version uint64                     // counts changes
	linger  time.Duration              // as lingerFor
	// early are heartbeats of processes that have not said hello yet: the two come on different ways, and either may
	// come first.
	early map[cluster.NodeID]beat
}

func newRegistry() *registry {
	return &registry{
		members: make(map[cluster.NodeID]*member), changed: make(chan struct{}), early: make(map[cluster.NodeID]beat),
		linger: lingerFor,
	}
}

// hello takes in what an agent says of itself when it connects, or when something about it changed.
func (r *registry) hello(now time.Time, n cluster.Node, boot, key string) []cluster.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[n.ID]
	if m != nil && m.boot != boot && m.isAlive(now) {
		m.contest(now)
		return nil
	}
	n.LastSeen = now
	if m != nil && m.boot == boot {
		n.State, n.Reason = m.node.State, m.node.Reason
		m.node, m.key = n, key
		m.hear(now)
		events := m.revive(now)
		r.sort()
		r.touch(true)
		return events
	}
	n.State, n.Reason = cluster.NodeJoining, waitsForBeat
	if m == nil {
		m = &member{streams: make(map[*lifeline]struct{})}
		r.members[n.ID] = m
		r.order = append(r.order, m)
	} else {
		m.lose(fmt.Sprintf("the agent on %s started again", nodeName(&m.node)))
	}
	m.node, m.boot, m.key, m.proven, m.rival = n, boot, key, cluster.NodeJoining, rival{}
	m.hear(now)
	events := []cluster.Event{stateEvent(now, &n)}
	if b, ok := r.early[n.ID]; ok && b.boot == boot && now.Sub(b.at) < suspectAfter {
		events = append(events, m.beat(now, b)...)
	}
	delete(r.early, n.ID)
	r.sort()
	r.touch(true)
	return events
}

// beat is one heartbeat, as far as the registry is concerned.
type beat struct {
	at           time.Time // when it came; set by heartbeat
	node         cluster.NodeID
	boot         string
	load         cluster.Load
	replicas     []cluster.Replica
	plannedBytes int64
	draining     bool
}

// heartbeat takes in a heartbeat. It is not known when the node has to say hello first.
func (r *registry) heartbeat(now time.Time, b beat) (events []cluster.Event, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.at = now
	m := r.members[b.node]
	switch {
	case m == nil || (m.boot != b.boot && !m.isAlive(now)):
		if _, again := r.early[b.node]; again || len(r.early) < mostEarly {
			r.early[b.node] = b
		}
		return nil, false
	case m.boot != b.boot:
		m.contest(now)
		return nil, true
	case m.away:
		return nil, false
	}
	events = m.beat(now, b)
	r.touch(len(events) > 0)
	return events, true
}

// disconnected takes in that the connection with a key was closed. A node whose key was revoked most likely has another
// one: it is expected back, and has all the time that a silent one has.
func (r *registry) disconnected(now time.Time, key string, isRevoked bool) []cluster.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	linger := r.linger
	if isRevoked {
		linger = max(linger, downAfter)
	}
	var events []cluster.Event
	for _, m := range r.order {
		if m.key != key {
			continue
		}
		if m.away && isRevoked { // a request found nobody there before this was told
			m.loseAt = now.Add(linger)
		}
		events = append(events, m.leave(now, linger, "its connection closed")...)
	}
	if len(events) > 0 {
		r.touch(true)
	}
	return events
}

// absent takes in that nobody listens where a node should.
func (r *registry) absent(now time.Time, id cluster.NodeID) []cluster.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[id]
	if m == nil {
		return nil
	}
	events := m.leave(now, r.linger, "its agent is not connected")
	if len(events) > 0 {
		r.touch(true)
	}
	return events
}

// tick applies the passing of time and returns when it wants to be called again; zero if only news can change anything.
func (r *registry) tick(now time.Time) (events []cluster.Event, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.order {
		events = append(events, m.age(now)...)
		next = earliest(next, m.due())
	}
	if len(events) > 0 {
		r.touch(true)
	}
	return events, next
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// attach has cancel called when the agent on a node is gone; detach undoes it. It fails with CodeNodeLost when it is
// gone already.
func (r *registry) attach(id cluster.NodeID, cancel context.CancelCauseFunc) (detach func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[id]
	if m == nil {
		return nil, noNode(id)
	}
	if m.node.State == cluster.NodeDown {
		return nil, errorOn(id, cluster.CodeNodeLost, "node %s is down: %s", nodeName(&m.node), m.node.Reason)
	}
	l := &lifeline{cancel}
	m.streams[l] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(m.streams, l)
	}, nil
}

// nodes returns the nodes as a Snapshot that has nothing else. It must not be changed.
func (r *registry) nodes() *cluster.Snapshot {
	s, _ := r.nodesAt()
	return s
}

// nodesAt returns the nodes with the number of the last change.
func (r *registry) nodesAt() (*cluster.Snapshot, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.view == nil {
		s := &cluster.Snapshot{Nodes: make([]cluster.Node, len(r.order))}
		for i, m := range r.order {
			s.Nodes[i] = m.node
		}
		r.view = s
	}
	return r.view, r.version
}

// news returns a channel that is closed when a node comes, goes, changes state or says hello.
func (r *registry) news() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// touch is called after every change; states says whether it is of the kind that news tells.
func (r *registry) touch(states bool) {
	r.view = nil
	r.version++
	if states {
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

func (r *registry) sort() {
	slices.SortFunc(r.order, func(a, b *member) int {
		return cmp.Or(cmp.Compare(a.node.Name, b.node.Name), cmp.Compare(a.node.ID, b.node.ID))
	})
}
