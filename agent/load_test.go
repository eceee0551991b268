package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestLoadAndUnload(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{LoadFor: 50 * time.Millisecond}, nil)
	code(t, c.request(bus.VerbUnload, bus.UnloadRequest{Model: "tiny"}, nil), cluster.CodeNoModel, "tiny")
	for range 2 { // the second finds it there
		if err := c.load(bus.LoadRequest{Model: "tiny"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.launcher.Launches(); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
	if err := c.request(bus.VerbUnload, bus.UnloadRequest{Model: "tiny"}, nil); err != nil {
		t.Fatal(err)
	}
	wait(t, c.beats, "heartbeat without replicas", func(b bus.Heartbeat) bool { return len(b.Replicas) == 0 && b.PlannedBytes == 0 })
	if n := len(r.launcher.Engines()); n != 0 {
		t.Errorf("%d engines live", n)
	}
}

func TestUnloadOfABusyModel(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, slow(), nil)
	stream := begin(t, c)
	code(t, c.request(bus.VerbUnload, bus.UnloadRequest{Model: "tiny"}, nil), cluster.CodeConflict, "tiny")
	if err := c.request(bus.VerbUnload, bus.UnloadRequest{Model: "tiny", Force: true}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := c.read(stream)
	code(t, err, cluster.CodeNodeLost)
}

func TestLoadThatFails(t *testing.T) {
	t.Parallel()
	refuse := cluster.Errorf(cluster.CodeBadModel, "it is no model at all")
	c, _, _ := pair(t, enginetest.Script{Refuse: refuse}, nil)
	code(t, c.load(bus.LoadRequest{Model: "tiny"}), cluster.CodeBadModel, "no model at all")
	code(t, c.load(bus.LoadRequest{Model: "org/none"}), cluster.CodeNoModel, "org/none")
	_, err := c.infer(count(3))
	code(t, err, cluster.CodeBadModel, "no model at all")
}

func TestModelThatCannotFit(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, enginetest.Script{}, func(o *agent.Options) { o.BudgetBytes = 1 << 20 })
	code(t, c.load(bus.LoadRequest{Model: "tiny"}), cluster.CodeNoFit, "tiny")
}

func TestResolve(t *testing.T) {
	t.Parallel()
	c, r, n := pair(t, enginetest.Script{}, nil)
	var reply bus.ResolveReply
	if err := c.request(bus.VerbResolve, bus.ResolveRequest{Model: "tiny"}, &reply); err != nil || reply.Model != n.Models[0] {
		t.Errorf("got %+v, %v, want %+v", reply.Model, err, n.Models[0])
	}
	put(t, r.hub, "org/here", "{}")
	if err := c.request(bus.VerbResolve, bus.ResolveRequest{Model: "org/here"}, &reply); err != nil || reply.Model.Revision != "abc" {
		t.Errorf("got %+v, %v", reply.Model, err)
	}
	err := c.request(bus.VerbResolve, bus.ResolveRequest{Model: "org/heer"}, &reply)
	code(t, err, cluster.CodeNoModel, "org/heer")
	if e := cluster.AsError(err); e != nil && !strings.Contains(e.Hint, "org/here") {
		t.Errorf("the hint is %q", e.Hint)
	}
}
