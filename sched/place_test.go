package sched_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/sched"
)

const gib = 1 << 30

func small() cluster.Model {
	return cluster.Model{Name: "small", Digest: "d1", WeightBytes: 1 * gib, KVBytesPerToken: 1 << 10, Context: 8192}
}

func big() cluster.Model {
	return cluster.Model{Name: "big", Digest: "d2", WeightBytes: 40 * gib, KVBytesPerToken: 1 << 18, Context: 40960}
}

// node makes a ready node that has both models on its disk.
func node(id string, change ...func(*cluster.Node)) cluster.Node {
	n := cluster.Node{
		ID: cluster.NodeID(id), Name: "mac-" + id, State: cluster.NodeReady, BudgetBytes: 16 * gib,
		Models: []cluster.Model{small(), big()},
	}
	for _, c := range change {
		c(&n)
	}
	return n
}

func loaded(state cluster.ReplicaState, change ...func(*cluster.Replica)) func(*cluster.Node) {
	return func(n *cluster.Node) {
		r := cluster.Replica{Model: "small", Digest: "d1", State: state, Slots: 2, PlannedBytes: 2 * gib}
		for _, c := range change {
			c(&r)
		}
		n.Replicas = append(n.Replicas, r)
		n.PlannedBytes += r.PlannedBytes
	}
}

func holding(bytes int64, pinned bool, running int) func(*cluster.Node) {
	return func(n *cluster.Node) {
		n.Replicas = append(n.Replicas, cluster.Replica{
			Model: "other", Digest: "d3", State: cluster.ReplicaReady, PlannedBytes: bytes, Pinned: pinned, Running: running, Slots: 8,
		})
		n.PlannedBytes += bytes
	}
}

func in(state cluster.NodeState) func(*cluster.Node) {
	return func(n *cluster.Node) { n.State = state }
}

func without(n *cluster.Node) { n.Models = nil }

func sent(to, model string, count int) []cluster.RequestStatus {
	out := make([]cluster.RequestStatus, count)
	for i := range out {
		out[i] = cluster.RequestStatus{Node: cluster.NodeID(to), Model: model, State: cluster.RequestStreaming}
	}
	return out
}

func TestPlaceChooses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		nodes    []cluster.Node
		requests []cluster.RequestStatus
		request  cluster.Request
		live     sched.Live
		want     string
		cold     bool
	}{
		{name: "the smallest id among equals", nodes: []cluster.Node{node("b"), node("a")}, want: "a", cold: true},
		{name: "a loaded replica", nodes: []cluster.Node{node("a"), node("b", loaded(cluster.ReplicaReady))}, want: "b"},
		{
			name: "a loaded replica with work over an idle node without", want: "b",
			nodes: []cluster.Node{node("a"), node("b", loaded(cluster.ReplicaReady))}, requests: sent("b", "small", 1),
		},
		{
			name: "one that loads over a cold one", want: "b", cold: true,
			nodes: []cluster.Node{node("a"), node("b", loaded(cluster.ReplicaLoading))}, requests: sent("b", "small", 3),
		},
		{
			name: "room over eviction", want: "b", cold: true,
			nodes: []cluster.Node{node("a", holding(15*gib+gib/2, false, 0)), node("b")}, requests: sent("b", "other", 5),
		},
		{name: "eviction of what is idle", nodes: []cluster.Node{node("a", holding(15*gib+gib/2, false, 0))}, want: "a", cold: true},
		{
			name: "the least work", want: "b",
			nodes:    []cluster.Node{node("a", loaded(cluster.ReplicaReady)), node("b", loaded(cluster.ReplicaReady))},
			requests: sent("a", "small", 1),
		},
		{
			name: "another node when the slots are taken", want: "b", cold: true,
			nodes: []cluster.Node{node("a", loaded(cluster.ReplicaReady)), node("b")}, requests: sent("a", "small", 2),
		},
		{
			name: "another node when fewer slots proved to be there", want: "b", cold: true,
			nodes: []cluster.Node{node("a", loaded(cluster.ReplicaReady)), node("b")},
			live: sched.Live{Work: map[cluster.NodeID]sched.Work{
				"a": {Total: 1, Models: map[string]int{"small": 1}, Full: map[string]int{"small": 1}},
			}},
		},
		{
			name: "the node that it is pinned to", want: "b", cold: true, request: cluster.Request{Node: "b"},
			nodes: []cluster.Node{node("a", loaded(cluster.ReplicaReady)), node("b")},
		},
		{
			name: "a node that found the model when asked", want: "b", cold: true, request: cluster.Request{Model: "/models/x"},
			nodes: []cluster.Node{node("a"), node("b")},
			live:  sched.Live{Resolved: map[cluster.NodeID]cluster.Model{"b": {Name: "/models/x", Digest: "d9"}}},
		},
		{
			name: "not an excluded node", want: "b", cold: true, nodes: []cluster.Node{node("a"), node("b")},
			live: sched.Live{Excluded: []cluster.Refusal{{Node: "a", Code: cluster.CodeNodeLost, Reason: "lost"}}},
		},
		{
			name: "a replica of other content is no replica", want: "a", cold: true,
			nodes: []cluster.Node{node("a", loaded(cluster.ReplicaReady, func(r *cluster.Replica) { r.Digest = "old" }))},
		},
		{
			name: "no budget told means no limit", want: "a", cold: true, request: cluster.Request{Model: "big"},
			nodes: []cluster.Node{node("a", func(n *cluster.Node) { n.BudgetBytes = 0 })},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.request.Model == "" {
				tt.request.Model = "small"
			}
			s := &cluster.Snapshot{Nodes: tt.nodes, Requests: tt.requests}
			got, err := sched.Place(s, &tt.request, tt.live)
			if err != nil {
				t.Fatalf("Place: %v", err)
			}
			if string(got.Node) != tt.want || got.Cold != tt.cold {
				t.Errorf("placed on %s cold %t, want %s cold %t; terms %v", got.Node, got.Cold, tt.want, tt.cold, got.Terms)
			}
			if got.Model.Name != tt.request.Model {
				t.Errorf("model %q, want %q", got.Model.Name, tt.request.Model)
			}
		})
	}
}

func TestPlaceRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		nodes    []cluster.Node
		requests []cluster.RequestStatus
		request  cluster.Request
		live     sched.Live
		code     cluster.Code
		says     []string // parts of message and hint
	}{
		{name: "nobody", code: cluster.CodeNoNode, says: []string{"no node has joined", "mlxctl up"}},
		{
			name: "pin to an unknown node", nodes: []cluster.Node{node("a")}, request: cluster.Request{Node: "z"},
			code: cluster.CodeNoNode, says: []string{"no node z", "mlxctl nodes"},
		},
		{
			name: "pin to a node that is down", request: cluster.Request{Node: "a"}, code: cluster.CodeNoNode,
			nodes: []cluster.Node{node("a", in(cluster.NodeDown)), node("b")}, says: []string{"mac-a", "down"},
		},
		{
			name: "unknown model", nodes: []cluster.Node{node("a")}, request: cluster.Request{Model: "x"},
			code: cluster.CodeNoModel, says: []string{"no node has model x", "mlxctl models"},
		},
		{
			name: "too big for all", request: cluster.Request{Model: "big"}, code: cluster.CodeNoFit,
			nodes: []cluster.Node{node("a"), node("b", func(n *cluster.Node) { n.BudgetBytes = 32 * gib })},
			says:  []string{"needs 41.0 GiB", "32.0 GiB", "mac-b"},
		},
		{
			name: "pinned models leave no room", code: cluster.CodeConflict,
			nodes: []cluster.Node{node("a", holding(15*gib+gib/2, true, 0))}, says: []string{"pinned models hold 15.5 GiB", "unpins"},
		},
		{
			name: "busy models leave no room", code: cluster.CodeBusy,
			nodes: []cluster.Node{node("a", holding(15*gib+gib/2, false, 1))}, says: []string{"hold its memory"},
		},
		{
			name: "all slots taken", code: cluster.CodeBusy, requests: sent("a", "small", 2),
			nodes: []cluster.Node{node("a", loaded(cluster.ReplicaReady))}, says: []string{"all 2 slots", "try again"},
		},
		{name: "late", code: cluster.CodeBusy, nodes: []cluster.Node{node("a", in(cluster.NodeSuspect))}, says: []string{"suspect"}},
		{name: "draining", code: cluster.CodeNoNode, nodes: []cluster.Node{node("a", in(cluster.NodeDraining))}, says: []string{"draining", "mlxctl undrain mac-a"}},
		{
			name: "quarantined", code: cluster.CodeQuarantined, says: []string{"died 3 times", "mlxctl load small"},
			nodes: []cluster.Node{node("a", loaded(cluster.ReplicaQuarantined, func(r *cluster.Replica) { r.Reason = "died 3 times" }))},
		},
		{
			name: "only a node that is down has it", code: cluster.CodeNoNode, says: []string{"mac-a", "no heartbeat"},
			nodes: []cluster.Node{node("a", in(cluster.NodeDown), func(n *cluster.Node) { n.Reason = "no heartbeat" }), node("b", without)},
		},
		{
			name: "what an excluded node said", code: cluster.CodeBadModel, says: []string{"mac-a cannot load small: config.json is missing", "config.json, a tokenizer"},
			nodes: []cluster.Node{node("a"), node("b", without)},
			live:  sched.Live{Excluded: []cluster.Refusal{{Node: "a", Code: cluster.CodeBadModel, Reason: "config.json is missing"}}},
		},
		{
			name: "busy helps more than too big", code: cluster.CodeBusy,
			nodes: []cluster.Node{node("a", func(n *cluster.Node) { n.BudgetBytes = gib / 2 }), node("b", loaded(cluster.ReplicaReady))},

			requests: sent("b", "small", 2),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.request.Model == "" {
				tt.request.Model = "small"
			}
			s := &cluster.Snapshot{Nodes: tt.nodes, Requests: tt.requests}
			got, err := sched.Place(s, &tt.request, tt.live)
			e := cluster.AsError(err)
			if e == nil {
				t.Fatalf("placed on %s, want %s", got.Node, tt.code)
			}
			if e.Code != tt.code {
				t.Errorf("code %s (%s), want %s", e.Code, e.Message, tt.code)
			}
			for _, part := range tt.says {
				if !strings.Contains(e.Message+" | "+e.Hint, part) {
					t.Errorf("error %q, hint %q: want it to say %q", e.Message, e.Hint, part)
				}
			}
			if len(got.Refused) != len(tt.nodes) {
				t.Errorf("%d refusals for %d nodes: %v", len(got.Refused), len(tt.nodes), got.Refused)
			}
		})
	}
}

func TestPlaceReadsRequestsWithoutLive(t *testing.T) {
	t.Parallel()
	s := &cluster.Snapshot{
		Nodes:    []cluster.Node{node("a", loaded(cluster.ReplicaReady)), node("b", loaded(cluster.ReplicaReady))},
		Requests: append(sent("a", "small", 1), cluster.RequestStatus{Model: "small", State: cluster.RequestQueued}),
	}
	r := &cluster.Request{Model: "small"}
	fromSnapshot, err := sched.Place(s, r, sched.Live{})
	if err != nil {
		t.Fatal(err)
	}
	live := sched.Live{Work: map[cluster.NodeID]sched.Work{"a": {Total: 1, Models: map[string]int{"small": 1}}}}
	fromLive, err := sched.Place(s, r, live)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromSnapshot, fromLive) || fromLive.Node != "b" {
		t.Errorf("from snapshot %+v, from live %+v, want both on b", fromSnapshot, fromLive)
	}
}

func BenchmarkPlace(b *testing.B) {
	s := &cluster.Snapshot{}
	for i := range 50 {
		s.Nodes = append(s.Nodes, node(string(rune('A'+i)), loaded(cluster.ReplicaReady)))
	}
	r := &cluster.Request{Model: "small"}
	live := sched.Live{Work: map[cluster.NodeID]sched.Work{}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sched.Place(s, r, live); err != nil {
			b.Fatal(err)
		}
	}
}
