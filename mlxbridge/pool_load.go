package mlxbridge

import (
	"context"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// startLoad begins to load a replica after a delay. Called with mu held, on a Pool that is open.
func (p *Pool) startLoad(r *replica, delay time.Duration) {
	// A load belongs to all who wait for it, and outlives each of them.
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &load{done: make(chan struct{}), cancel: cancel, now: make(chan struct{})}
	r.load = l
	if delay <= 0 {
		p.enterState(r, cluster.ReplicaLoading, "")
	}
	p.work.Go(func() {
		defer cancel(nil)
		engine, err := p.runLoad(ctx, r, l, delay)
		p.endLoad(r, l, engine, err)
		p.tell()
	})
}

func (p *Pool) runLoad(ctx context.Context, r *replica, l *load, delay time.Duration) (Engine, error) {
	timer := time.NewTimer(max(delay, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.now:
	case <-ctx.Done():
		return nil, contextError(ctx)
	}
	a := p.attempt(r)
	if err := p.examine(a); err != nil {
		p.refuse(a, err)
		return nil, err
	}
	if err := p.makeRoom(ctx, r); err != nil {
		return nil, err
	}
	p.mu.Lock()
	if r.state == cluster.ReplicaFailed {
		p.enterState(r, cluster.ReplicaLoading, "")
	}
	p.mu.Unlock()
	p.tell()
	spec, err := p.spec(ctx, r)
	if err != nil {
		return nil, err
	}
	engine, err := p.o.Launcher.Launch(ctx, spec)
	if err != nil {
		p.refuse(a, err)
	}
	return engine, err
}

// endLoad takes what a load came to.
func (p *Pool) endLoad(r *replica, l *load, engine Engine, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(l.done)
	r.load = nil
	if r.state == cluster.ReplicaEvicting {
		l.err = cluster.Errorf(cluster.CodeNodeLost, "model %s was unloaded here: %s", r.model.Name, r.reason)
		if err == nil {
			r.engine = engine
			p.work.Go(func() { p.end(context.Background(), r, engine) })
			return
		}
		p.remove(r)
		return
	}
	l.engine, l.err = engine, err
	if err != nil {
		p.fail(r, err)
		return
	}
	r.engine, r.loadedAt, r.last, r.retryAt = engine, time.Now(), Stats{}, time.Time{}
	if r.wasReady || len(r.crashes) > 0 {
		r.restarts++
	}
	r.wasReady = true
	if r.users == 0 {
		r.idleSince = time.Now()
	}
	p.enterState(r, cluster.ReplicaReady, "")
	p.correct(r)
	p.work.Go(func() {
		select {
		case <-engine.Done():
			p.died(r, engine)
		case <-r.gone: // it was given up
		}
	})
}

// startEvict begins to end a replica; its claim lasts until it is gone. ctx bounds how long its worker is waited for
// before it is killed. Called with mu held.
func (p *Pool) startEvict(ctx context.Context, r *replica, why string) {
	if r.state == cluster.ReplicaEvicting {
		return
	}
	p.enterState(r, cluster.ReplicaEvicting, why)
	switch {
	case r.load != nil:
		r.load.cancel(cluster.Errorf(cluster.CodeNodeLost, "model %s was unloaded here: %s", r.model.Name, why))
	case r.engine != nil:
		engine := r.engine
		p.work.Go(func() { p.end(ctx, r, engine) })
	default:
		p.remove(r)
	}
}

// end closes the engine of a replica that is evicted.
func (p *Pool) end(ctx context.Context, r *replica, engine Engine) {
	ctx, cancel := context.WithTimeout(ctx, evictWait)
	defer cancel()
	err := engine.Close(ctx)
	if err != nil {
		p.o.Log.Error("worker does not end", "model", r.model.Name, "err", err)
	}
	p.mu.Lock()
	if err != nil {
		p.failures = append(p.failures, err)
	}
	p.remove(r)
	p.mu.Unlock()
	p.tell()
}

// remove forgets a replica. Called with mu held.
func (p *Pool) remove(r *replica) {
	if p.replicas[r.model.Name] == r {
		delete(p.replicas, r.model.Name)
	}
	r.forget()
	r.planned = 0
	close(r.gone)
}

// leastTTL is the shortest time after which an idle model is unloaded; zero where none ever is.
func (p *Pool) leastTTL() time.Duration {
	least := p.o.Options.IdleTTL
	for _, o := range p.o.Models {
		if o.IdleTTL > 0 && (least == 0 || o.IdleTTL < least) {
			least = o.IdleTTL
		}
	}
	return least
}

// expire unloads models that nobody has asked for.
func (p *Pool) expire(least time.Duration) {
	tick := time.NewTicker(min(max(least/10, time.Millisecond), 10*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-p.closing:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		for _, r := range p.replicas {
			ttl := p.options(r.model.Name).IdleTTL
			if ttl > 0 && r.isIdle() && time.Since(r.idleSince) >= ttl {
				p.startEvict(context.Background(), r, "idle for "+ttl.String())
			}
		}
		p.mu.Unlock()
		p.tell()
	}
}
