package controller_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
)

func TestNodeLostBeforeTheFirstTokenIsReplacedSilently(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	line := s.cable(t)
	begun := make(chan struct{}, 8)
	s.node(t, "a", script{url: line.URL(), infer: func(ctx context.Context, q *bus.InferRequest, w *bus.StreamWriter) error {
		begun <- struct{}{}
		return silence(ctx, q, w)
	}})
	s.node(t, "b", script{})
	c.ready(t, "a", "b")
	got := c.background(t, ask("one two"))
	wait(t, "the attempt begins", begun)
	line.Set(false)
	a := wait(t, "the answer", got)
	if a.err != nil || a.text != "one two" || a.node != "b" {
		t.Errorf("got %q of %q, %v", a.text, a.node, a.err)
	}
	c.node(t, "a", "down", func(n cluster.Node) bool { return n.State == cluster.NodeDown && n.Reason == "its connection closed" })
}

func TestNodeLostAfterTheFirstTokenIsATypedErrorSoon(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Deadlines.Gap = time.Hour }) // it is not silence that tells
	line := s.cable(t)
	s.node(t, "a", script{url: line.URL(), infer: first})
	other := s.node(t, "b", script{models: []cluster.Model{{Name: "other"}}})
	c.ready(t, "a", "b")
	events := c.Events(t.Context())
	got := c.background(t, ask("x"))
	c.streaming(t, 1)
	line.Set(false)
	a := wait(t, "the error", got)
	code(t, a.err, cluster.CodeNodeLost, "mac-a", "its connection closed")
	names(t, a.err, "a")
	if a.text != "first" {
		t.Errorf("got %q", a.text)
	}
	if n := other.asked.Load(); n != 0 {
		t.Errorf("the other node was asked %d times", n)
	}
	for {
		e := wait(t, "news of the failed request", events)
		if e.Kind == cluster.EventRequestError {
			if e.Node != "a" || e.Model != "tiny" || e.Request == "" {
				t.Errorf("event is %+v", e)
			}
			return
		}
	}
}

func TestConnectionThatIsBackSoonGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { *o = o.WithLinger(patience) }) // until it is back
	line := s.cable(t)
	let := make(chan struct{})
	n := s.node(t, "a", script{url: line.URL(), infer: func(_ context.Context, q *bus.InferRequest, w *bus.StreamWriter) error {
		if err := w.Send(cluster.Chunk{Text: "one ", Tokens: []int{1}}); err != nil {
			return err
		}
		<-let
		return echo(context.Background(), q, w)
	}})
	c.ready(t, "a")
	got := c.background(t, ask("two three"))
	c.streaming(t, 1)
	line.Set(false)
	suspect := c.node(t, "a", "suspect", func(n cluster.Node) bool { return n.State != cluster.NodeReady })
	line.Set(true)
	if suspect.State != cluster.NodeSuspect {
		t.Errorf("the node is %s, want suspect", suspect.State)
	}
	waits := c.background(t, ask("four")) // while the only node is away
	c.ready(t, "a")
	close(let)
	if a := wait(t, "the answer", got); a.err != nil || a.text != "one two three" {
		t.Errorf("got %q, %v", a.text, a.err)
	}
	if a := wait(t, "the answer of the one that waited", waits); a.err != nil || a.text != "one four" {
		t.Errorf("who came meanwhile got %q, %v", a.text, a.err)
	}
	if asked := n.asked.Load(); asked != 2 {
		t.Errorf("%d attempts, want 2", asked)
	}
}

func TestWorkerCrashesAreNotSpread(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	var nodes []*node
	for _, id := range []cluster.NodeID{"a", "b", "c"} {
		nodes = append(nodes, s.node(t, id, script{infer: refuse(cluster.CodeWorkerCrashed)}))
		c.ready(t, id)
	}
	asked := func() (sum int32) {
		for _, n := range nodes {
			if n.asked.Load() > 1 {
				t.Errorf("%s was asked twice", n.id)
			}
			sum += n.asked.Load()
		}
		return sum
	}
	code(t, c.ask(t.Context(), ask("x")).err, cluster.CodeWorkerCrashed)
	if n := asked(); n != 2 {
		t.Errorf("the request took down %d workers, want 2", n)
	}
}

func TestWorkerCrashGoesElsewhereOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	a := s.node(t, "a", script{infer: refuse(cluster.CodeWorkerCrashed)})
	s.node(t, "b", script{})
	c.ready(t, "a", "b")
	if got := c.ask(t.Context(), ask("one two")); got.err != nil || got.text != "one two" || got.node != "b" {
		t.Errorf("got %q of %q, %v", got.text, got.node, got.err)
	}
	code(t, c.ask(t.Context(), ask("x", on("a"))).err, cluster.CodeWorkerCrashed) // its only node
	if n := a.asked.Load(); n != 2 {
		t.Errorf("%d attempts on a, want one each", n)
	}
}

func TestBusyNode(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	a := s.node(t, "a", script{infer: refuse(cluster.CodeBusy)})
	s.node(t, "b", script{})
	c.ready(t, "a", "b")
	if got := c.ask(t.Context(), ask("one two")); got.err != nil || got.text != "one two" || got.node != "b" {
		t.Errorf("got %q of %q, %v", got.text, got.node, got.err)
	}
	if n := a.asked.Load(); n != 1 {
		t.Errorf("the busy node was asked %d times", n)
	}
	code(t, c.ask(t.Context(), ask("x", on("a"))).err, cluster.CodeBusy)
	if n := a.asked.Load() - 1; n < 2 || n > 5 {
		t.Errorf("the only node was asked %d times before it was given up", n)
	}
}

func TestBusyNodeIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	var n *node
	n = s.node(t, "a", script{infer: func(ctx context.Context, q *bus.InferRequest, w *bus.StreamWriter) error {
		if n.asked.Load() < 3 {
			return cluster.Errorf(cluster.CodeBusy, "full")
		}
		return echo(ctx, q, w)
	}})
	c.ready(t, "a")
	got := c.ask(t.Context(), ask("one two"))
	if got.err != nil || got.text != "one two" || !got.queued {
		t.Errorf("got %q, queued %t, %v", got.text, got.queued, got.err)
	}
}

func TestNodeWhoseAgentDoesNotListenIsSuspected(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	// It says that it is there, over another connection than the one it would listen on.
	o := s.agentBus(t, "a")
	o.WaitForConnect = true
	conn := bustest.Dial(t, o)
	n := &node{t: t, id: "a", boot: "1", script: script{models: []cluster.Model{tiny()}}, conn: conn}
	n.hello()
	n.beat()
	c.ready(t, "a")
	n.beat() // else the time to the next one might be over
	code(t, c.ask(t.Context(), ask("x")).err, cluster.CodeUnreachable, "a")
	c.node(t, "a", "down", func(n cluster.Node) bool { return n.State == cluster.NodeDown })
}

func TestNodeThatFallsSilentAgainIsSuspectedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	n := s.node(t, "a", script{})
	c.ready(t, "a")
	n.mute.Store(true)
	suspect := func(n cluster.Node) bool { return n.State == cluster.NodeSuspect }
	c.node(t, "a", "suspect", suspect)
	n.beat()
	c.ready(t, "a")
	c.node(t, "a", "suspect again", suspect)
}

func TestTwoAgentsWithOneIDAreNotTrusted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	s.node(t, "a", script{})
	c.ready(t, "a")
	twin := s.node(t, "a", script{})
	c.node(t, "a", "given up", func(n cluster.Node) bool { return n.State == cluster.NodeDown })
	code(t, c.ask(t.Context(), ask("x")).err, cluster.CodeNoNode, "two agents")
	twin.stop()
	c.ready(t, "a")
	if got := c.ask(t.Context(), ask("one two")); got.err != nil || got.text != "one two" {
		t.Errorf("got %q, %v", got.text, got.err)
	}
}

func TestAgentThatStartsAgainEndsItsStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	line := s.cable(t)
	s.node(t, "a", script{url: line.URL(), infer: first})
	c.ready(t, "a")
	got := c.background(t, ask("x"))
	c.streaming(t, 1)
	line.Set(false)
	next := s.node(t, "a", script{}) // before the old one is given up
	code(t, wait(t, "the error", got).err, cluster.CodeNodeLost, "mac-a")
	c.ready(t, "a")
	if a := c.ask(t.Context(), ask("one two")); a.err != nil || a.text != "one two" || next.asked.Load() != 1 {
		t.Errorf("got %q, %v", a.text, a.err)
	}
}

func TestModelThatChangedOnDiskIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	var version atomic.Int32
	digest := func() string { return []string{"sha256:1", "sha256:2"}[version.Load()] }
	s.node(t, "a", script{
		resolve: func(name string) (cluster.Model, error) { return cluster.Model{Name: name, Digest: digest()}, nil },
		infer: func(ctx context.Context, q *bus.InferRequest, w *bus.StreamWriter) error {
			if q.Model.Digest != digest() {
				return cluster.Errorf(cluster.CodeConflict, "model %s has changed", q.Model.Name)
			}
			return echo(ctx, q, w)
		},
	})
	c.ready(t, "a")
	for range 2 {
		got := c.ask(t.Context(), ask("one two", func(q *cluster.Request) { q.Model = "/models/mine" }))
		if got.err != nil || got.text != "one two" {
			t.Errorf("got %q, %v", got.text, got.err)
		}
		version.Store(1)
	}
}
