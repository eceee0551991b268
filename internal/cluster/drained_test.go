package cluster

import "testing"

func TestWhatANodeHasToFinish(t *testing.T) {
	t.Parallel()
	s := &Snapshot{
		Nodes: []Node{
			{ID: "a", Replicas: []Replica{{Running: 2, Waiting: 1}, {Running: 1}}},
			{ID: "b", Replicas: []Replica{{}}},
			{ID: "c"},
		},
		Requests: []RequestStatus{{Node: "a"}, {Node: "b"}, {Node: "b"}, {}},
	}
	for id, want := range map[NodeID]int{"a": 4, "b": 2, "c": 0, "nowhere": 0} {
		if got := s.Open(id); got != want {
			t.Errorf("%s: %d, want %d", id, got, want)
		}
	}
}

func TestStateName(t *testing.T) {
	t.Parallel()
	for want, n := range map[string]Node{
		"draining": {State: NodeDraining},
		"drained":  {State: NodeDraining, Drained: true},
		"down":     {State: NodeDown, Drained: true},
	} {
		if got := n.StateName(); got != want {
			t.Errorf("%s is called %s", want, got)
		}
	}
}
