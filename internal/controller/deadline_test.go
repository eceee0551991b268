package controller_test

import (
	"cmp"
	"context"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
)

func TestDeadlines(t *testing.T) {
	t.Parallel()
	// Less than from one sign of life to the next; and what has to come before it has to come by then.
	const short = 700 * time.Millisecond
	endless := func(ctx context.Context, _ *bus.InferRequest, w *bus.StreamWriter) error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := w.Send(cluster.Chunk{Text: "x", Tokens: []int{1}}); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		return context.Cause(ctx)
	}
	for _, tt := range []struct {
		name   string
		script script
		limits controller.Deadlines
		change func(*cluster.Request)
		code   cluster.Code
		says   []string
		node   cluster.NodeID
		text   string // at the least
	}{
		{
			name: "accept", script: script{isDeaf: true}, limits: controller.Deadlines{Accept: short},
			code: cluster.CodeTimeout, says: []string{"mac-a", "did not accept", short.String()}, node: "a",
		},
		{
			name: "first token", script: script{infer: silence}, limits: controller.Deadlines{FirstToken: short},
			code: cluster.CodeTimeout, says: []string{"mac-a", "no first token", short.String()}, node: "a",
		},
		{
			name: "gap", script: script{infer: first}, limits: controller.Deadlines{Gap: short},
			code: cluster.CodeNodeLost, says: []string{"no sign of life", short.String()}, node: "a", text: "first",
		},
		{
			name: "next token", script: script{infer: first}, limits: controller.Deadlines{Token: short},
			code: cluster.CodeTimeout, says: []string{"mac-a", "in the middle", short.String()}, node: "a", text: "first",
		},
		{
			name: "total", script: script{infer: endless}, limits: controller.Deadlines{Total: short},
			code: cluster.CodeTimeout, says: []string{"not answered within " + short.String()}, text: "x",
		},
		{
			name: "total of the request", script: script{infer: endless}, code: cluster.CodeTimeout,
			change: func(q *cluster.Request) { q.Timeout = short }, says: []string{"not answered within " + short.String()}, text: "x",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			c := s.controller(t, func(o *controller.Options) {
				accept := o.Deadlines.Accept
				o.Deadlines = tt.limits
				o.Deadlines.Accept = cmp.Or(tt.limits.Accept, accept)
			})
			n := s.node(t, "a", tt.script)
			c.ready(t, "a")
			q := ask("x")
			if tt.change != nil {
				tt.change(q)
			}
			got := c.ask(t.Context(), q)
			code(t, got.err, tt.code, tt.says...)
			names(t, got.err, tt.node)
			if len(got.text) < len(tt.text) || (tt.text == "") != (got.text == "") {
				t.Errorf("got text %q, want %q", got.text, tt.text)
			}
			// A node that accepts nothing may be tried again; one that began has had its chance.
			if asked := n.asked.Load(); asked != 1 && !tt.script.isDeaf {
				t.Errorf("%d attempts, want 1", asked)
			}
		})
	}
}

func TestQueueDeadlineIsOfAllAttempts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Deadlines.Queue = time.Second })
	s.node(t, "a", script{slots: 1, infer: first})
	c.ready(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running := make(chan *answer, 1)
	go func() { running <- c.ask(ctx, ask("x")) }()
	c.streaming(t, 1)
	began := time.Now()
	got := c.ask(t.Context(), ask("x"))
	code(t, got.err, cluster.CodeTimeout, "no node was free", "1s")
	if took := time.Since(began); took < time.Second {
		t.Errorf("it took %s", took)
	}
	if !got.queued {
		t.Error("it was not told that it waits")
	}
	cancel()
	code(t, wait(t, "the first ends", running).err, cluster.CodeCancelled)
}

func TestDeadlineBeforeTheFirstTokenGoesElsewhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) {
		o.Deadlines.Accept, o.Deadlines.Gap = time.Second, 700*time.Millisecond // less than from one sign of life to the next
	})
	s.node(t, "a", script{isDeaf: true})
	s.node(t, "b", script{infer: silence}) // accepts, and gives no sign of life
	s.node(t, "c", script{})
	c.ready(t, "a", "b", "c")
	got := c.ask(t.Context(), ask("one two"))
	if got.err != nil || got.text != "one two" || got.node != "c" {
		t.Errorf("got %q of %q, %v", got.text, got.node, got.err)
	}
}
