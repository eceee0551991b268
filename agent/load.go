package agent

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// progressEvery is how often who waits for a model is told that it is being loaded.
const progressEvery = time.Second

// loadModel brings a model into memory.
func (a *Agent) loadModel(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var q bus.LoadRequest
	if err := decode(&q); err != nil {
		return err
	}
	leave, err := a.gate.enter()
	if err != nil {
		return a.here(err)
	}
	defer leave()
	m, dir, err := a.o.Library.Resolve(ctx, q.Model)
	if err != nil {
		return a.here(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	telling, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() {
		if err := tellLoading(telling, w); err != nil {
			cancel(err) // nobody waits any more; the pool goes on
		}
	})
	err = a.pool.Load(ctx, m, dir, q.Pinned)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return a.here(err)
}

// loadPinned brings the models into memory that the settings want there at all times, one after the other.
func (a *Agent) loadPinned(ctx context.Context) {
	for _, o := range a.o.Models {
		if !o.Pinned {
			continue
		}
		m, dir, err := a.o.Library.Resolve(ctx, o.Name)
		if err == nil {
			err = a.pool.Load(ctx, m, dir, true)
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("a pinned model cannot be loaded", "model", o.Name, "err", err)
		}
	}
}

func tellLoading(ctx context.Context, w *bus.StreamWriter) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		err := w.Send(cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhaseLoading}})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// unload takes a model out of memory.
func (a *Agent) unload(ctx context.Context, _ string, decode func(any) error) (any, error) {
	var q bus.UnloadRequest
	if err := decode(&q); err != nil {
		return nil, err
	}
	if filepath.IsAbs(q.Model) {
		q.Model = filepath.Clean(q.Model) // as the library names it
	}
	return nil, a.here(a.pool.Unload(ctx, q.Model, q.Force))
}

// resolve describes a model on this machine's disk.
func (a *Agent) resolve(ctx context.Context, _ string, decode func(any) error) (any, error) {
	var q bus.ResolveRequest
	if err := decode(&q); err != nil {
		return nil, err
	}
	m, _, err := a.o.Library.Resolve(ctx, q.Model)
	if err != nil {
		return nil, a.here(err)
	}
	return bus.ResolveReply{Model: m}, nil
}
