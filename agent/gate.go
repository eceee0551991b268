package agent

import (
	"context"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// gate counts what runs, and lets nothing new in while it is drained, nor once it ends.
type gate struct {
	mu      sync.Mutex
	drained bool // as an operator wants it
	ending  bool
	running int
	idle    chan struct{} // closed when ending and nothing runs
}

// enter begins a piece of work; leave must be called at its end. The error has CodeBusy.
func (g *gate) enter() (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.drained || g.ending {
		return nil, cluster.Errorf(cluster.CodeBusy, "this node is draining: it finishes what it has and takes nothing new")
	}
	g.running++
	return g.leave, nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.ending && g.running == 0 {
		close(g.idle)
	}
}

// drain has nothing new let in, or lets it in again.
func (g *gate) drain(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drained = on
}

// end has nothing new let in any more; the channel is closed when nothing runs.
func (g *gate) end() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ending {
		if g.ending = true; g.running == 0 {
			close(g.idle)
		}
	}
	return g.idle
}

func (g *gate) isDraining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.drained || g.ending
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running
}

// finish takes nothing new, tells the controller so, and lets what runs come to its end, for a while.
func (a *Agent) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, max(a.o.Grace, 0))
	defer cancel()
	idle := a.gate.end()
	poke(a.beat)
	select {
	case <-idle:
	case <-ctx.Done():
		if n := a.gate.count(); n > 0 { // both may have come true
			a.log.Warn("ending with requests that run", "running", n)
		}
	}
}
