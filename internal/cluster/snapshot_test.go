package cluster_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestWorkOfASnapshot(t *testing.T) {
	t.Parallel()
	s := cluster.Snapshot{Requests: []cluster.RequestStatus{
		{Node: "a", Model: "m"}, {Node: "a", Model: "m"}, {Node: "a", Model: "n"}, {Node: "b", Model: "m"}, {Model: "m"},
	}}
	want := map[cluster.Place]int{{Node: "a", Model: "m"}: 2, {Node: "a", Model: "n"}: 1, {Node: "b", Model: "m"}: 1}
	if diff := cmp.Diff(want, s.Work()); diff != "" {
		t.Error(diff)
	}
}

func TestMemoryIsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		planned, resident int64
		want              int64
		measured          bool
	}{{10, 0, 10, false}, {10, 4, 4, true}, {10, 12, 12, true}, {0, 0, 0, false}} {
		r := cluster.Replica{PlannedBytes: c.planned, ResidentBytes: c.resident}
		if n, measured := r.Memory(); n != c.want || measured != c.measured {
			t.Errorf("of %+v: %d, %t", c, n, measured)
		}
	}
}

func TestWhatAReplicaRunsWith(t *testing.T) {
	t.Parallel()
	r := cluster.Replica{Adapter: "/srv/adapters/legal/", Draft: "org/draft", KVBits: 8}
	if got := r.With(); got != "adapter=legal,draft=draft,kv_bits=8" {
		t.Errorf("got %q", got)
	}
	if got := (&cluster.Replica{}).With(); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

func TestChoicesHaveNamesOfTheirRequest(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]cluster.RequestID{0: "r-AB", 1: "r-AB-1", 12: "r-AB-12"} {
		got := cluster.RequestID("r-AB").Choice(i)
		if got != want {
			t.Errorf("choice %d is %q", i, got)
		}
		if request, choice := got.Split(); request != "r-AB" || choice != i {
			t.Errorf("%q is choice %d of %q", got, choice, request)
		}
	}
	for _, id := range []cluster.RequestID{"", "-", "-1", "r-", "r-A", "r-0", "r-01", "r-1x", "r-+1", "r-12345", "2026-11-0"} {
		if request, choice := id.Split(); request != id || choice != 0 {
			t.Errorf("%q is taken for choice %d of %q", id, choice, request)
		}
	}
}
