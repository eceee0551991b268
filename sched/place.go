package sched

import (
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// DefaultSlots is how many requests a model is given on a node that has not said yet how many it runs at once.
	DefaultSlots = 32
	// leastTokens is the conversation that must have room beside the weights, where the model's context is that long.
	leastTokens = 4096

	// Costs are steps so far apart that a later rule never outweighs an earlier one: no request waits for a model to be
	// loaded where another node has it in memory with a slot free.
	costLoad  = 1e6 // the model has to be read from the disk
	costWait  = 5e5 // somebody is loading it there already
	costEvict = 1e5 // other models have to go first
)

// Live is what the decision needs beside the Snapshot. The zero value reads everything from the Snapshot.
type Live struct {
	// Work is what each node has been given and has not ended; nil means that Snapshot.Requests says it.
	Work map[cluster.NodeID]Work
	// Resolved are models that nodes found when they were asked, though they do not list them: folders, for example.
	Resolved map[cluster.NodeID]cluster.Model
	// Excluded are nodes that this request may not go to, and why: it was refused there already, for example.
	Excluded []cluster.Refusal
}

// Work is what a node has been given.
type Work struct {
	Total  int            // requests of all models
	Models map[string]int // requests by the model's name
	// Full says for a model how many of its requests the node proved able to run at once; it counts only where it is
	// below the slots that the node tells.
	Full map[string]int
}

// Place chooses the node that answers r. It prefers nodes that have the model in memory, then those that are loading
// it, then those that have room for it, and among equals the one with the least work, then the smallest NodeID.
// Placement.Refused names every other node that cannot take the request, in the order of NodeIDs.
//
// When no node can, the error is a *cluster.Error with the code that helps most: CodeBusy if waiting would help, else
// CodeQuarantined, CodeConflict where pinned models hold the memory, CodeNoFit, what an excluded node said, CodeNoNode or CodeNoModel. The Placement then has the
// refusals alone.
func Place(s *cluster.Snapshot, r *cluster.Request, live Live) (cluster.Placement, error) {
	if live.Work == nil {
		live.Work = workOf(s)
	}
	var best candidate
	var refused []cluster.Refusal
	for i := range s.Nodes {
		n := &s.Nodes[i]
		c, refusal := consider(n, r, live)
		if refusal != nil {
			refused = append(refused, *refusal)
			continue
		}
		if best.node == nil || c.less(&best) {
			best = c
		}
	}
	slices.SortFunc(refused, func(a, b cluster.Refusal) int { return strings.Compare(string(a.Node), string(b.Node)) })
	if best.node == nil {
		return cluster.Placement{Refused: refused}, explain(s, r, refused, live)
	}
	return cluster.Placement{
		Node: best.node.ID, Model: best.model, Cold: best.load+best.wait > 0, Terms: best.terms(), Refused: refused,
	}, nil
}

// Need is the memory in bytes that a model takes at least: its weights, and the keys and values of one conversation.
func Need(m cluster.Model) int64 {
	tokens := int64(leastTokens)
	if m.Context > 0 {
		tokens = min(tokens, int64(m.Context))
	}
	return m.WeightBytes + m.KVBytesPerToken*tokens
}

func workOf(s *cluster.Snapshot) map[cluster.NodeID]Work {
	out := make(map[cluster.NodeID]Work, len(s.Nodes))
	for i := range s.Requests {
		r := &s.Requests[i]
		if r.Node == "" {
			continue
		}
		w := out[r.Node]
		if w.Models == nil {
			w.Models = make(map[string]int)
		}
		w.Total++
		w.Models[r.Model]++
		out[r.Node] = w
	}
	return out
}

// candidate is a node that could take the request, and the parts of what that costs.
type candidate struct {
	node                        *cluster.Node
	model                       cluster.Model
	load, wait, evict, requests float64
}

func (c *candidate) cost() float64 { return c.load + c.wait + c.evict + c.requests }

func (c *candidate) less(o *candidate) bool {
	if c.cost() != o.cost() {
		return c.cost() < o.cost()
	}
	return c.node.ID < o.node.ID
}

// terms tells the parts of the cost; zeros are left out, but for the work, which is always told.
func (c *candidate) terms() []cluster.Term {
	var out []cluster.Term
	for _, t := range []cluster.Term{{Name: "load", Value: c.load}, {Name: "wait for load", Value: c.wait}, {Name: "evict", Value: c.evict}} {
		if t.Value != 0 {
			out = append(out, t)
		}
	}
	return append(out, cluster.Term{Name: "requests", Value: c.requests})
}
