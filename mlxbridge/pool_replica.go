package mlxbridge

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// replica is one model of a Pool. But for the rate, the Pool's lock holds for all of it.
//
//	ready       engine
//	loading     load
//	evicting    engine or load, until it is gone
//	failed      load if a restart is due by itself
//	quarantined neither
type replica struct {
	model     cluster.Model
	dir       string
	state     cluster.ReplicaState
	reason    string
	pinned    bool
	planned   int64 // claimed from the budget
	offered   int64 // what it keeps of that when its worker has obeyed; zero while it is asked for nothing
	known     measured
	slots     int // zero before its first load
	fewerRows int // most that it runs at once after it ran out of memory; zero means as many as configured
	told      Settings
	toldAt    time.Time
	order     <-chan struct{} // of the last change that the worker was told; closed when it has obeyed
	deaf      <-chan struct{} // an order that it did not obey in time; nil means none
	isOver    bool            // it uses more than its claim
	engine    Engine
	load      *load
	gone      chan struct{} // closed when it is no longer in the Pool
	users     int           // requests that run in it or wait for it
	wasReady  bool
	restarts  int
	crashes   []time.Time // of the last minutes
	retryAt   time.Time   // of failed
	idleSince time.Time   // zero while it has users
	loadedAt  time.Time
	last      Stats // of the worker before this one

	counting sync.Mutex
	tokens   rate
}

// load is one attempt to have a model in memory, which all who want it wait for.
type load struct {
	done   chan struct{}
	cancel context.CancelCauseFunc
	now    chan struct{} // closed when it is not to wait for its time; under the Pool's lock
	engine Engine        // with err: set before done is closed
	err    error
}

func (l *load) hurry() {
	select {
	case <-l.now:
	default:
		close(l.now)
	}
}

// await returns what the load came to.
func (l *load) await(ctx context.Context, emit func(cluster.Chunk)) (Engine, error) {
	if err := waitLoading(ctx, l.done, emit); err != nil {
		return nil, err
	}
	return l.engine, l.err
}

// waitLoading waits for done and tells emit, which may be nil, now and once a second that a model is being loaded.
func waitLoading(ctx context.Context, done <-chan struct{}, emit func(cluster.Chunk)) error {
	select {
	case <-done:
		return nil
	default:
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if emit != nil {
			emit(cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhaseLoading}})
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return contextError(ctx)
		case <-tick.C:
		}
	}
}

func (r *replica) count(now time.Duration, tokens int) {
	r.counting.Lock()
	defer r.counting.Unlock()
	r.tokens.add(now, tokens)
}

// isIdle is true for what may be evicted.
func (r *replica) isIdle() bool {
	return r.state == cluster.ReplicaReady && r.users == 0 && !r.pinned
}

// forget lets go of an engine that has ended, and of what was agreed with it.
func (r *replica) forget() {
	r.engine, r.told, r.toldAt, r.order, r.deaf, r.offered, r.isOver = nil, Settings{}, time.Time{}, nil, nil, 0, false
}

// isDeaf is true for a worker that has still not done what it was to do long ago.
func (r *replica) isDeaf() bool {
	select {
	case <-r.deaf:
		r.deaf = nil
	default:
	}
	return r.deaf != nil
}

// snapshot describes the replica, which runs with these options.
func (r *replica) snapshot(now time.Duration, o ModelOptions) cluster.Replica {
	slots := cmp.Or(r.slots, o.rows()) // before it was ever loaded it is thought to run as many as it may
	out := cluster.Replica{
		Model: r.model.Name, Digest: r.model.Digest, State: r.state, Reason: r.reason,
		PlannedBytes: r.planned, Context: r.model.Context, Slots: slots,
		Waiting: r.users, Counters: r.last.Counters, Restarts: r.restarts, Pinned: r.pinned,
		Adapter: o.Adapter, Draft: o.Draft, KVBits: o.KVBits,
	}
	r.counting.Lock()
	out.TokensPerSecond = r.tokens.perSecond(now)
	r.counting.Unlock()
	if r.engine != nil {
		info, stats := r.engine.Info(), r.engine.Stats()
		out.Counters = stats.Counters
		out.Curve = stats.Curve
		out.ResidentBytes = stats.ActiveBytes + stats.CacheBytes
		out.WorkerPID = info.PID
		out.Prefixes = stats.Prefixes
		if info.Context > 0 {
			out.Context = info.Context
		}
		// The worker's word is up to a second old; it may hold requests back although it has slots.
		out.Waiting = max(r.users-out.Slots, min(stats.Waiting, r.users), 0)
		out.Running = r.users - out.Waiting
		loaded := r.loadedAt
		out.LoadedAt = &loaded
	}
	if !r.idleSince.IsZero() && r.state != cluster.ReplicaLoading {
		idle := r.idleSince
		out.IdleSince = &idle
	}
	return out
}

func bytesText(n int64) string {
	if n < gib/10 {
		return fmt.Sprintf("%.0f MiB", float64(n)/mib)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/gib)
}
