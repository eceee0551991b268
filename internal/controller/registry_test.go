package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func mac(id string) cluster.Node { return cluster.Node{ID: cluster.NodeID(id), Name: "mac-" + id} }

// told joins what events say.
func told(events []cluster.Event) string {
	var out []string
	for _, e := range events {
		out = append(out, e.Message)
	}
	return strings.Join(out, "; ")
}

func TestRegistryFollowsSignsOfLife(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	type step struct {
		after time.Duration // since the step before
		do    string        // hello, reboot, beat, stale beat, drain, gone, absent, tick; twin is another process
		want  cluster.NodeState
		says  string // of the events of this step
	}
	hello := []step{{do: "hello", want: cluster.NodeJoining, says: "joining"}, {do: "beat", want: cluster.NodeReady, says: "ready"}}
	tests := []struct {
		name  string
		steps []step
	}{
		{"late, then back", []step{
			{1400 * time.Millisecond, "tick", cluster.NodeReady, ""},
			{100 * time.Millisecond, "tick", cluster.NodeSuspect, "heartbeats are late"},
			{time.Second, "beat", cluster.NodeReady, "ready"},
			{1400 * time.Millisecond, "tick", cluster.NodeReady, ""},
		}},
		{"late, then down, then back by a heartbeat", []step{
			{1500 * time.Millisecond, "tick", cluster.NodeSuspect, "late"},
			{3499 * time.Millisecond, "tick", cluster.NodeSuspect, ""},
			{time.Millisecond, "tick", cluster.NodeDown, "no heartbeat for 5s"},
			{time.Hour, "tick", cluster.NodeDown, ""},
			{0, "beat", cluster.NodeReady, "ready"},
		}},
		{"disconnected, then only a hello counts", []step{
			{0, "gone", cluster.NodeSuspect, "its connection closed"},
			{0, "beat", cluster.NodeSuspect, ""},
			{0, "hello", cluster.NodeReady, "ready"},
			{0, "beat", cluster.NodeReady, ""},
		}},
		{"disconnected for good", []step{
			{0, "gone", cluster.NodeSuspect, "its connection closed"},
			{lingerFor - 1, "tick", cluster.NodeSuspect, ""},
			{1, "tick", cluster.NodeDown, "its connection closed"},
			{time.Hour, "tick", cluster.NodeDown, ""},
			{0, "gone", cluster.NodeDown, ""},
			{0, "beat", cluster.NodeDown, ""},
			{0, "hello", cluster.NodeReady, "ready"},
		}},
		{"nobody listens there", []step{
			{0, "absent", cluster.NodeSuspect, "not connected"},
			{0, "gone", cluster.NodeSuspect, ""},
			{lingerFor, "tick", cluster.NodeDown, "not connected"},
		}},
		{"draining and back", []step{{0, "drain", cluster.NodeDraining, "draining"}, {0, "beat", cluster.NodeReady, "ready"}}},
		{"draining is not forgotten with the connection", []step{
			{0, "drain", cluster.NodeDraining, "draining"},
			{0, "gone", cluster.NodeSuspect, "its connection closed"},
			{0, "hello", cluster.NodeDraining, "draining"},
		}},
		{"a new process has to prove itself", []step{
			{0, "gone", cluster.NodeSuspect, "its connection closed"},
			{0, "reboot", cluster.NodeJoining, "joining"},
			{0, "stale beat", cluster.NodeJoining, ""},
			{0, "beat", cluster.NodeReady, "ready"},
		}},
		{"a new process whose end was not noticed", []step{
			{500 * time.Millisecond, "reboot", cluster.NodeReady, ""}, // it may be a twin
			{aliveFor - 500*time.Millisecond, "reboot", cluster.NodeJoining, "joining"},
			{0, "beat", cluster.NodeReady, "ready"},
		}},
		{"two processes at once", []step{
			{0, "twin", cluster.NodeReady, ""},
			{700 * time.Millisecond, "beat", cluster.NodeReady, ""}, // the twin's may have been under way
			{0, "twin", cluster.NodeReady, ""},
			{300 * time.Millisecond, "beat", cluster.NodeDown, "two agents"},
			{0, "hello", cluster.NodeDown, ""},
			{500 * time.Millisecond, "beat", cluster.NodeDown, ""},
			{time.Second, "beat", cluster.NodeReady, "ready"}, // the other is silent
		}},
		{"another hello of the same process changes nothing", []step{{0, "hello", cluster.NodeReady, ""}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry()
			now, boot := at, 1
			for i, s := range append(hello, tt.steps...) {
				now = now.Add(s.after)
				var events []cluster.Event
				switch s.do {
				case "reboot":
					boot++
					fallthrough
				case "hello":
					events = r.hello(now, mac("a"), fmt.Sprint(boot), "KEY")
				case "beat":
					events, _ = r.heartbeat(now, beat{node: "a", boot: fmt.Sprint(boot)})
				case "absent":
					events = r.absent(now, "a")
				case "twin":
					var known bool
					if events, known = r.heartbeat(now, beat{node: "a", boot: "twin"}); !known {
						t.Errorf("step %d: a twin is asked who it is", i)
					}
				case "stale beat":
					events, _ = r.heartbeat(now, beat{node: "a", boot: fmt.Sprint(boot - 1)})
				case "drain":
					events, _ = r.heartbeat(now, beat{node: "a", boot: fmt.Sprint(boot), draining: true})
				case "gone":
					events = r.disconnected(now, "KEY", false)
				case "tick":
					events, _ = r.tick(now)
				}
				if got := r.nodes().Nodes[0]; got.State != s.want {
					t.Errorf("step %d %s: node is %s, want %s", i, s.do, got.State, s.want)
				}
				if got := told(events); !strings.Contains(got, s.says) || (s.says == "") != (got == "") {
					t.Errorf("step %d %s: told %q, want %q", i, s.do, got, s.says)
				}
			}
		})
	}
}

func TestRegistryAsksStrangersForHello(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	if _, known := r.heartbeat(time.Now(), beat{node: "a", boot: "1"}); known {
		t.Error("a heartbeat of an unknown node counts")
	}
	if got := len(r.nodes().Nodes); got != 0 {
		t.Errorf("%d nodes, want none", got)
	}
}

func TestRegistryTickSaysWhenToComeBack(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	at := time.Unix(1000, 0)
	if _, next := r.tick(at); !next.IsZero() {
		t.Errorf("with no nodes, next tick at %s, want never", next)
	}
	r.hello(at, mac("a"), "1", "A")
	r.hello(at.Add(time.Second), mac("b"), "1", "B")
	for i, want := range []time.Duration{suspectAfter, time.Second + suspectAfter, downAfter, time.Second + downAfter} {
		_, next := r.tick(at)
		if got := next.Sub(time.Unix(1000, 0)); got != want {
			t.Fatalf("tick %d: next in %s, want %s", i, got, want)
		}
		at = next
	}
	if _, next := r.tick(at); !next.IsZero() {
		t.Errorf("with all nodes down, next tick at %s, want never", next)
	}
}

func TestRegistryEndsStreamsOfLostNodes(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	tests := []struct {
		name   string
		happen func(r *registry)
		lost   bool
	}{
		{"nothing", func(*registry) {}, false},
		{"disconnected for less than a moment", func(r *registry) {
			r.disconnected(at, "KEY", false)
			r.tick(at.Add(lingerFor - 1))
			r.hello(at.Add(lingerFor-1), mac("a"), "1", "KEY")
			r.tick(at.Add(lingerFor + 1))
		}, false},
		{"disconnected for longer", func(r *registry) { r.disconnected(at, "KEY", false); r.tick(at.Add(lingerFor)) }, true},
		{"its key revoked, and back late", func(r *registry) {
			r.disconnected(at, "KEY", true)
			r.tick(at.Add(downAfter - 1))
		}, false},
		{"its key revoked, which a request saw first", func(r *registry) {
			r.absent(at, "a")
			r.disconnected(at.Add(lingerFor-1), "KEY", true)
			r.tick(at.Add(downAfter - 1))
		}, false},
		{"its key revoked for good", func(r *registry) {
			r.disconnected(at, "KEY", true)
			r.tick(at.Add(downAfter))
		}, true},
		{"another process", func(r *registry) { r.hello(at.Add(aliveFor), mac("a"), "2", "KEY") }, true},
		{"another process beside it", func(r *registry) { r.hello(at, mac("a"), "2", "KEY2") }, false},
		{"two processes for long", func(r *registry) {
			r.heartbeat(at, beat{node: "a", boot: "2"})
			r.heartbeat(at.Add(twinAfter), beat{node: "a", boot: "2"})
			r.heartbeat(at.Add(twinAfter), beat{node: "a", boot: "1"})
		}, true},
		{"silent for long", func(r *registry) { r.tick(at.Add(downAfter)) }, true},
		{"silent for a while", func(r *registry) { r.tick(at.Add(downAfter - 1)) }, false},
		{"another node's connection", func(r *registry) { r.disconnected(at, "OTHER", false); r.tick(at.Add(time.Second)) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry()
			r.hello(at, mac("a"), "1", "KEY")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			detach, err := r.attach("a", cancel)
			if err != nil {
				t.Fatal(err)
			}
			defer detach()
			tt.happen(r)
			if got := ctx.Err() != nil; got != tt.lost {
				t.Errorf("stream lost: %t, want %t", got, tt.lost)
			}
			if tt.lost && cluster.CodeOf(context.Cause(ctx)) != cluster.CodeNodeLost {
				t.Errorf("lost for %v, want %s", context.Cause(ctx), cluster.CodeNodeLost)
			}
		})
	}
	if _, err := newRegistry().attach("z", nil); cluster.CodeOf(err) != cluster.CodeNoNode {
		t.Errorf("attach to an unknown node: %v", err)
	}
}

func TestRegistryNodesAreImmutableAndSorted(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	at := time.Unix(1000, 0)
	for _, id := range []string{"c", "a", "b"} {
		r.hello(at, mac(id), "1", id)
	}
	before := r.nodes()
	if r.nodes() != before {
		t.Error("put together anew though nothing changed")
	}
	r.heartbeat(at, beat{node: "a", boot: "1", plannedBytes: 5})
	if before.Nodes[0].PlannedBytes != 0 || before.Nodes[0].State != cluster.NodeJoining {
		t.Error("a published snapshot changed")
	}
	after := r.nodes()
	if after.Nodes[0].ID != "a" || after.Nodes[1].ID != "b" || after.Nodes[2].ID != "c" || after.Nodes[0].PlannedBytes != 5 {
		t.Errorf("nodes are %+v", after.Nodes)
	}
}

func TestRegistryTakesAHeartbeatThatOvertookItsHello(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	for _, tt := range []struct {
		name string
		boot string
		wait time.Duration
		want cluster.NodeState
	}{
		{"of the same process", "1", time.Millisecond, cluster.NodeReady},
		{"of another process", "0", time.Millisecond, cluster.NodeJoining},
		{"of long ago", "1", suspectAfter, cluster.NodeJoining},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry()
			r.heartbeat(at, beat{node: "a", boot: tt.boot, plannedBytes: 7})
			r.hello(at.Add(tt.wait), mac("a"), "1", "KEY")
			if got := r.nodes().Nodes[0].State; got != tt.want {
				t.Errorf("node is %s, want %s", got, tt.want)
			}
			if len(r.early) != 0 {
				t.Errorf("%d heartbeats are kept", len(r.early))
			}
		})
	}
	r := newRegistry()
	for i := range 2 * mostEarly {
		r.heartbeat(at, beat{node: cluster.NodeID(fmt.Sprint(i)), boot: "1"})
	}
	if len(r.early) != mostEarly {
		t.Errorf("%d heartbeats of strangers are kept, want %d", len(r.early), mostEarly)
	}
}

func TestRegistryForgetsTheMemoryOfNodesThatAreDown(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r.hello(now, mac("a"), "boot", "key")
	full := beat{
		node: "a", boot: "boot", plannedBytes: 9, load: cluster.Load{CPUPercent: new(50.0)},
		replicas: []cluster.Replica{{Model: "tiny", State: cluster.ReplicaReady, Running: 3}},
	}
	r.heartbeat(now, full)
	r.tick(now.Add(suspectAfter))
	if n := r.nodes().Nodes[0]; n.State != cluster.NodeSuspect || len(n.Replicas) != 1 {
		t.Errorf("late: %+v", n)
	}
	r.tick(now.Add(downAfter))
	n := r.nodes().Nodes[0]
	if n.State != cluster.NodeDown || len(n.Replicas) != 0 || n.PlannedBytes != 0 || n.Load.CPUPercent != nil || n.Name != "mac-a" {
		t.Errorf("down: %+v", n)
	}
	r.heartbeat(now.Add(time.Hour), full)
	if n := r.nodes().Nodes[0]; n.State != cluster.NodeReady || len(n.Replicas) != 1 || n.PlannedBytes != 9 {
		t.Errorf("back: %+v", n)
	}
}
