package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	mostHeaderBytes = 64 << 10
	// lastWords is what answers get to leave, once their requests are ended.
	lastWords = time.Second
	// lastBytes is what the server gets to hand written answers to the system.
	lastBytes = 250 * time.Millisecond
	// lastRound is what clients that keep their connections get to learn, with an answer, that theirs is closed after it. One
	// that was idle throughout is closed, as any idle one may be.
	lastRound = time.Second
)

// Serve answers requests that come in on l until ctx ends or Options.Finish is closed, and closes l. When ctx ends, requests under way have Times.Grace to
// finish; those that do not get a typed error, as an event where their stream has begun. Serve returns nil after either,
// when nothing of it is left, and an error if l fails before.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	requests := &gate{idle: make(chan struct{})}
	srv := &http.Server{
		Handler:           g.gated(requests),
		ReadHeaderTimeout: g.o.Times.Header,
		IdleTimeout:       g.o.Times.Idle,
		MaxHeaderBytes:    mostHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(g.o.Log.Handler(), slog.LevelDebug),
	}
	limited := newLimited(l, g.o.MaxConnections, g.o.Times, g.o.Log)
	failed := make(chan error, 1) // so that the server can end before it is asked how
	var wg sync.WaitGroup
	wg.Go(func() { failed <- srv.Serve(limited) })
	var err error
	select {
	case <-ctx.Done():
	case <-g.o.Finish:
		finish(ctx, srv, requests)
	case err = <-failed:
		err = fmt.Errorf("serve http on %s: %w", l.Addr(), err)
	}
	_ = limited.Close() // it may be closed already
	requests.close()
	if err == nil {
		wait(requests.idle, g.o.Times.Grace)
	}
	end(errClosing())
	wait(requests.idle, lastWords)
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), lastBytes)
	_ = srv.Shutdown(last) // Close does the rest
	stop()
	_ = srv.Close()
	<-requests.idle
	wg.Wait()
	return err
}

// finish serves what is open to its end, or until ctx ends.
func finish(ctx context.Context, srv *http.Server, requests *gate) {
	requests.last.Store(true)
	round := time.NewTimer(lastRound)
	defer round.Stop()
	select {
	case <-round.C:
		_ = srv.Shutdown(ctx) // ends early with ctx, whose end the caller handles
	case <-ctx.Done():
	}
}

func errClosing() error {
	return cluster.Errorf(cluster.CodeUnreachable, "the gateway is shutting down").WithHint("try again in a moment")
}

func wait(done <-chan struct{}, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// gated lets requests in until the gate is closed.
func (g *Gateway) gated(requests *gate) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !requests.enter() {
			w.Header().Set("Connection", "close")
			g.visit(w, r).fail(errClosing())
			return
		}
		defer requests.exit()
		if requests.last.Load() {
			w.Header().Set("Connection", "close")
		}
		g.serve(w, r)
	})
}

// gate counts requests.
type gate struct {
	idle chan struct{} // closed when the gate is and the last one left
	last atomic.Bool   // no connection is used for another request

	mu     sync.Mutex
	inside int  // guarded by mu
	closed bool // guarded by mu
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) exit() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.closed && g.inside == 0 {
		close(g.idle)
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.inside == 0 {
		close(g.idle)
	}
}
