package agent

import (
	"context"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// gate counts what runs, and lets nothing new in once it is closed.
type gate struct {
	mu       sync.Mutex
	draining bool
	running  int
	idle     chan struct{} // closed when draining and nothing runs
}

// enter begins a piece of work; leave must be called at its end. The error has CodeBusy.
func (g *gate) enter() (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		return nil, cluster.Errorf(cluster.CodeBusy, "this node is draining: it finishes what it has and takes nothing new")
	}
	g.running++
	return g.leave, nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.draining && g.running == 0 {
		close(g.idle)
	}
}

func (g *gate) drain() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.draining {
		if g.draining = true; g.running == 0 {
			close(g.idle)
		}
	}
	return g.idle
}

func (g *gate) isDraining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running
}

// Drain has the node take nothing new, tells the controller so, and returns when what ran is finished, or with the
// cause of ctx's end before. There is no way back.
func (a *Agent) Drain(ctx context.Context) error {
	idle := a.gate.drain()
	poke(a.beat)
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	select { // both may have come true
	case <-idle:
		return nil
	default:
		return context.Cause(ctx)
	}
}
