package controller_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
)

func TestAnswerIsWholeAndInOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	s.node(t, "a", script{})
	c.ready(t, "a")
	want := numbers(3000)
	for name, f := range map[string]asker{"controller": c.Dispatch, "client": s.client(t, "me").Generate} {
		q := ask(want)
		got := f.ask(t.Context(), q)
		if got.err != nil || got.text != want {
			t.Errorf("%s: got %d of %d bytes, %v", name, len(got.text), len(want), got.err)
		}
		if got.node != "a" || got.usage == nil || got.usage.CompletionTokens != 3001 {
			t.Errorf("%s: node %q, usage %+v", name, got.node, got.usage)
		}
		if q.ID != "" {
			t.Errorf("%s: the request was changed", name)
		}
	}
	totals := c.over(t, 2).Totals
	if totals.Finished != 2 || totals.Tokens != 2*3001 {
		t.Errorf("totals are %+v", totals)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	for field, bad := range map[string]func(*cluster.Request){
		"model":       func(q *cluster.Request) { q.Model = "" },
		"messages":    func(q *cluster.Request) { q.Prompt = nil },
		"temperature": func(q *cluster.Request) { q.Temperature = new(3.0) },
		"id":          func(q *cluster.Request) { q.ID = "a b" },
	} {
		err := c.ask(t.Context(), ask("x", bad)).err
		code(t, err, cluster.CodeInvalid)
		if e := cluster.AsError(err); e != nil && e.Field != field {
			t.Errorf("field %q, want %q", e.Field, field)
		}
	}
	if got := c.Snapshot().Totals; got.Requests != 4 || got.Failed != 4 {
		t.Errorf("totals are %+v", got)
	}
}

func TestErrorsOfTheRequestAreNotTriedElsewhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	nodes := []*node{
		s.node(t, "a", script{infer: refuse(cluster.CodeContext)}), s.node(t, "b", script{infer: refuse(cluster.CodeContext)}),
	}
	c.ready(t, "a", "b")
	err := c.ask(t.Context(), ask("x")).err
	code(t, err, cluster.CodeContext)
	names(t, err, "a")
	if n := nodes[0].asked.Load() + nodes[1].asked.Load(); n != 1 {
		t.Errorf("%d attempts, want 1", n)
	}
}

func TestAnswerWithoutItsLastPartIsAnError(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	s.node(t, "a", script{infer: func(_ context.Context, _ *bus.InferRequest, w *bus.StreamWriter) error {
		return w.Send(cluster.Chunk{Text: "half", Tokens: []int{1}})
	}})
	c.ready(t, "a")
	got := c.ask(t.Context(), ask("x"))
	code(t, got.err, cluster.CodeInternal, "mac-a", "without its last part")
	if got.text != "half" {
		t.Errorf("got %q", got.text)
	}
}

func TestClientThatIsGoneEndsTheWorkOnTheNode(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	why := make(chan error, 8)
	s.node(t, "a", script{infer: func(ctx context.Context, q *bus.InferRequest, w *bus.StreamWriter) error {
		err := first(ctx, q, w)
		why <- err
		return err
	}})
	c.ready(t, "a")
	client := s.client(t, "me")
	gone := errors.New("gone")
	for name, leave := range map[string]func() error{
		"the context of the client ends": func() error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			return client.Generate(ctx, ask("x"), func(cluster.Chunk) error { cancel(); return nil })
		},
		"the client takes no more": func() error {
			err := client.Generate(t.Context(), ask("x"), func(cluster.Chunk) error { return gone })
			if !errors.Is(err, gone) {
				t.Errorf("got %v, want the client's own error", err)
			}
			return cluster.Errorf(cluster.CodeCancelled, "x")
		},
		"the gateway's client takes no more": func() error {
			return c.Dispatch(t.Context(), ask("x"), func(cluster.Chunk) error { return gone })
		},
	} {
		code(t, leave(), cluster.CodeCancelled)
		// Without that word, the node would find out by itself, after a while.
		code(t, wait(t, name+": the node's handler ends", why), cluster.CodeCancelled, "the reader cancelled the stream")
	}
	totals := c.over(t, 3).Totals
	if totals.Cancelled != 3 || totals.Failed != 0 {
		t.Errorf("totals are %+v", totals)
	}
}

func TestClientThatLeavesTheQueueMakesRoom(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.MaxWaiting = 2 })
	h := newHeld()
	s.node(t, "a", script{slots: 1, infer: h.infer})
	c.ready(t, "a")
	running := c.background(t, ask("runs"))
	wait(t, "the first begins", h.begun)
	ctx, cancel := context.WithCancel(t.Context())
	queued := make(chan struct{}, 2)
	left := make(chan error, 2)
	for range 2 {
		go func() {
			left <- c.Dispatch(ctx, ask("waits"), func(k cluster.Chunk) error {
				if k.Progress != nil && k.Progress.Phase == cluster.PhaseQueued {
					queued <- struct{}{}
				}
				return nil
			})
		}()
	}
	wait(t, "one waits", queued)
	wait(t, "two wait", queued)
	code(t, c.ask(t.Context(), ask("too many")).err, cluster.CodeBusy, "queue is full: 2")
	cancel()
	code(t, wait(t, "one leaves", left), cluster.CodeCancelled)
	code(t, wait(t, "the other leaves", left), cluster.CodeCancelled)
	last := c.background(t, ask("comes later"))
	h.let <- struct{}{}
	h.let <- struct{}{}
	for _, a := range []*answer{wait(t, "the first ends", running), wait(t, "the last ends", last)} {
		if a.err != nil {
			t.Error(a.err)
		}
	}
}

func TestRequestsAreAnsweredInTheirOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	h := newHeld()
	s.node(t, "a", script{slots: 1, infer: h.infer})
	c.ready(t, "a")
	var wg sync.WaitGroup
	const count = 20
	for i := range count {
		waits := make(chan struct{}, 1)
		q := ask(strconv.Itoa(i))
		if i%2 == 1 {
			q.Node = "a" // stands in another line for the same place
		}
		wg.Go(func() {
			err := c.Dispatch(t.Context(), q, func(k cluster.Chunk) error {
				if k.Progress != nil && k.Progress.Phase == cluster.PhaseQueued {
					waits <- struct{}{}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
		if i > 0 {
			wait(t, "it waits", waits)
		} else if got := wait(t, "the first begins", h.begun); got != "0" {
			t.Fatalf("%s is first", got)
		}
	}
	for i := 1; i < count; i++ {
		h.let <- struct{}{}
		if got := wait(t, "the next begins", h.begun); got != strconv.Itoa(i) {
			t.Errorf("%s came at place %d", got, i)
		}
	}
	h.let <- struct{}{}
	wg.Wait()
}
