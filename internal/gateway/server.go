package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	mostHeaderBytes = 64 << 10
	// lastWords is what answers get to leave, once their requests are ended.
	lastWords = time.Second
	// lastBytes is what the server gets to hand written answers to the system.
	lastBytes = 250 * time.Millisecond
)

// Serve answers requests that come in on l until ctx ends or Options.Finish says so, and closes l. When ctx ends, requests
// under way have Times.Grace to finish; those that do not get a typed error, as an event where their stream has begun. Serve
// returns nil after either, when nothing of it is left, and an error if l fails before.
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
		g.finish(ctx, srv, limited, requests)
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
		era, ok := requests.enter()
		if !ok {
			w.Header().Set("Connection", "close")
			g.visit(w, r).fail(errClosing())
			return
		}
		defer requests.exit(era)
		if requests.last.Load() {
			w.Header().Set("Connection", "close")
		}
		g.serve(w, r)
	})
}
