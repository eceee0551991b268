package mlxbridge

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	defaultMaxRows = 32
	// waitingPerRow bounds the requests that wait for one model: four for each that it runs at once. At the usual length
	// of an answer that is some tens of seconds, and who would wait longer is better told that the model is busy.
	waitingPerRow = 4
	evictWait     = 10 * time.Second
)

// PoolOptions say what a Pool may use. Launcher is required; zero values elsewhere choose the default.
type PoolOptions struct {
	Launcher    Launcher
	BudgetBytes int64 // for all models together; zero means no limit
	// Options are those of models that have none of their own in Models; Name does not count.
	Options ModelOptions
	Models  []ModelOptions
	// StepTarget is how long one step of a model may take, which bounds the requests that it runs at once; zero means
	// 200 ms.
	StepTarget time.Duration
	// Resolve finds the folder of a draft model; nil takes what the options say for a folder.
	Resolve func(ctx context.Context, name string) (cluster.Model, string, error)
	Log     *slog.Logger // nil means silence
	// OnEvent is told every change of a replica's state, one at a time and in order, perhaps a moment after
	// the call that made it has returned. It may call the Pool, but must not wait long: those who changed the state may
	// be waiting for it. It may be nil.
	OnEvent func(cluster.Event)
}

// Pool keeps the models in memory on this machine: it loads what is asked for, evicts what is idle when the budget
// needs it, and restarts what dies. All methods are safe for concurrent use.
//
// A model whose folder cannot be loaded is refused with the same error until something in the folder changes, or
// ten minutes have passed.
//
// A model runs as many requests at once as its options, its memory and its measured speed allow, its slots, and lets
// four times as many wait; one more is CodeBusy.
//
// A model claims part of the budget: what it needs at least, and of what is free as much as it can use. When another
// needs room, claims shrink again, stored prefixes first; only then are idle models evicted, the one used longest ago
// first, never one that is busy or pinned. What becomes free lets claims grow.
//
// A model whose worker ran out of memory comes back with half the slots, until it is unloaded. A model whose worker
// dies is failed, and restarted after 0.5 s, 1 s, 2 s, … at most 30 s: at once if it is pinned, else when it is asked
// for again. After five deaths in five minutes it is quarantined until Load or Unload.
type Pool struct {
	o         PoolOptions
	born      time.Time
	admission chan struct{}  // holds one: whoever decides which models are in memory
	closing   chan struct{}  // closed by Close
	work      sync.WaitGroup // loads, evictions, supervisors, and the one that looks for idle models

	mu       sync.Mutex
	closed   bool
	replicas map[string]*replica // by the model's name
	pressure int                 // of the machine's memory
	events   []cluster.Event     // still to be told
	telling  bool                // somebody tells them
	failures []error             // of workers that did not end
	refusals map[string]refusal  // by refusalKey
}

// NewPool makes an empty Pool. Close it in the end.
func NewPool(o PoolOptions) *Pool {
	if o.StepTarget <= 0 {
		o.StepTarget = stepTarget
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pool{
		o: o, born: time.Now(), admission: make(chan struct{}, 1), closing: make(chan struct{}),
		replicas: map[string]*replica{}, pressure: pressureNormal, refusals: map[string]refusal{},
	}
	p.work.Go(p.keep)
	if least := p.leastTTL(); least > 0 {
		p.work.Go(func() { p.expire(least) })
	}
	return p
}

// Load has a model in memory when it returns nil; one that is there it leaves alone. It brings back a quarantined model,
// and does not wait for a restart that is due later. From then on the model is pinned or not, as pinned says: a pinned
// one is never evicted and is restarted whenever its worker dies.
//
// Errors are those of Launcher.Launch; CodeNoFit when the budget is smaller than the model, and CodeBusy when models
// that may not be evicted hold too much of it. When ctx ends, Load returns and the loading goes on.
func (p *Pool) Load(ctx context.Context, m cluster.Model, dir string, pinned bool) error {
	for {
		l, wait, err := p.order(m, dir, pinned)
		p.tell()
		switch {
		case err != nil:
			return err
		case wait != nil:
			if err := waitLoading(ctx, wait, nil); err != nil {
				return err
			}
		case l != nil:
			_, err := l.await(ctx, nil)
			return err
		default:
			return nil
		}
	}
}

// order has a model loaded. It returns the load to wait for, if it is not ready, or what must be over before.
func (p *Pool) order(m cluster.Model, dir string, pinned bool) (*load, <-chan struct{}, error) {
	if err := p.refused(m, dir); err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r, wait, err := p.find(m, dir)
	if err != nil || wait != nil {
		return nil, wait, err
	}
	if r.state == cluster.ReplicaQuarantined {
		r.crashes = nil
	}
	r.pinned = pinned || p.options(m.Name).Pinned
	if r.engine != nil {
		return nil, nil, nil
	}
	if err := p.underPressure(); err != nil {
		return nil, nil, err
	}
	if r.load == nil {
		p.startLoad(r, 0)
	} else {
		r.load.hurry()
	}
	return r.load, nil, nil
}

// Unload takes a model out of memory and forgets it. While it has requests that is CodeConflict, unless force is set:
// then they fail with CodeNodeLost. A model that is not loaded is CodeNoModel. When ctx ends, Unload returns and the
// unloading goes on.
func (p *Pool) Unload(ctx context.Context, name string, force bool) error {
	p.mu.Lock()
	r := p.replicas[name]
	switch {
	case r == nil:
		p.mu.Unlock()
		return cluster.Errorf(cluster.CodeNoModel, "model %s is not loaded here", name)
	case r.users > 0 && !force && r.state != cluster.ReplicaEvicting:
		p.mu.Unlock()
		return cluster.Errorf(cluster.CodeConflict, "model %s has %d requests", name, r.users).
			WithHint("wait for them, or force it: they will fail")
	}
	p.startEvict(context.Background(), r, "unloaded")
	p.mu.Unlock()
	p.tell()
	select {
	case <-r.gone:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	}
}

// Generate answers req with the model, which it loads first if need be; see Engine. While it waits for the model it
// emits a chunk with PhaseLoading about once a second. Beside the errors of Engine.Generate and of Load there are
// CodeBusy when too many requests wait, and CodeQuarantined.
func (p *Pool) Generate(
	ctx context.Context, m cluster.Model, dir string, req *cluster.Request, emit func(cluster.Chunk),
) error {
	return p.serve(ctx, m, dir, emit, func(r *replica, engine Engine) error {
		return engine.Generate(ctx, req, func(c cluster.Chunk) {
			r.count(time.Since(p.born), len(c.Tokens))
			emit(c)
		})
	})
}

// join makes a request one of the users of its replica. Without an engine there is a load to wait for.
func (p *Pool) join(
	ctx context.Context, m cluster.Model, dir string, emit func(cluster.Chunk),
) (*replica, *load, Engine, error) {
	for {
		if ctx.Err() != nil {
			return nil, nil, nil, contextError(ctx)
		}
		if err := p.refused(m, dir); err != nil {
			return nil, nil, nil, err
		}
		p.mu.Lock()
		r, wait, err := p.find(m, dir)
		if err == nil && wait == nil {
			err = p.enter(r)
		}
		if err == nil && wait == nil {
			l, engine := r.load, r.engine
			p.mu.Unlock()
			p.tell()
			return r, l, engine, nil
		}
		p.mu.Unlock()
		p.tell()
		if err != nil {
			return nil, nil, nil, err
		}
		if err := waitLoading(ctx, wait, emit); err != nil {
			return nil, nil, nil, err
		}
	}
}

// enter claims capacity in a replica. Called with mu held.
func (p *Pool) enter(r *replica) error {
	if r.state == cluster.ReplicaQuarantined {
		return cluster.Errorf(cluster.CodeQuarantined, "model %s is quarantined: %s", r.model.Name, r.reason).
			WithHint("mlxctl load %s tries it again", r.model.Name)
	}
	if err := p.underPressure(); err != nil {
		return err
	}
	if most := cmp.Or(r.slots, p.options(r.model.Name).rows()) * (1 + waitingPerRow); r.users >= most {
		return cluster.Errorf(cluster.CodeBusy, "model %s has %d requests, as many as it may", r.model.Name, most)
	}
	r.users++
	r.idleSince = time.Time{}
	if r.engine == nil && r.load == nil {
		p.startLoad(r, time.Until(r.retryAt))
	}
	return nil
}

// find returns the replica of a model, a new one where there is none, or what must be over before there can be one.
// Called with mu held.
func (p *Pool) find(m cluster.Model, dir string) (*replica, <-chan struct{}, error) {
	if p.closed {
		return nil, nil, cluster.Errorf(cluster.CodeNodeLost, "this node shuts down")
	}
	r := p.replicas[m.Name]
	if r != nil {
		p.notice(r)
	}
	switch {
	case r == nil:
		if err := p.underPressure(); err != nil {
			return nil, nil, err
		}
		if _, err := p.room(&replica{model: m}); err != nil {
			return nil, nil, err
		}
		r = &replica{
			model: m, dir: dir, gone: make(chan struct{}), idleSince: time.Now(), pinned: p.options(m.Name).Pinned,
		}
		p.replicas[m.Name] = r
		return r, nil, nil
	case r.state == cluster.ReplicaEvicting:
		return nil, r.gone, nil
	case m.Digest != "" && m.Digest != r.model.Digest:
		if r.users > 0 {
			return nil, nil, cluster.Errorf(cluster.CodeBusy, "model %s has changed on disk, and what is loaded still answers", m.Name)
		}
		p.startEvict(context.Background(), r, "it has changed on disk")
		return nil, r.gone, nil
	}
	r.dir = dir
	return r, nil, nil
}

func (p *Pool) leave(r *replica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.users--
	if r.users == 0 {
		r.idleSince = time.Now()
	}
}

// Replicas lists the models that are in memory, on their way there, or failed, ordered by name.
func (p *Pool) Replicas() []cluster.Replica {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]cluster.Replica, 0, len(p.replicas))
	for _, r := range p.replicas {
		out = append(out, r.snapshot(time.Since(p.born), p.options(r.model.Name)))
	}
	slices.SortFunc(out, func(a, b cluster.Replica) int { return cmp.Compare(a.Model, b.Model) })
	return out
}

// PlannedBytes is how much of the budget the models have claimed.
func (p *Pool) PlannedBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.planned(nil)
}

// Close ends all models and waits until nothing is left of them; when ctx ends, they are killed. Running requests fail
// with CodeNodeLost. The Pool cannot be used afterwards.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.closing)
	}
	for _, r := range p.replicas {
		p.startEvict(ctx, r, "this node shuts down")
	}
	p.mu.Unlock()
	p.tell()
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.failures...)
}
