package agent_test

import (
	"slices"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func names(models []cluster.Model) []string {
	var out []string
	for _, m := range models {
		out = append(out, m.Name)
	}
	return out
}

func TestHelloAndHeartbeatsSayWhatTheNodeIs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	c := s.controller(t)
	var key string
	before := time.Now()
	s.agent(t, enginetest.Script{}, func(o *agent.Options) {
		var err error
		if key, err = o.Bus.Credentials.PublicKey(); err != nil {
			t.Fatal(err)
		}
	})
	h := wait(t, c.hello, "hello", always)
	n := h.Node
	if n.ID != node || n.Name != "mini" || n.Version != "1.2.3" || n.BudgetBytes != 8<<30 || n.Hardware.Chip != "Apple M4" {
		t.Errorf("hello says %+v", n)
	}
	if n.StartedAt == nil || n.StartedAt.Before(before.Truncate(time.Second)) || n.StartedAt.After(time.Now()) {
		t.Errorf("started at %v", n.StartedAt)
	}
	if !slices.Equal(names(n.Models), []string{"tiny"}) || n.Models[0].Digest == "" || len(n.Replicas) != 0 {
		t.Errorf("models %+v, replicas %+v", n.Models, n.Replicas)
	}
	if h.Key != key || len(h.Boot) < 16 {
		t.Errorf("key %q, want %q; boot %q", h.Key, key, h.Boot)
	}
	first := wait(t, c.beats, "heartbeat with a reading", func(b bus.Heartbeat) bool { return b.Load.CPUPercent != nil })
	if first.Node != node || first.Boot != h.Boot || *first.Load.CPUPercent != 12.5 || first.Draining || first.PlannedBytes != 0 {
		t.Errorf("heartbeat says %+v", first)
	}
	second := wait(t, c.beats, "another heartbeat", always)
	if second.Seq != first.Seq+1 {
		t.Errorf("heartbeat %d follows %d", second.Seq, first.Seq)
	}
}

func TestReplicasAreInHeartbeats(t *testing.T) {
	t.Parallel()
	c, _, n := pair(t, enginetest.Script{}, nil)
	if err := c.load(bus.LoadRequest{Model: "tiny", Pinned: true}); err != nil {
		t.Fatal(err)
	}
	b := wait(t, c.beats, "heartbeat with a ready replica", func(b bus.Heartbeat) bool {
		return len(b.Replicas) == 1 && b.Replicas[0].State == cluster.ReplicaReady
	})
	r := b.Replicas[0]
	if r.Model != "tiny" || r.Digest != n.Models[0].Digest || !r.Pinned || r.PlannedBytes <= 0 || b.PlannedBytes != r.PlannedBytes {
		t.Errorf("replica is %+v, planned %d", r, b.PlannedBytes)
	}
	ready := wait(t, c.news, "news of the replica", func(e cluster.Event) bool { return e.Kind == cluster.EventReplicaState })
	if ready.Node != node || ready.Model != "tiny" || ready.Message == "" {
		t.Errorf("news are %+v", ready)
	}
}

// A node is ready with its first heartbeat, which does not wait for the clock.
func TestHeartbeatFollowsHello(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, enginetest.Script{}, func(o *agent.Options) { *o = o.WithClocks(time.Hour, time.Hour, time.Hour, nil) })
	wait(t, c.beats, "heartbeat after the hello", always)
}

// A reading that hangs must not make the node look dead.
func TestHeartbeatsDoNotWaitForReadings(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, enginetest.Script{}, func(o *agent.Options) { o.Monitor = fakeMonitor{hold: make(chan struct{})} })
	for range 5 {
		if b := wait(t, c.beats, "heartbeat", always); b.Load.CPUPercent != nil {
			t.Error("there is a reading already")
		}
	}
}

func TestHelloComesWhenAskedFor(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, enginetest.Script{}, nil)
	c.ask()
	wait(t, c.hello, "hello after it was asked for", always)
}

func TestHelloComesWhenModelsChange(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{}, nil)
	put(t, r.hub, "org/new", "{}")
	h := wait(t, c.hello, "hello with the new model", func(h bus.Hello) bool { return slices.Contains(names(h.Node.Models), "org/new") })
	before := h.Node.Models[1].Digest
	put(t, r.hub, "org/new", `{"other": true}`)
	wait(t, c.hello, "hello with the changed model", func(h bus.Hello) bool {
		return len(h.Node.Models) == 2 && h.Node.Models[1].Digest != before
	})
}

func TestHelloComesAtEachConnect(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	c := s.controller(t)
	cable := bustest.NewCable(t, s.addr)
	s.agent(t, enginetest.Script{}, func(o *agent.Options) { o.Bus.URLs = []string{"tls://" + cable.Addr()} })
	first := wait(t, c.hello, "hello", always)
	cable.Cut()
	if second := wait(t, c.hello, "hello after the connection was cut", always); second.Boot != first.Boot {
		t.Errorf("the boot is %q, was %q", second.Boot, first.Boot)
	}
}

func TestHelloComesAfterTheControllerStartedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	stop := s.start(t)
	c := s.controller(t)
	r := s.agent(t, enginetest.Script{}, nil)
	first := wait(t, c.hello, "hello", always)
	if err := c.load(bus.LoadRequest{Model: "tiny"}); err != nil {
		t.Fatal(err)
	}
	stop()
	s.start(t)
	again := s.controller(t)
	again.ask()
	second := wait(t, again.hello, "hello after the restart", always)
	if second.Boot != first.Boot || len(second.Node.Replicas) != 1 || second.Node.Replicas[0].State != cluster.ReplicaReady {
		t.Errorf("after a restart of the controller the agent says %+v", second)
	}
	if n := r.launcher.Launches(); n != 1 {
		t.Errorf("%d launches, want the model kept", n)
	}
}

func TestAgentWaitsForItsController(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)() // finds a free address
	r := s.agent(t, enginetest.Script{}, nil)
	s.start(t)
	c := s.controller(t)
	c.ask()
	wait(t, c.beats, "heartbeat once the controller is there", always)
	wait(t, c.hello, "hello once the controller is there", always)
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestAgentEndsWithoutController(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)()
	r := s.agent(t, enginetest.Script{}, nil)
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	if err := agent.New(agent.Options{}).Run(t.Context()); err == nil {
		t.Error("ran without options")
	}
}
