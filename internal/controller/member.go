package controller

import (
	"fmt"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const waitsForBeat = "waiting for its first heartbeat"

// member is one node. The registry's lock guards it.
type member struct {
	node  cluster.Node // replaced, never changed in place: snapshots share its slices
	boot  string       // of the agent's process
	key   string       // public key of its connection
	heard time.Time
	// proven is the state that its last heartbeat put it in, joining before the first.
	proven cluster.NodeState
	// away is set when its connection closed: only a hello brings it back, since heartbeats of before may still come.
	away bool
	// loseAt is when a node that is away is given up; zero while it is not.
	loseAt time.Time
	// streams are told when the agent's process is gone.
	streams map[*lifeline]struct{}
	rival   rival
	// admitted is set for one that was in the roster.
	admitted bool
}

// rival is another process that says that it is the same node. It is the next one of that node, if the end of the one
// that is known was not noticed yet, or a twin: then what the node is asked reaches both, and no answer can be trusted.
type rival struct {
	since, heard time.Time
	isTwin       bool
}

// isAlive says whether the process that m stands for must be taken to go on.
func (m *member) isAlive(now time.Time) bool { return !m.away && now.Sub(m.heard) < aliveFor }

// contest notes a word of another process that says that it is the same node.
func (m *member) contest(now time.Time) {
	if now.Sub(m.rival.heard) >= suspectAfter {
		m.rival.since = now
	}
	m.rival.heard = now
}

// hasTwin says whether another process goes on speaking as this node, though its own did not end. It is asked when that
// one spoke.
func (m *member) hasTwin(now time.Time) bool {
	return now.Sub(m.rival.heard) < suspectAfter && m.rival.heard.Sub(m.rival.since) >= twinAfter
}

// beat takes in a heartbeat of the process that m stands for.
func (m *member) beat(now time.Time, b beat) []cluster.Event {
	m.hear(now)
	m.node.LastSeen = now
	m.node.Load, m.node.Replicas, m.node.PlannedBytes = b.load, b.replicas, b.plannedBytes
	if m.proven = cluster.NodeReady; b.draining {
		m.proven = cluster.NodeDraining
	}
	if m.rival.isTwin = m.hasTwin(now); m.rival.isTwin {
		events := m.become(now, cluster.NodeDown, "two agents run as this node; stop one of them")
		if len(events) > 0 {
			m.lose(fmt.Sprintf("node %s is given up: %s", nodeName(&m.node), m.node.Reason))
		}
		return events
	}
	return m.become(now, m.proven, "")
}

// become changes the state, and returns what is to be told of that.
func (m *member) become(now time.Time, state cluster.NodeState, reason string) []cluster.Event {
	if m.node.State == state && m.node.Reason == reason {
		return nil
	}
	m.node.State, m.node.Reason = state, reason
	if state == cluster.NodeDown { // what is in its memory nobody knows any more
		m.node.Load, m.node.Replicas, m.node.PlannedBytes = cluster.Load{}, nil, 0
	}
	return []cluster.Event{stateEvent(now, &m.node)}
}

// leave notes that the connection is gone. The node may be back within the time of linger.
func (m *member) leave(now time.Time, linger time.Duration, reason string) []cluster.Event {
	if m.away || m.node.State == cluster.NodeDown {
		return nil
	}
	m.away, m.loseAt = true, now.Add(linger)
	return m.become(now, cluster.NodeSuspect, reason)
}

// age applies the passing of time.
func (m *member) age(now time.Time) []cluster.Event {
	silent := now.Sub(m.heard)
	switch {
	case m.node.State == cluster.NodeDown:
		return nil
	case m.away && now.Before(m.loseAt):
		return nil
	case m.away:
		m.lose(fmt.Sprintf("node %s is gone: %s", nodeName(&m.node), m.node.Reason))
		return m.become(now, cluster.NodeDown, m.node.Reason)
	case silent >= downAfter:
		events := m.become(now, cluster.NodeDown, fmt.Sprintf("no heartbeat for %s", downAfter))
		m.lose(fmt.Sprintf("node %s is gone: %s", nodeName(&m.node), m.node.Reason))
		return events
	case silent >= suspectAfter:
		return m.become(now, cluster.NodeSuspect, "its heartbeats are late")
	}
	return nil
}

// due is when the passing of time next changes something for m; zero if never.
func (m *member) due() time.Time {
	switch {
	case m.node.State == cluster.NodeDown:
		return time.Time{}
	case m.away:
		return m.loseAt
	case m.node.State == cluster.NodeSuspect:
		return m.heard.Add(downAfter)
	default:
		return m.heard.Add(suspectAfter)
	}
}

// hear notes a sign of life of the process that m stands for.
func (m *member) hear(now time.Time) { m.heard, m.away, m.loseAt = now, false, time.Time{} }

// revive makes a node that was late or gone what it was before.
func (m *member) revive(now time.Time) []cluster.Event {
	lost := m.node.State == cluster.NodeDown || m.node.State == cluster.NodeSuspect
	switch {
	case !lost || m.rival.isTwin:
		return nil
	case m.proven == cluster.NodeJoining:
		return m.become(now, m.proven, waitsForBeat)
	}
	return m.become(now, m.proven, "")
}

// lose ends the streams of m.
func (m *member) lose(message string) {
	cause := &cluster.Error{Code: cluster.CodeNodeLost, Message: message, Hint: "send the request again", Node: m.node.ID}
	for l := range m.streams {
		l.cancel(cause)
	}
	clear(m.streams)
}

func stateEvent(at time.Time, n *cluster.Node) cluster.Event {
	message := fmt.Sprintf("node %s is %s", nodeName(n), n.State)
	if n.Reason != "" {
		message += ": " + n.Reason
	}
	return cluster.Event{At: at, Kind: cluster.EventNodeState, Node: n.ID, Message: message}
}

// noNode is the error of a node that nobody knows.
func noNode(id cluster.NodeID) *cluster.Error {
	return cluster.Errorf(cluster.CodeNoNode, "no node %s", id).WithHint("`mlxctl nodes` lists them")
}

// nodeName is what people call a node.
func nodeName(n *cluster.Node) string {
	if n.Name != "" {
		return n.Name
	}
	return string(n.ID)
}
