package bus

import "github.com/mlxctl/mlxctl/internal/cluster"

// Hello is what an agent says of itself when it connects, reconnects, is asked to, or changed. It goes to
// EventSubject(node, EventHello).
type Hello struct {
	Node cluster.Node `json:"node"`
	// Boot is chosen at random by the agent's process: another one means that the process started again.
	Boot string `json:"boot"`
	// Key is the public key of the agent's connection, as Conn.PublicKey gives it and Server.OnDisconnect names it.
	Key string `json:"key,omitempty"`
}

// Heartbeat is what an agent sends twice a second. It goes to HeartbeatSubject(node).
type Heartbeat struct {
	Node         cluster.NodeID    `json:"node"`
	Boot         string            `json:"boot"` // as in Hello
	Seq          uint64            `json:"seq"`  // counts from 1 in one process
	Load         cluster.Load      `json:"load"`
	Replicas     []cluster.Replica `json:"replicas"`
	PlannedBytes int64             `json:"planned_bytes"`
	Draining     bool              `json:"draining,omitempty"`
}

// InferRequest has a node answer a request: a stream of cluster.Chunk.
type InferRequest struct {
	Request cluster.Request   `json:"request"`
	Model   cluster.Model     `json:"model"`
	Attempt cluster.AttemptID `json:"attempt"`
}

// AsideRequest has a node ask a model for something that is no answer: a stream of pieces of one cluster.AsideReply.
type AsideRequest struct {
	Aside cluster.Aside `json:"aside"`
	Model cluster.Model `json:"model"`
}

// LoadRequest has a node bring a model into memory: a stream of cluster.Chunk that have Progress only.
type LoadRequest struct {
	Model  string `json:"model"`
	Pinned bool   `json:"pinned,omitempty"`
}

// UnloadRequest has a node take a model out of memory; the reply has no body.
type UnloadRequest struct {
	Model string `json:"model"`
	Force bool   `json:"force,omitempty"`
}

// ResolveRequest asks a node for a model on its disk; the reply is ResolveReply.
type ResolveRequest struct {
	Model string `json:"model"`
}

// ResolveReply describes the model that was asked for.
type ResolveReply struct {
	Model cluster.Model `json:"model"`
}

// DrainRequest has a node take nothing new, or again take what comes; the reply has no body.
type DrainRequest struct {
	On bool `json:"on"`
}

// LogsRequest asks a node for lines of a log: a stream of LogLine.
type LogsRequest struct {
	Source string `json:"source,omitempty"` // "agent", or "worker-" and a model
	Follow bool   `json:"follow,omitempty"`
	Tail   int    `json:"tail,omitempty"` // the last lines; zero means all
}

// LogLine is one line of a log, without its end.
type LogLine struct {
	Text string `json:"text"`
}

// RejoinRequest gives a node other credentials while it serves. Without any field it only asks which it has.
type RejoinRequest struct {
	// NewKey has the node make a key that it will use once that is signed.
	NewKey bool `json:"new_key,omitempty"`
	// JWT is a token for the node's key, or for the one that it was asked to make. It counts from the next connect.
	JWT string `json:"jwt,omitempty"`
}

// RejoinReply says which keys a node has; all are public.
type RejoinReply struct {
	JWT  string `json:"jwt"`  // in its credentials, for the next connect
	Live string `json:"live"` // key of its connection
	// Next is a key that it made and has no token for; empty if there is none. Proof is NextKeyClaim, signed with it.
	Next  string `json:"next,omitempty"`
	Proof []byte `json:"proof,omitempty"`
}

// NextKeyClaim is what a node signs with a key that is to be its own: nobody can claim a key of somebody else.
func NextKeyClaim(node cluster.NodeID, key string) []byte {
	return []byte("mlxctl key " + string(node) + " " + key)
}
