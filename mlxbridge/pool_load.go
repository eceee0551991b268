package mlxbridge

import (
	"cmp"
	"context"
	"slices"
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
	if err := p.makeRoom(ctx, r); err != nil {
		return nil, err
	}
	p.mu.Lock()
	if r.state == cluster.ReplicaFailed {
		p.enterState(r, cluster.ReplicaLoading, "")
	}
	spec := LaunchSpec{Model: r.model, Dir: r.dir, MaxRows: p.o.MaxRows}
	if p.o.BudgetBytes > 0 {
		spec.MemoryBytes = r.planned
	}
	p.mu.Unlock()
	p.tell()
	return p.o.Launcher.Launch(ctx, spec)
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
	p.work.Go(func() {
		select {
		case <-engine.Done():
			p.died(r, engine)
		case <-r.gone: // it was given up
		}
	})
}

// makeRoom claims what a replica needs, and evicts others for it. Nobody else gets in between.
func (p *Pool) makeRoom(ctx context.Context, r *replica) error {
	select {
	case p.admission <- struct{}{}:
		defer func() { <-p.admission }()
	case <-ctx.Done():
		return contextError(ctx)
	}
	for {
		p.mu.Lock()
		free, victims, err := p.room(r)
		if err == nil && len(victims) == 0 {
			r.planned = planFor(r.model, p.o.MaxRows).claim(free)
		}
		for _, v := range victims {
			p.startEvict(context.Background(), v, "memory is needed for "+r.model.Name)
		}
		p.mu.Unlock()
		p.tell()
		if err != nil || len(victims) == 0 {
			return err
		}
		for _, v := range victims {
			select {
			case <-v.gone:
			case <-ctx.Done():
				return contextError(ctx)
			}
		}
	}
}

// room says how much of the budget is free for a replica, or who must go before it fits. It is an error when that is
// not enough. Called with mu held.
func (p *Pool) room(r *replica) (free int64, victims []*replica, err error) {
	need := planFor(r.model, p.o.MaxRows)
	budget := p.o.BudgetBytes
	if budget <= 0 {
		return need.wanted, nil, nil
	}
	if need.least > budget {
		return 0, nil, cluster.Errorf(cluster.CodeNoFit, "model %s needs %s, and the memory budget here is %s",
			r.model.Name, bytesText(need.least), bytesText(budget))
	}
	free = budget - p.planned(r)
	if free >= need.least {
		return free, nil, nil
	}
	var may []*replica
	for _, v := range p.replicas {
		if v != r && v.planned > 0 && (v.isIdle() || v.state == cluster.ReplicaEvicting) {
			may = append(may, v)
		}
	}
	slices.SortFunc(may, func(a, b *replica) int {
		going := func(v *replica) int {
			if v.state == cluster.ReplicaEvicting {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(going(a), going(b)), a.idleSince.Compare(b.idleSince))
	})
	for i, v := range may {
		if free += v.planned; free >= need.least {
			return free, may[:i+1], nil
		}
	}
	return 0, nil, cluster.Errorf(cluster.CodeBusy,
		"model %s needs %s, and models that are busy or pinned leave %s of the memory budget of %s",
		r.model.Name, bytesText(need.least), bytesText(free), bytesText(budget))
}

// planned sums the claims of all but one. Called with mu held.
func (p *Pool) planned(but *replica) int64 {
	var sum int64
	for _, r := range p.replicas {
		if r != but {
			sum += r.planned
		}
	}
	return sum
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
	r.engine, r.planned = nil, 0
	close(r.gone)
}

// expire unloads models that nobody has asked for.
func (p *Pool) expire() {
	tick := time.NewTicker(min(max(p.o.IdleTTL/10, time.Millisecond), 10*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-p.closing:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		for _, r := range p.replicas {
			if r.isIdle() && time.Since(r.idleSince) >= p.o.IdleTTL {
				p.startEvict(context.Background(), r, "idle for "+p.o.IdleTTL.String())
			}
		}
		p.mu.Unlock()
		p.tell()
	}
}
