package controller_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
)

// journal is a log that can be read while it is written.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// A node that sends without end fills no log, and takes no other node's heartbeats away.
func TestANodeThatSendsWithoutEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var log journal
	c := s.controller(t, func(o *controller.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	s.node(t, "a", script{})
	c.ready(t, "a")
	o := s.agentBus(t, "thief")
	o.WaitForConnect = true
	thief, err := bus.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = thief.Close() }()
	for range 20_000 {
		for _, subject := range []string{bus.HeartbeatSubject("thief"), bus.EventSubject("thief", bus.EventNews)} {
			_ = thief.Publish(subject, "no such thing") // a server that has enough of it may end the connection
		}
	}
	if a := c.ask(t.Context(), ask("one two")); a.err != nil || a.text != "one two" {
		t.Errorf("got %q, %v", a.text, a.err)
	}
	c.node(t, "a", "stays", func(n cluster.Node) bool { return n.State == cluster.NodeReady })
	for deadline := time.After(patience); !strings.Contains(log.String(), "sends too much"); {
		select {
		case <-deadline:
			t.Fatalf("it was not told:\n%.2000s", log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	said := log.String()
	about := 0
	for line := range strings.Lines(said) {
		if strings.Contains(line, "thief") {
			about++
		}
	}
	if about > 500 {
		t.Errorf("%d lines:\n%.2000s", about, said)
	}
}
