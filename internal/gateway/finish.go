package gateway

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// finishPoll is how often it is looked whether requests have ended.
const finishPoll = 20 * time.Millisecond

// finish serves what is open to its end, or until ctx ends.
func (g *Gateway) finish(ctx context.Context, srv *http.Server, l *limited, requests *gate) {
	requests.last.Store(true)
	round := time.NewTimer(g.o.Times.Round)
	defer round.Stop()
	select {
	case <-round.C:
		g.findPause(ctx, l, requests)
		_ = srv.Shutdown(ctx) // ends early with ctx, whose end the caller handles
	case <-ctx.Done():
	}
}

// findPause returns, with no connection taken any more, when no request is open, or when that is not to be waited for. New
// connections are held back for a pause only: where a request lasts longer, they are taken until it has ended, and for as
// long as a pause at least.
func (g *Gateway) findPause(ctx context.Context, l *limited, requests *gate) {
	pause := g.o.Times.Pause
	for {
		l.pause()
		if g.until(ctx, pause, func() bool { return requests.open() == 0 }) || g.isLast(ctx) {
			return
		}
		l.resume()
		requests.newEra()
		began := time.Now()
		g.until(ctx, 0, func() bool { return requests.older() == 0 && time.Since(began) >= pause })
	}
}

// until waits for done, for so long where that is not zero, and not when there is no more time for it.
func (g *Gateway) until(ctx context.Context, most time.Duration, done func() bool) bool {
	tick := time.NewTicker(finishPoll)
	defer tick.Stop()
	began := time.Now()
	for !done() {
		if g.isLast(ctx) || (most > 0 && time.Since(began) >= most) {
			return false
		}
		<-tick.C
	}
	return true
}

// isLast says that no more connections are to be taken.
func (g *Gateway) isLast(ctx context.Context) bool {
	select {
	case _, open := <-g.o.Finish:
		return !open
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// gate counts requests.
type gate struct {
	idle chan struct{} // closed when the gate is and the last one left
	last atomic.Bool   // no connection is used for another request

	mu     sync.Mutex
	inside int  // guarded by mu, as is all below
	era    int  // of those that come
	former int  // how many are of an era before
	closed bool // nobody enters
}

// enter returns what exit has to be told.
func (g *gate) enter() (era int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0, false
	}
	g.inside++
	return g.era, true
}

func (g *gate) exit(era int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if era != g.era {
		g.former--
	}
	if g.closed && g.inside == 0 {
		close(g.idle)
	}
}

func (g *gate) open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

// newEra has those that are inside be older than all that come.
func (g *gate) newEra() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.era++
	g.former = g.inside
}

func (g *gate) older() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.former
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.inside == 0 {
		close(g.idle)
	}
}
