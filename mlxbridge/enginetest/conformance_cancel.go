package enginetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func (c *conformance) cancelRunning() {
	t := c.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := c.settled(t)
	a := Collect(t, func(emit func(cluster.Chunk)) error {
		return c.engine.Generate(ctx, c.count(300), func(chunk cluster.Chunk) {
			emit(chunk)
			if len(chunk.Tokens) > 0 {
				cancel()
			}
		})
	})
	if got := cluster.CodeOf(a.Err); got != cluster.CodeCancelled {
		t.Fatalf("got %q: %v", got, a.Err)
	}
	if !strings.HasPrefix(Counted(1, 300), a.Text) {
		t.Errorf("what was emitted is no prefix of the answer: %q", a.Text)
	}
	after := c.settled(t)
	if got := after.Cancelled - before.Cancelled; got != 1 {
		t.Errorf("the engine counts %d cancelled requests", got)
	}
	if steps := after.Steps - before.Steps; steps > 250 {
		t.Errorf("%d steps were taken for a request that was cancelled after its first token", steps)
	}
}

func (c *conformance) cancelWaiting() {
	t := c.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asking sync.WaitGroup
	defer asking.Wait()
	running := make(chan struct{}, c.spec.MaxRows)
	stopAll, stop := context.WithCancel(t.Context())
	defer stop()
	for range c.spec.MaxRows {
		asking.Go(func() {
			tell := sync.OnceFunc(func() { running <- struct{}{} })
			_ = c.engine.Generate(stopAll, c.count(300), func(cluster.Chunk) { tell() }) // it is cancelled below, or whole
			tell()
		})
	}
	for range c.spec.MaxRows {
		<-running
	}
	time.AfterFunc(5*time.Millisecond, cancel)
	a := c.ask(ctx, t, c.count(300))
	if got := cluster.CodeOf(a.Err); got != cluster.CodeCancelled {
		t.Errorf("got %q: %v", got, a.Err)
	}
}

func (c *conformance) cancelBefore() {
	t := c.t
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := c.ask(ctx, t, c.count(3))
	if got := cluster.CodeOf(a.Err); got != cluster.CodeCancelled || a.Chunks > 0 {
		t.Errorf("got %q with %d chunks: %v", got, a.Chunks, a.Err)
	}
}

func (c *conformance) deadline() {
	t := c.t
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	a := c.ask(ctx, t, c.count(300))
	if got := cluster.CodeOf(a.Err); got != cluster.CodeTimeout {
		t.Errorf("got %q: %v", got, a.Err)
	}
}

func (c *conformance) cause() {
	t := c.t
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	why := cluster.Errorf(cluster.CodeNodeLost, "the controller is gone")
	a := Collect(t, func(emit func(cluster.Chunk)) error {
		return c.engine.Generate(ctx, c.count(300), func(chunk cluster.Chunk) {
			emit(chunk)
			cancel(why)
		})
	})
	if !errors.Is(a.Err, why) {
		t.Errorf("got %v, want %v", a.Err, why)
	}
}
