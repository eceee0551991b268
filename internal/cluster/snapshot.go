package cluster

import "time"

// Snapshot is an immutable view of the cluster at one instant: the scheduler decides on it, `top`, `ps`, `nodes`,
// JSON output and metrics show it. Nodes are ordered by name, then id. Do not change one after it was published.
type Snapshot struct {
	At         time.Time  `json:"at"`
	Cluster    string     `json:"cluster"`
	Controller Controller `json:"controller"`
	Nodes      []Node     `json:"nodes"`
	// Requests are those in the controller now, oldest first.
	Requests []RequestStatus `json:"requests"`
	Totals   Totals          `json:"totals"`
}

// Controller describes the process that made a Snapshot.
type Controller struct {
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	HTTP      string    `json:"http"` // base URL of the gateway
}

// RequestStatus is one request in the controller.
type RequestStatus struct {
	ID      RequestID    `json:"id"`
	Model   string       `json:"model"`
	Node    NodeID       `json:"node,omitempty"` // empty while queued
	State   RequestState `json:"state"`
	Attempt int          `json:"attempt"`
	Tokens  int          `json:"tokens"` // generated so far
	Since   time.Time    `json:"since"`
	// FirstToken is when the first token came; nil before.
	FirstToken *time.Time `json:"first_token,omitempty"`
}

// RequestState is where a request stands.
type RequestState string

// States of a request in the controller.
const (
	RequestQueued    RequestState = "queued"
	RequestLoading   RequestState = "loading"
	RequestPrefill   RequestState = "prefill"
	RequestStreaming RequestState = "streaming"
	RequestShared    RequestState = "shared" // reads the answer that an identical request has made or is making
)

// Totals only grow while a controller lives, but for the rate.
type Totals struct {
	Requests  int64 `json:"requests"`
	Finished  int64 `json:"finished"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
	Tokens    int64 `json:"tokens"` // generated
	// TokensPerSecond is the rate over the last second, all requests together.
	TokensPerSecond float64 `json:"tokens_per_second"`
}

// Outstanding counts the requests that the controller has sent to a node and that have not ended.
func (s *Snapshot) Outstanding(id NodeID) int {
	n := 0
	for i := range s.Requests {
		if s.Requests[i].Node == id {
			n++
		}
	}
	return n
}

// Place is one model on one node.
type Place struct {
	Node  NodeID
	Model string // Model.Name
}

// Work counts the requests that the controller has sent to a node and that have not ended, by node and model. A replica's
// own Running and Waiting are as old as its node's last heartbeat; this is as old as the Snapshot.
func (s *Snapshot) Work() map[Place]int {
	out := make(map[Place]int)
	for i := range s.Requests {
		if r := &s.Requests[i]; r.Node != "" {
			out[Place{r.Node, r.Model}]++
		}
	}
	return out
}

// Placement is the scheduler's answer: a node, and why not the others.
type Placement struct {
	Node    NodeID    `json:"node"`
	Model   Model     `json:"model"`
	Cold    bool      `json:"cold"` // the model has to be loaded there first
	Terms   []Term    `json:"terms"`
	Refused []Refusal `json:"refused,omitempty"`
}

// Term is one part of the chosen node's cost; a smaller sum wins.
type Term struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Refusal says why a node was not taken.
type Refusal struct {
	Node   NodeID `json:"node"`
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
}

// Event is something that an operator should see.
type Event struct {
	At      time.Time `json:"at"`
	Kind    EventKind `json:"kind"`
	Node    NodeID    `json:"node,omitempty"`
	Model   string    `json:"model,omitempty"`
	Request RequestID `json:"request,omitempty"`
	Message string    `json:"message"`
}

// EventKind sorts events.
type EventKind string

// Kinds of events.
const (
	EventNodeState    EventKind = "node_state"
	EventReplicaState EventKind = "replica_state"
	EventRequestError EventKind = "request_error"
	EventOperator     EventKind = "operator" // load, unload, drain and the like
)
