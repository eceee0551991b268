package agent_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func draining(on bool) func(bus.Heartbeat) bool {
	return func(b bus.Heartbeat) bool { return b.Draining == on }
}

func TestDrainAndUndrain(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	c, r, _ := pair(t, enginetest.Script{Hold: hold}, nil)
	stream, err := c.open(bus.VerbInfer, count(200))
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c.beats, "a request runs", running(1))
	for range 2 { // twice is no error
		if err := c.request(bus.VerbDrain, bus.DrainRequest{On: true}, nil); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, c.beats, "heartbeat that says so", draining(true))
	_, err = c.infer(count(3))
	code(t, err, cluster.CodeBusy, "draining")
	code(t, c.load(bus.LoadRequest{Model: "tiny"}), cluster.CodeBusy, "draining")
	close(hold)
	if got, err := c.read(stream); err != nil || got != enginetest.Counted(1, 200) {
		t.Errorf("the running one got %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(r.home, "agent", "drained")); err != nil {
		t.Errorf("it is not noted: %v", err)
	}
	for range 2 {
		if err := c.request(bus.VerbDrain, bus.DrainRequest{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, c.beats, "heartbeat that says so", draining(false))
	if got, err := c.infer(count(3)); err != nil || got != "1, 2, 3" {
		t.Errorf("undrained: %q, %v", got, err)
	}
}

func TestDrainOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	c := s.controller(t)
	first := s.agent(t, enginetest.Script{}, nil)
	wait(t, c.hello, "hello", always)
	if err := first.agent.Drain(true); err != nil {
		t.Fatal(err)
	}
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	boot := wait(t, c.beats, "a heartbeat of the first", draining(true)).Boot
	inHome := func(o *agent.Options) { o.Home = first.home }
	second := s.agent(t, enginetest.Script{}, inHome)
	if b := wait(t, c.beats, "a heartbeat of the second", func(b bus.Heartbeat) bool { return b.Boot != boot }); !b.Draining {
		t.Error("the second process is not drained")
	}
	if err := second.agent.Drain(false); err != nil {
		t.Fatal(err)
	}
	if err := second.end(); err != nil {
		t.Fatal(err)
	}
	// The end of a process drains it too, but not the next one.
	c.drop()
	s.agent(t, enginetest.Script{}, inHome)
	wait(t, c.beats, "a heartbeat of the third", draining(false))
}

func TestDrainThatCannotBeNoted(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{}, nil)
	if err := os.WriteFile(filepath.Join(r.home, "agent"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	code(t, c.request(bus.VerbDrain, bus.DrainRequest{On: true}, nil), cluster.CodeInternal, "note")
	if got, err := c.infer(count(3)); err != nil || got != "1, 2, 3" {
		t.Errorf("a node that did not drain: %q, %v", got, err)
	}
}
