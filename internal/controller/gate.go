package controller

import (
	"context"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// gate knows what is under way, so that Run can end it and wait for it, and lets nothing in after the end. The zero
// value is open.
type gate struct {
	work sync.WaitGroup // what is inside

	mu     sync.Mutex
	closed bool                   // guarded by mu
	inside map[*lifeline]struct{} // guarded by mu
}

// lifeline ends something when what it depends on is gone.
type lifeline struct{ cancel context.CancelCauseFunc }

// errShutdown is why things end with the controller.
func errShutdown() *cluster.Error {
	return cluster.Errorf(cluster.CodeUnreachable, "the controller is shutting down").WithHint("try again in a moment")
}

// enter returns a context for a piece of work, which ends with ctx and with the controller. leave has to be called.
func (g *gate) enter(ctx context.Context) (inner context.Context, leave func(), err error) {
	inner, cancel := context.WithCancelCause(ctx)
	l := &lifeline{cancel}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		cancel(nil)
		return nil, nil, errShutdown()
	}
	if g.inside == nil {
		g.inside = make(map[*lifeline]struct{})
	}
	g.inside[l] = struct{}{}
	g.work.Add(1)
	return inner, func() {
		cancel(nil)
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.inside, l)
		g.work.Done()
	}, nil
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for l := range g.inside {
		l.cancel(errShutdown())
	}
}

func (g *gate) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

func (g *gate) wait() { g.work.Wait() }
