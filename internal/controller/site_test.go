package controller_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/client"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = bustest.Patience

// site is a cluster's bus with its users.
type site struct{ *bustest.Site }

func newSite(t *testing.T) *site {
	t.Helper()
	return &site{bustest.New(t)}
}

func (s *site) agentBus(t *testing.T, id cluster.NodeID) bus.Options {
	t.Helper()
	return s.Over(s.Server.URL(), s.Agent(t, id))
}

// rig is a controller that runs.
type rig struct {
	*controller.Controller
	end func() error // ends Run and returns what it returns
}

func (s *site) controller(t *testing.T, change func(*controller.Options)) *rig {
	t.Helper()
	conn := bustest.Reached(t, func() (*bus.Conn, error) { return bus.Dial(t.Context(), s.Inside(t)) })
	o := controller.Options{Conn: conn, Server: s.Server, Cluster: "attic", Version: "1.2.3", HTTP: "http://x"}
	o.Deadlines.Accept, o.Deadlines.Gap = patience, patience // slow machines are not what tests are about
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if change != nil {
		change(&o)
	}
	c := controller.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	end := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return errors.Join(err, conn.Close())
		case <-time.After(patience):
			return errors.New("Run does not end")
		}
	})
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return &rig{c, end}
}

func (s *site) client(t *testing.T, name string) *client.Client {
	t.Helper()
	o := s.Over(s.Server.URL(), s.Client(t, name))
	c := bustest.Reached(t, func() (*client.Client, error) { return client.Dial(t.Context(), client.Options{Bus: o, Name: name}) })
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// ready waits until the controller knows nodes in a state.
func (r *rig) ready(t *testing.T, ids ...cluster.NodeID) {
	t.Helper()
	for _, id := range ids {
		r.node(t, id, string(cluster.NodeReady), func(n cluster.Node) bool { return n.State == cluster.NodeReady })
	}
}

// node waits for a node to be as it should, and returns it.
func (r *rig) node(t *testing.T, id cluster.NodeID, what string, is func(cluster.Node) bool) cluster.Node {
	t.Helper()
	var last cluster.Node
	r.snapshot(t, "node "+string(id)+" is "+what, func(s *cluster.Snapshot) bool {
		for _, n := range s.Nodes {
			if n.ID == id {
				last = n
				return is(n)
			}
		}
		return false
	})
	return last
}

// snapshot waits for one that is as it should be.
func (r *rig) snapshot(t *testing.T, what string, is func(*cluster.Snapshot) bool) *cluster.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for s := range r.Watch(ctx) {
		if is(s) {
			return s
		}
	}
	t.Fatalf("not within %s: %s", patience, what)
	return nil
}

// over waits until n requests came and ended.
func (r *rig) over(t *testing.T, n int64) *cluster.Snapshot {
	t.Helper()
	return r.snapshot(t, "all is over", func(s *cluster.Snapshot) bool { return len(s.Requests) == 0 && s.Totals.Requests == n })
}

// streaming waits until n requests stream.
func (r *rig) streaming(t *testing.T, n int) {
	t.Helper()
	r.snapshot(t, "requests stream", func(s *cluster.Snapshot) bool {
		count := 0
		for _, q := range s.Requests {
			if q.State == cluster.RequestStreaming {
				count++
			}
		}
		return count == n
	})
}

func ask(text string, change ...func(*cluster.Request)) *cluster.Request {
	q := &cluster.Request{Model: "tiny", Prompt: &text}
	for _, c := range change {
		c(q)
	}
	return q
}

func on(id cluster.NodeID) func(*cluster.Request) {
	return func(q *cluster.Request) { q.Node = id }
}

// answer is what came of a request.
type answer struct {
	text   string
	node   cluster.NodeID // of the first piece
	usage  *cluster.Usage
	queued bool
	err    error
}

func (a *answer) take(c cluster.Chunk) error {
	if c.Progress != nil {
		a.queued = a.queued || c.Progress.Phase == cluster.PhaseQueued
		return nil
	}
	if a.node == "" {
		a.node = c.Node
	}
	a.text += c.Text
	if c.Finish != "" {
		a.usage = c.Usage
	}
	return nil
}

// asker answers requests: the controller itself, or a client of it.
type asker func(context.Context, *cluster.Request, func(cluster.Chunk) error) error

func (f asker) ask(ctx context.Context, q *cluster.Request) *answer {
	a := &answer{}
	a.err = f(ctx, q, a.take)
	return a
}

func (r *rig) ask(ctx context.Context, q *cluster.Request) *answer {
	return asker(r.Dispatch).ask(ctx, q)
}

// background asks without waiting; the answer comes on the channel.
func (r *rig) background(t *testing.T, q *cluster.Request) <-chan *answer {
	t.Helper()
	out := make(chan *answer, 1)
	go func() { out <- r.ask(t.Context(), q) }()
	return out
}

func wait[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("not within %s: %s", patience, what)
		panic("unreachable")
	}
}

// code wants an error of one kind, which says what and where.
func code(t *testing.T, err error, want cluster.Code, says ...string) {
	t.Helper()
	var typed *cluster.Error
	if !errors.As(err, &typed) || typed.Code != want {
		t.Errorf("got error %v (%s), want code %s", err, cluster.CodeOf(err), want)
		return
	}
	for _, s := range says {
		if !strings.Contains(typed.Message, s) {
			t.Errorf("error %q does not say %q", typed.Message, s)
		}
	}
}

func names(t *testing.T, err error, want cluster.NodeID) {
	t.Helper()
	e := cluster.AsError(err)
	if e == nil {
		t.Errorf("no error, want one that names node %q", want)
		return
	}
	if e.Node != want {
		t.Errorf("error %v names node %q, want %q", err, e.Node, want)
	}
}

// cable leads to the server; it can be cut, as by the death of a machine.
func (s *site) cable(t *testing.T) *bustest.Cable {
	t.Helper()
	return bustest.NewCable(t, s.Server.Addr())
}
