package sched

import (
	"fmt"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// consider prices a node for a request, or says why the node cannot take it.
func consider(n *cluster.Node, r *cluster.Request, live Live) (candidate, *cluster.Refusal) {
	m, refusal := usable(n, r, live)
	if refusal != nil {
		return candidate{}, refusal
	}
	c := candidate{node: n, model: m}
	work := live.Work[n.ID]
	slots := DefaultSlots
	replica := replicaOf(n, m)
	switch {
	case replica == nil || replica.State == cluster.ReplicaFailed || replica.State == cluster.ReplicaEvicting:
		c.load = costLoad
		if refusal := c.room(work); refusal != nil {
			return candidate{}, refusal
		}
	case replica.State == cluster.ReplicaQuarantined:
		return candidate{}, refuse(n, cluster.CodeQuarantined, "the model is quarantined there%s", because(replica.Reason))
	case replica.State == cluster.ReplicaLoading:
		c.wait = costWait
	case replica.Slots > 0:
		slots = replica.Slots
	}
	if most, learned := work.Full[m.Name]; learned {
		slots = min(slots, most)
	}
	if work.Models[m.Name] >= slots {
		return candidate{}, refuse(n, cluster.CodeBusy, "all %d slots of the model are taken", slots)
	}
	c.requests = float64(work.Total)
	return c, nil
}

// usable finds the model on a node that may take new requests.
func usable(n *cluster.Node, r *cluster.Request, live Live) (cluster.Model, *cluster.Refusal) {
	var none cluster.Model
	if r.Node != "" && r.Node != n.ID {
		return none, refuse(n, cluster.CodeNoNode, "the request is for node %s only", r.Node)
	}
	for i := range live.Excluded {
		if live.Excluded[i].Node == n.ID {
			return none, &live.Excluded[i]
		}
	}
	if n.State == cluster.NodeDown {
		return none, refuse(n, cluster.CodeNoNode, "node is down%s", because(n.Reason))
	}
	m, known := modelOn(n, r.Model, live)
	if !known {
		return none, refuse(n, cluster.CodeNoModel, "the model is not on its disk")
	}
	switch n.State {
	case cluster.NodeReady:
		return m, nil
	case cluster.NodeDraining:
		return none, refuse(n, cluster.CodeNoNode, "node is draining")
	default: // joining, suspect: it may be back in a moment
		return none, refuse(n, cluster.CodeBusy, "node is %s%s", n.State, because(n.Reason))
	}
}

func refuse(n *cluster.Node, code cluster.Code, format string, args ...any) *cluster.Refusal {
	return &cluster.Refusal{Node: n.ID, Code: code, Reason: fmt.Sprintf(format, args...)}
}

// room checks that a model that is not in memory can come to be there, and prices what has to go first.
func (c *candidate) room(work Work) *cluster.Refusal {
	n, need := c.node, Need(c.model)
	if n.BudgetBytes <= 0 {
		return nil
	}
	if need > n.BudgetBytes {
		return refuse(n, cluster.CodeNoFit, "the model needs %s, the node's budget is %s", size(need), size(n.BudgetBytes))
	}
	var pinned, busy, own int64
	for i := range n.Replicas {
		r := &n.Replicas[i]
		switch {
		case r.Model == c.model.Name:
			own += r.PlannedBytes // it is replaced
		case r.Pinned:
			pinned += r.PlannedBytes
		case r.State == cluster.ReplicaLoading || r.Running+r.Waiting > 0 || work.Models[r.Model] > 0:
			busy += r.PlannedBytes
		}
	}
	switch {
	case need+pinned > n.BudgetBytes:
		return refuse(n, cluster.CodeConflict, "the model needs %s, pinned models hold %s of %s", size(need), size(pinned), size(n.BudgetBytes))
	case need+pinned+busy > n.BudgetBytes:
		return refuse(n, cluster.CodeBusy, "models that answer requests hold its memory")
	case need+n.PlannedBytes-own > n.BudgetBytes:
		c.evict = costEvict
	}
	return nil
}

// modelOn finds the model that a request names on a node.
func modelOn(n *cluster.Node, name string, live Live) (cluster.Model, bool) {
	for i := range n.Models {
		if n.Models[i].Name == name {
			return n.Models[i], true
		}
	}
	m, ok := live.Resolved[n.ID]
	return m, ok
}

func replicaOf(n *cluster.Node, m cluster.Model) *cluster.Replica {
	for i := range n.Replicas {
		if r := &n.Replicas[i]; r.Model == m.Name && (r.Digest == m.Digest || r.Digest == "" || m.Digest == "") {
			return r
		}
	}
	return nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// size writes bytes for people.
func size(bytes int64) string {
	const unit = 1024
	value, name := float64(bytes), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < unit {
			break
		}
		value, name = value/unit, next
	}
	if name == "B" {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, name)
}
