package cluster

import (
	"path"
	"strconv"
	"strings"
	"time"
)

// NodeID names a node for its whole life. It is bound to the hardware: a cloned disk gets a new one.
type NodeID string

// NodeState says what the controller may ask of a node.
type NodeState string

// States of a node. Only a ready node is given new requests.
const (
	NodeJoining  NodeState = "joining"  // said hello, not yet proven
	NodeReady    NodeState = "ready"    // serving
	NodeDraining NodeState = "draining" // finishes what it has, takes nothing new
	NodeSuspect  NodeState = "suspect"  // heartbeats are late; no new work
	NodeDown     NodeState = "down"     // gone; kept in the list until it is removed
)

// Hardware is what a machine is made of. A zero field was not readable there; nothing is ever guessed.
type Hardware struct {
	Chip        string `json:"chip,omitempty"`  // "Apple M4 Pro", or the CPU's own name
	Model       string `json:"model,omitempty"` // "Mac16,11"
	OS          string `json:"os"`              // "darwin", "linux"
	OSVersion   string `json:"os_version,omitempty"`
	Arch        string `json:"arch"`
	CPUs        int    `json:"cpus,omitempty"`
	GPUCores    int    `json:"gpu_cores,omitempty"`
	MemoryBytes int64  `json:"memory_bytes,omitempty"`
	// GPULimitBytes is what an operator lets the GPU wire (iogpu.wired_limit_mb); 0 is the system's own choice.
	GPULimitBytes int64 `json:"gpu_limit_bytes,omitempty"`
}

// Load is one reading of a machine. A nil pointer means that the machine does not offer that reading.
type Load struct {
	MemoryFreeBytes *int64   `json:"memory_free_bytes,omitempty"`
	MemoryPressure  *int     `json:"memory_pressure,omitempty"` // 1 normal, 2 warning, 4 critical (macOS levels)
	CPUPercent      *float64 `json:"cpu_percent,omitempty"`     // of all cores together, 0 to 100
	GPUPercent      *float64 `json:"gpu_percent,omitempty"`
	GPUMemoryBytes  *int64   `json:"gpu_memory_bytes,omitempty"` // in use by everybody, of the memory above
	PowerWatts      *float64 `json:"power_watts,omitempty"`      // of the whole machine
	Thermal         *string  `json:"thermal,omitempty"`          // nominal, fair, serious, critical
}

// Node is a machine that runs our agent.
type Node struct {
	ID       NodeID    `json:"id"`
	Name     string    `json:"name"`
	State    NodeState `json:"state"`
	Drained  bool      `json:"drained,omitempty"` // draining, and nothing is left to finish
	Reason   string    `json:"reason,omitempty"`  // why it is not ready, in one line
	Version  string    `json:"version"`           // of the agent
	Hardware Hardware  `json:"hardware"`
	Load     Load      `json:"load"`
	// BudgetBytes is what the agent lets models use in all; PlannedBytes is how much of it its replicas have claimed.
	BudgetBytes  int64      `json:"budget_bytes"`
	PlannedBytes int64      `json:"planned_bytes"`
	Models       []Model    `json:"models"`   // on its disk
	Replicas     []Replica  `json:"replicas"` // in its memory
	LastSeen     time.Time  `json:"last_seen"`
	StartedAt    *time.Time `json:"started_at,omitempty"` // of the agent
}

// Replica is one loaded copy of a Model on a Node.
type Replica struct {
	Model         string       `json:"model"` // Model.Name
	Digest        string       `json:"digest"`
	State         ReplicaState `json:"state"`
	Reason        string       `json:"reason,omitempty"` // of failed and quarantined
	PlannedBytes  int64        `json:"planned_bytes"`    // claimed from the node's budget
	ResidentBytes int64        `json:"resident_bytes"`   // measured in the worker; 0 before
	Context       int          `json:"context"`          // tokens
	Slots         int          `json:"slots"`            // requests it runs at once
	Running       int          `json:"running"`
	Waiting       int          `json:"waiting"`
	Counters      Counters     `json:"counters"`
	// TokensPerSecond is the decode rate of all rows together over the last second.
	TokensPerSecond float64 `json:"tokens_per_second"`
	// Prefixes are digests of what its prefix store holds (PrefixChain), most recently used first.
	Prefixes []string `json:"prefixes,omitempty"`
	// Curve is how fast it computes: measured, before that what its chip makes one expect; nil where neither is known.
	Curve     *Curve `json:"curve,omitempty"`
	WorkerPID int    `json:"worker_pid,omitempty"`
	Restarts  int    `json:"restarts"`
	Pinned    bool   `json:"pinned,omitempty"`
	// Adapter is the folder of its LoRA adapter, Draft the name or folder of its draft model, KVBits the quantisation of
	// its keys and values, as the node is configured; empty and 0 are none.
	Adapter   string     `json:"adapter,omitempty"`
	Draft     string     `json:"draft,omitempty"`
	KVBits    int        `json:"kv_bits,omitempty"`
	IdleSince *time.Time `json:"idle_since,omitempty"`
	LoadedAt  *time.Time `json:"loaded_at,omitempty"`
}

// Memory is what a replica takes: what its worker was measured to hold, and before that what is claimed for it, which is
// what false says.
func (r *Replica) Memory() (bytes int64, measured bool) {
	if r.ResidentBytes > 0 {
		return r.ResidentBytes, true
	}
	return r.PlannedBytes, false
}

// With says in one word what a replica runs with beside its model: adapter=, draft= and kv_bits=, with a comma between
// them; empty for nothing.
func (r *Replica) With() string {
	var parts []string
	if r.Adapter != "" {
		parts = append(parts, "adapter="+path.Base(r.Adapter))
	}
	if r.Draft != "" {
		parts = append(parts, "draft="+path.Base(r.Draft))
	}
	if r.KVBits > 0 {
		parts = append(parts, "kv_bits="+strconv.Itoa(r.KVBits))
	}
	return strings.Join(parts, ",")
}

// ReplicaState says whether a replica can answer.
type ReplicaState string

// States of a replica. Ready means that it has produced a token.
const (
	ReplicaLoading     ReplicaState = "loading"
	ReplicaReady       ReplicaState = "ready"
	ReplicaEvicting    ReplicaState = "evicting"
	ReplicaFailed      ReplicaState = "failed"      // its worker died; a restart is due
	ReplicaQuarantined ReplicaState = "quarantined" // died too often; only an operator brings it back
)

// Counters only grow while a worker lives. They are the worker's own account of its work.
type Counters struct {
	Steps           int64 `json:"steps"`
	PromptTokens    int64 `json:"prompt_tokens"`
	CachedTokens    int64 `json:"cached_tokens"`
	GeneratedTokens int64 `json:"generated_tokens"`
	Finished        int64 `json:"finished"`
	Cancelled       int64 `json:"cancelled"`
	Failed          int64 `json:"failed"`
}
