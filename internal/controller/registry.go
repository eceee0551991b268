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
	// lingerFor is how long the streams of a node that lost its connection are kept: one that is back by then goes on
	// with them.
	lingerFor = 700 * time.Millisecond
)

// registry keeps what is known about nodes. Its methods take the time of the call, and return what an operator should
// hear of; they are safe for concurrent use.
type registry struct {
	mu      sync.Mutex
	members map[cluster.NodeID]*member // guarded by mu, as is everything below
	order   []*member                  // by name, then id
	view    *cluster.Snapshot          // of the nodes alone; nil when something changed since
	changed chan struct{}              // closed when a node comes, goes or changes state
	version uint64                     // counts changes
	closed  error                      // why there are no streams any more
}

// member is one node.
type member struct {
	node  cluster.Node // replaced, never changed in place: snapshots share its slices
	boot  string       // of the agent's process
	key   string       // public key of its connection
	heard time.Time
	// away is set when its connection closed: only a hello brings it back, since heartbeats of before may still come.
	away bool
	// loseAt is when its streams are given up; zero while there is no need to.
	loseAt time.Time
	// streams are told when the agent's process is gone.
	streams map[*lifeline]struct{}
}

// lifeline ends a stream when the agent that serves it is gone.
type lifeline struct{ cancel context.CancelCauseFunc }

func newRegistry() *registry {
	return &registry{members: make(map[cluster.NodeID]*member), changed: make(chan struct{})}
}

// hello takes in what an agent says of itself when it connects, or when something about it changed.
func (r *registry) hello(now time.Time, n cluster.Node, boot, key string) []cluster.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[n.ID]
	n.LastSeen = now
	if m == nil || m.boot != boot {
		n.State, n.Reason = cluster.NodeJoining, "waiting for its first heartbeat"
		if m == nil {
			m = &member{streams: make(map[*lifeline]struct{})}
			r.members[n.ID] = m
			r.order = append(r.order, m)
		} else {
			m.lose(fmt.Sprintf("the agent on %s started again", nodeName(&m.node)))
		}
		m.node, m.boot, m.key = n, boot, key
		m.hear(now)
		r.sort()
		r.touch(true)
		return []cluster.Event{stateEvent(now, &n)}
	}
	n.State, n.Reason = m.node.State, m.node.Reason
	renamed := n.Name != m.node.Name
	m.node, m.key = n, key
	m.hear(now)
	if renamed {
		r.sort()
	}
	events := m.revive(now)
	r.touch(len(events) > 0)
	return events
}

// beat is one heartbeat, as far as the registry is concerned.
type beat struct {
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
	m := r.members[b.node]
	if m == nil || m.boot != b.boot || m.away {
		return nil, false
	}
	m.hear(now)
	m.node.LastSeen = now
	m.node.Load, m.node.Replicas, m.node.PlannedBytes = b.load, b.replicas, b.plannedBytes
	want := cluster.NodeReady
	if b.draining {
		want = cluster.NodeDraining
	}
	if m.node.State != want {
		m.node.State, m.node.Reason = want, ""
		events = append(events, stateEvent(now, &m.node))
	}
	r.touch(len(events) > 0)
	return events, true
}

// disconnected takes in that the connection with a key was closed.
func (r *registry) disconnected(now time.Time, key string) []cluster.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var events []cluster.Event
	for _, m := range r.members {
		if m.key != key || m.away || m.node.State == cluster.NodeDown {
			continue
		}
		m.away = true
		m.loseAt = now.Add(lingerFor)
		m.node.State, m.node.Reason = cluster.NodeDown, "its connection closed"
		events = append(events, stateEvent(now, &m.node))
	}
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
		state, reason := m.node.State, m.node.Reason
		silent := now.Sub(m.heard)
		switch {
		case state == cluster.NodeDown:
		case silent >= downAfter:
			state, reason = cluster.NodeDown, fmt.Sprintf("no heartbeat for %s", downAfter)
			m.loseAt = now
		case silent >= suspectAfter && state != cluster.NodeSuspect:
			state, reason = cluster.NodeSuspect, "its heartbeats are late"
		}
		if state != m.node.State {
			m.node.State, m.node.Reason = state, reason
			events = append(events, stateEvent(now, &m.node))
		}
		if !m.loseAt.IsZero() && !now.Before(m.loseAt) {
			m.lose(fmt.Sprintf("node %s is gone: %s", nodeName(&m.node), m.node.Reason))
		}
		next = earliest(next, m.due())
	}
	if len(events) > 0 {
		r.touch(true)
	}
	return events, next
}

// due is when the passing of time next changes something for m; zero if never.
func (m *member) due() time.Time {
	switch {
	case !m.loseAt.IsZero():
		return m.loseAt
	case m.node.State == cluster.NodeDown:
		return time.Time{}
	case m.node.State == cluster.NodeSuspect:
		return m.heard.Add(downAfter)
	default:
		return m.heard.Add(suspectAfter)
	}
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// hear notes a sign of life of the process that m stands for.
func (m *member) hear(now time.Time) { m.heard, m.away, m.loseAt = now, false, time.Time{} }

// revive makes a node that was late or gone ready again.
func (m *member) revive(now time.Time) []cluster.Event {
	if m.node.State != cluster.NodeDown && m.node.State != cluster.NodeSuspect {
		return nil
	}
	m.node.State, m.node.Reason = cluster.NodeReady, ""
	return []cluster.Event{stateEvent(now, &m.node)}
}

// lose ends the streams of m.
func (m *member) lose(message string) {
	m.end(&cluster.Error{Code: cluster.CodeNodeLost, Message: message, Hint: "send the request again", Node: m.node.ID})
}

func (m *member) end(cause error) {
	m.loseAt = time.Time{}
	for l := range m.streams {
		l.cancel(cause)
	}
	clear(m.streams)
}

// loseAll ends all streams, and those that would come.
func (r *registry) loseAll(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = cause
	for _, m := range r.order {
		m.end(cause)
	}
}

// attach has cancel called when the agent on a node is gone; detach undoes it. It fails when it is gone already.
func (r *registry) attach(id cluster.NodeID, cancel context.CancelCauseFunc) (detach func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return nil, r.closed
	}
	m := r.members[id]
	if m == nil || m.node.State == cluster.NodeDown {
		return nil, &cluster.Error{Code: cluster.CodeNodeLost, Message: fmt.Sprintf("node %s is gone", id), Node: id}
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

// news returns a channel that is closed when a node comes, goes or changes state.
func (r *registry) news() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// touch is called after every change; states says whether a node came, went or changed state.
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

func stateEvent(at time.Time, n *cluster.Node) cluster.Event {
	message := fmt.Sprintf("node %s is %s", nodeName(n), n.State)
	if n.Reason != "" {
		message += ": " + n.Reason
	}
	return cluster.Event{At: at, Kind: cluster.EventNodeState, Node: n.ID, Message: message}
}

// nodeName is what people call a node.
func nodeName(n *cluster.Node) string {
	if n.Name != "" {
		return n.Name
	}
	return string(n.ID)
}
