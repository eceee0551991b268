// Package api holds the messages between the controller and its clients that are not words of the cluster itself.
package api

import (
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Verbs of the controller, as they stand in subjects. Streams are Generate, Aside, Watch, Load and Logs; the others have
// one reply.
const (
	Generate = "generate" // cluster.Request → cluster.Chunk…
	Aside    = "aside"    // cluster.Aside → cluster.AsideReply…, pieces of one
	Watch    = "watch"    // nothing → WatchUpdate…
	Snapshot = "snapshot" // nothing → cluster.Snapshot
	Models   = "models"   // nothing → ModelsReply
	Load     = "load"     // LoadRequest → cluster.Chunk… with Progress and Node
	Unload   = "unload"   // UnloadRequest → UnloadReply
	Logs     = "logs"     // LogsRequest → LogLine…
	Info     = "info"     // nothing → InfoReply
	Drain    = "drain"    // DrainRequest → reply without body
	Forget   = "forget"   // ForgetRequest → reply without body
)

// WatchUpdate is one piece of a watch: the newest state, and what happened since the one before.
type WatchUpdate struct {
	Snapshot *cluster.Snapshot `json:"snapshot,omitempty"`
	Events   []cluster.Event   `json:"events,omitempty"`
	// Dropped counts the events that readers missed since the controller started, all readers together.
	Dropped int64 `json:"dropped,omitempty"`
}

// ModelsReply is the catalogue of all nodes.
type ModelsReply struct {
	Models []cluster.Model `json:"models"`
}

// LoadRequest asks for a model in memory; an empty Node lets the scheduler choose.
type LoadRequest struct {
	Model  string         `json:"model"`
	Node   cluster.NodeID `json:"node,omitempty"`
	Pinned bool           `json:"pinned,omitempty"`
}

// UnloadRequest asks for a model out of memory; an empty Node means all that have it there.
type UnloadRequest struct {
	Model string         `json:"model"`
	Node  cluster.NodeID `json:"node,omitempty"`
	Force bool           `json:"force,omitempty"`
}

// UnloadReply names the nodes that had it.
type UnloadReply struct {
	Nodes []cluster.NodeID `json:"nodes"`
}

// DrainRequest has a node take nothing new, or again take what comes. What runs there is finished.
type DrainRequest struct {
	Node cluster.NodeID `json:"node"`
	On   bool           `json:"on"`
}

// ForgetRequest takes a node that is down out of the list.
type ForgetRequest struct {
	Node cluster.NodeID `json:"node"`
}

// LogsRequest asks for lines of a log: of a node, or of the controller where Node is empty. With Request it asks for what
// the controller knows of that request instead, a line for each of its answers: of those that are there, and of the last
// 1,024 that ended. A request that it does not know gets no line; the other fields are ignored then.
type LogsRequest struct {
	Request cluster.RequestID `json:"request,omitempty"`

	Node   cluster.NodeID `json:"node,omitempty"`
	Source string         `json:"source,omitempty"` // of a node: "agent", or "worker-" and a model
	Tail   int            `json:"tail,omitempty"`   // the last lines; zero means all
	Follow bool           `json:"follow,omitempty"`
}

// InfoReply says which controller this is.
type InfoReply struct {
	Cluster   string    `json:"cluster"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	HTTP      string    `json:"http"`
}
