package gateway

import (
	"context"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// dispatch has each choice of an answer made and hands on their chunks, one at a time. It returns nil when each of them
// came to its end, whatever goes wrong after that. The first that fails ends the others, and so does an error of emit.
func (v *visit) dispatch(ctx context.Context, a answer, emit func(choice int, c *cluster.Chunk) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := choices{v: v, emit: emit, cancel: cancel}
	var all sync.WaitGroup
	for i := 1; i < a.Choices(); i++ {
		all.Go(func() { c.run(ctx, i, choiceRequest(a.Request(), i)) })
	}
	c.run(ctx, 0, a.Request())
	all.Wait()
	return c.err
}

// choiceRequest is the request for one more choice: another id and, where the drawing is to be repeatable, a seed of its
// own.
func choiceRequest(first *cluster.Request, i int) *cluster.Request {
	r := *first
	r.ID = r.ID.Choice(i)
	if r.Seed != nil {
		seed := *r.Seed + int64(i)
		r.Seed = &seed
	}
	return &r
}

// choices are made at the same time.
type choices struct {
	v      *visit
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	emit func(choice int, c *cluster.Chunk) error // called with mu held
	err  error                                    // the first
}

func (c *choices) run(ctx context.Context, i int, req *cluster.Request) {
	finished := false
	err := c.v.g.o.Backend.Dispatch(ctx, req, func(chunk cluster.Chunk) error {
		if finished {
			return nil
		}
		finished = chunk.Finish != ""
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.emit(i, &chunk)
	})
	if finished {
		return
	}
	if err == nil {
		err = errUnfinished()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		c.cancel(&cluster.Error{Code: cluster.CodeCancelled, Message: "another choice of the request failed: " + err.Error()})
	}
}
