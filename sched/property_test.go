package sched_test

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/sched"
)

// scene is a random cluster, a request, and what the controller knows beside.
type scene struct {
	snapshot *cluster.Snapshot
	request  *cluster.Request
	live     sched.Live
}

func drawModel(name string) *rapid.Generator[cluster.Model] {
	return rapid.Custom(func(t *rapid.T) cluster.Model {
		return cluster.Model{
			Name: name, Digest: rapid.SampledFrom([]string{"d1", "d2"}).Draw(t, "digest"),
			WeightBytes:     rapid.Int64Range(0, 20).Draw(t, "weights") * gib,
			KVBytesPerToken: rapid.Int64Range(0, 1<<20).Draw(t, "kv"),
			Context:         rapid.IntRange(0, 40960).Draw(t, "context"),
		}
	})
}

func drawReplica(name string) *rapid.Generator[cluster.Replica] {
	states := []cluster.ReplicaState{
		cluster.ReplicaLoading, cluster.ReplicaReady, cluster.ReplicaEvicting, cluster.ReplicaFailed, cluster.ReplicaQuarantined,
	}
	return rapid.Custom(func(t *rapid.T) cluster.Replica {
		return cluster.Replica{
			Model: name, Digest: rapid.SampledFrom([]string{"d1", "d2"}).Draw(t, "replica digest"),
			State: rapid.SampledFrom(states).Draw(t, "state"), PlannedBytes: rapid.Int64Range(0, 10).Draw(t, "planned") * gib,
			Slots: rapid.IntRange(0, 4).Draw(t, "slots"), Running: rapid.IntRange(0, 2).Draw(t, "running"),
			Pinned: rapid.Bool().Draw(t, "pinned"),
		}
	})
}

func drawScene() *rapid.Generator[scene] {
	states := []cluster.NodeState{
		cluster.NodeReady, cluster.NodeReady, cluster.NodeReady, cluster.NodeJoining, cluster.NodeDraining, cluster.NodeSuspect, cluster.NodeDown,
	}
	names := []string{"x", "y", "z"}
	return rapid.Custom(func(t *rapid.T) scene {
		sc := scene{snapshot: &cluster.Snapshot{}, request: &cluster.Request{Model: "x"}}
		count := rapid.IntRange(0, 8).Draw(t, "nodes")
		for i := range count {
			n := cluster.Node{
				ID: cluster.NodeID(fmt.Sprintf("n%d", i)), State: rapid.SampledFrom(states).Draw(t, "node state"),
				BudgetBytes: rapid.Int64Range(0, 32).Draw(t, "budget") * gib,
			}
			for _, name := range names {
				if rapid.Bool().Draw(t, "on disk") {
					n.Models = append(n.Models, drawModel(name).Draw(t, "model"))
				}
				if rapid.Bool().Draw(t, "in memory") {
					r := drawReplica(name).Draw(t, "replica")
					n.Replicas = append(n.Replicas, r)
					n.PlannedBytes += r.PlannedBytes
				}
			}
			sc.snapshot.Nodes = append(sc.snapshot.Nodes, n)
			for range rapid.IntRange(0, 5).Draw(t, "requests") {
				sc.snapshot.Requests = append(sc.snapshot.Requests, cluster.RequestStatus{
					Node: n.ID, Model: rapid.SampledFrom(names).Draw(t, "of"),
				})
			}
		}
		pick := func(label string) cluster.NodeID {
			return cluster.NodeID(fmt.Sprintf("n%d", rapid.IntRange(0, 8).Draw(t, label)))
		}
		if rapid.IntRange(0, 4).Draw(t, "pin") == 0 {
			sc.request.Node = pick("pinned to")
		}
		if rapid.IntRange(0, 3).Draw(t, "exclude") == 0 {
			sc.live.Excluded = []cluster.Refusal{{Node: pick("excluded"), Code: cluster.CodeNodeLost, Reason: "lost"}}
		}
		if rapid.IntRange(0, 3).Draw(t, "resolve") == 0 {
			sc.live.Resolved = map[cluster.NodeID]cluster.Model{pick("resolved"): drawModel("x").Draw(t, "found")}
		}
		return sc
	})
}

func (sc scene) node(id cluster.NodeID) *cluster.Node {
	for i := range sc.snapshot.Nodes {
		if sc.snapshot.Nodes[i].ID == id {
			return &sc.snapshot.Nodes[i]
		}
	}
	return nil
}

// held is the memory of a node that no placement may take: of models that are pinned or at work, other than the one asked for.
func (sc scene) held(n *cluster.Node) int64 {
	var sum int64
	for _, r := range n.Replicas {
		working := r.State == cluster.ReplicaLoading || r.Running > 0
		for _, q := range sc.snapshot.Requests {
			working = working || q.Node == n.ID && q.Model == r.Model
		}
		if r.Model != sc.request.Model && (r.Pinned || working) {
			sum += r.PlannedBytes
		}
	}
	return sum
}

func TestPlaceKeepsItsPromises(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sc := drawScene().Draw(t, "scene")
		got, err := sched.Place(sc.snapshot, sc.request, sc.live)

		again, errAgain := sched.Place(sc.snapshot, sc.request, sc.live)
		if !reflect.DeepEqual(got, again) || !reflect.DeepEqual(err, errAgain) {
			t.Fatalf("not deterministic: %+v %v, then %+v %v", got, err, again, errAgain)
		}
		moved := *sc.snapshot
		moved.Nodes = rapid.Permutation(sc.snapshot.Nodes).Draw(t, "nodes in another order")
		moved.Requests = rapid.Permutation(sc.snapshot.Requests).Draw(t, "requests in another order")
		other, errOther := sched.Place(&moved, sc.request, sc.live)
		if !reflect.DeepEqual(got, other) || !reflect.DeepEqual(err, errOther) {
			t.Fatalf("depends on the order of nodes: %+v %v, then %+v %v", got, err, other, errOther)
		}

		seen := map[cluster.NodeID]bool{}
		for _, x := range got.Refused {
			if seen[x.Node] || x.Code == "" || x.Reason == "" || x.Node == got.Node {
				t.Fatalf("bad refusal %+v of %+v", x, got)
			}
			seen[x.Node] = true
		}
		if err != nil {
			sc.checkError(t, got, err)
			return
		}
		sc.checkPlacement(t, got)
	})
}

func (sc scene) checkError(t *rapid.T, got cluster.Placement, err error) {
	e, ok := err.(*cluster.Error) //nolint:errorlint // Place promises this very type
	if !ok || e.Code == "" || e.Message == "" {
		t.Fatalf("error without code or message: %#v", err)
	}
	if got.Node != "" || len(got.Refused) != len(sc.snapshot.Nodes) {
		t.Fatalf("%d refusals of %d nodes, placed on %q, and error %v", len(got.Refused), len(sc.snapshot.Nodes), got.Node, err)
	}
}

func (sc scene) checkPlacement(t *rapid.T, got cluster.Placement) {
	n := sc.node(got.Node)
	switch {
	case n == nil:
		t.Fatalf("placed on unknown node %q", got.Node)
	case n.State != cluster.NodeReady:
		t.Fatalf("placed on a node that is %s", n.State)
	case sc.request.Node != "" && sc.request.Node != got.Node:
		t.Fatalf("pinned to %s, placed on %s", sc.request.Node, got.Node)
	case len(sc.live.Excluded) > 0 && sc.live.Excluded[0].Node == got.Node:
		t.Fatalf("placed on excluded node %s", got.Node)
	case got.Model.Name != "x":
		t.Fatalf("placed for model %q", got.Model.Name)
	}
	loading := false
	for _, r := range n.Replicas {
		if r.Model != "x" || r.Digest != got.Model.Digest {
			continue
		}
		loading = r.State == cluster.ReplicaLoading
		slots := r.Slots
		if slots == 0 || r.State != cluster.ReplicaReady {
			slots = sched.DefaultSlots
		}
		running := 0
		for _, q := range sc.snapshot.Requests {
			if q.Node == n.ID && q.Model == "x" {
				running++
			}
		}
		if running >= slots || r.State == cluster.ReplicaQuarantined {
			t.Fatalf("placed on replica %+v with %d requests", r, running)
		}
		if got.Cold != (r.State != cluster.ReplicaReady) {
			t.Fatalf("cold %t with replica %+v", got.Cold, r)
		}
	}
	if need := sched.Need(got.Model) + sc.held(n); got.Cold && !loading && n.BudgetBytes > 0 && need > n.BudgetBytes {
		t.Fatalf("loading takes %d of %d bytes", need, n.BudgetBytes)
	}
	// The whole of the others is accounted for: refused with a reason, or dearer.
	refused := map[cluster.NodeID]bool{}
	for _, x := range got.Refused {
		refused[x.Node] = true
	}
	for _, o := range sc.snapshot.Nodes {
		if o.ID == got.Node || refused[o.ID] {
			continue
		}
		alone := *sc.snapshot
		alone.Nodes = []cluster.Node{o}
		second, err := sched.Place(&alone, sc.request, sc.live)
		if err != nil {
			t.Fatalf("node %s is neither placed on nor refused, but cannot take it: %v", o.ID, err)
		}
		if sum(second) < sum(got) || sum(second) == sum(got) && second.Node < got.Node {
			t.Fatalf("placed on %s at %v, though %s costs %v", got.Node, sum(got), second.Node, sum(second))
		}
	}
}

func sum(p cluster.Placement) float64 {
	total := 0.0
	for _, term := range p.Terms {
		total += term.Value
	}
	return total
}
