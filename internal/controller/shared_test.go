package controller_test

import (
	"context"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/share"
)

func greedy(q *cluster.Request) { q.Temperature = new(0.0) }

func TestIdenticalRequestsShareOneGeneration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Share = share.Options{InFlight: true, TTL: time.Hour} })
	goOn := make(chan struct{})
	n := s.node(t, "a", script{infer: func(ctx context.Context, q *bus.InferRequest, w *bus.StreamWriter) error {
		select {
		case <-goOn:
			return echo(ctx, q, w)
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	c.ready(t, "a")
	ctx, leave := context.WithCancel(t.Context())
	first := make(chan *answer, 1)
	go func() { first <- c.ask(ctx, ask("one two three", greedy)) }()
	c.snapshot(t, "the first is placed", func(s *cluster.Snapshot) bool { return len(s.Requests) == 1 && s.Requests[0].Node == "a" })
	var others []<-chan *answer
	for range 5 {
		others = append(others, c.background(t, ask("one two three", greedy)))
	}
	c.snapshot(t, "the others share", func(s *cluster.Snapshot) bool {
		shared := 0
		for _, q := range s.Requests {
			if q.State == cluster.RequestShared {
				shared++
			}
		}
		return shared == 5
	})
	leave()
	if got := wait(t, "the first is gone", first); cluster.CodeOf(got.err) != cluster.CodeCancelled {
		t.Errorf("the first got %v", got.err)
	}
	close(goOn)
	for _, ch := range others {
		got := wait(t, "an answer", ch)
		if got.err != nil || got.text != "one two three" || got.usage == nil || !got.usage.Shared || got.node != "a" {
			t.Errorf("got %q, %+v, %v", got.text, got.usage, got.err)
		}
	}
	if got := c.ask(t.Context(), ask("one two three", greedy)); got.err != nil || got.text != "one two three" || !got.usage.Shared {
		t.Errorf("later: %q, %+v, %v", got.text, got.usage, got.err)
	}
	if asked := n.asked.Load(); asked != 1 {
		t.Errorf("the node was asked %d times", asked)
	}
	if got := c.ask(t.Context(), ask("one two three")); got.err != nil || got.usage.Shared {
		t.Errorf("a request that may be sampled got %+v, %v", got.usage, got.err)
	}
	totals := c.over(t, 8).Totals
	if totals.Finished != 8 || totals.Tokens != 2*3 {
		t.Errorf("totals are %+v", totals)
	}
}

func TestNothingIsSharedUnlessConfigured(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	n := s.node(t, "a", script{})
	c.ready(t, "a")
	for range 2 {
		if got := c.ask(t.Context(), ask("x", greedy)); got.err != nil || got.usage.Shared {
			t.Errorf("got %+v, %v", got.usage, got.err)
		}
	}
	if asked := n.asked.Load(); asked != 2 {
		t.Errorf("the node was asked %d times", asked)
	}
}
