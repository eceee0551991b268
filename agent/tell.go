package agent

import (
	"context"
	"slices"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// firstScan is how long the first hello waits for the list of models: an empty one would have requests refused.
	firstScan = 2 * time.Second
	// sampleEvery is how often the monitor is asked; it reads anew only what is older than it likes.
	sampleEvery = time.Second
	newsKept    = 256
)

// introduce says hello at each connect, when asked to, and when the models on disk changed.
func (a *Agent) introduce(ctx context.Context, scanned <-chan struct{}) {
	wait := time.NewTimer(firstScan)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return
	case <-scanned:
	case <-wait.C:
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.hello:
		}
		err := a.conn.Publish(bus.EventSubject(a.o.ID, bus.EventHello), a.introduction())
		if err != nil && cluster.CodeOf(err) != cluster.CodeUnreachable { // the next connect says hello again
			a.log.Warn("cannot say hello", "err", err)
		}
		poke(a.beat) // only then is the node ready
	}
}

func (a *Agent) introduction() bus.Hello {
	started := a.started
	n := cluster.Node{
		ID: a.o.ID, Name: a.o.Name, State: cluster.NodeJoining, Version: a.o.Version, Hardware: a.hardware,
		Load: a.lastLoad(), BudgetBytes: a.budget, PlannedBytes: a.pool.PlannedBytes(),
		Models: a.modelsOnDisk(), Replicas: a.replicas(), StartedAt: &started,
	}
	return bus.Hello{Node: n, Boot: a.boot, Key: a.conn.PublicKey()}
}

// heartbeats tells twice a second that the node lives and what it does, and at once when a replica changed its state.
// Nothing here waits for a reading.
func (a *Agent) heartbeats(ctx context.Context) {
	tick := time.NewTicker(a.o.beatEvery)
	defer tick.Stop()
	for seq := uint64(1); ; seq++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.beat:
		}
		err := a.conn.Publish(bus.HeartbeatSubject(a.o.ID), bus.Heartbeat{
			Node: a.o.ID, Boot: a.boot, Seq: seq, Load: a.lastLoad(), Replicas: a.replicas(),
			PlannedBytes: a.pool.PlannedBytes(), Draining: a.gate.isDraining(),
		})
		if err != nil && cluster.CodeOf(err) != cluster.CodeUnreachable { // without a connection there is nobody to tell
			a.log.Warn("cannot send heartbeat", "err", err)
		}
	}
}

// sample keeps the newest reading of the machine at hand: a reading may take seconds.
func (a *Agent) sample(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		load := a.o.Monitor.Load(ctx)
		a.load.Store(&load)
		if load.MemoryPressure != nil {
			a.pool.SetPressure(*load.MemoryPressure)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *Agent) lastLoad() cluster.Load {
	if l := a.load.Load(); l != nil {
		return *l
	}
	return cluster.Load{}
}

// scan looks at the models on disk now and then, and says hello when they changed. It closes scanned after the first
// look.
func (a *Agent) scan(ctx context.Context, scanned chan<- struct{}) {
	tick := time.NewTicker(a.o.scanEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		models, err := a.o.Library.List(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("cannot list the models on disk", "err", err)
		}
		if err == nil && a.setModels(models) && !first {
			poke(a.hello)
		}
		if first {
			close(scanned)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.rescan:
		}
	}
}

// setModels says whether anything changed.
func (a *Agent) setModels(models []cluster.Model) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Equal(a.models, models) {
		return false
	}
	a.models = models
	return true
}

func (a *Agent) modelsOnDisk() []cluster.Model {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.models
}

// onEvent takes what the pool tells; it must not wait.
func (a *Agent) onEvent(e cluster.Event) {
	e.Node = a.o.ID
	select {
	case a.news <- e:
	default:
		a.lost.Add(1)
	}
	poke(a.beat)
}

func (a *Agent) tellNews(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-a.news:
			if n := a.lost.Swap(0); n > 0 {
				a.log.Warn("news were dropped: too many at once", "count", n)
			}
			err := a.conn.Publish(bus.EventSubject(a.o.ID, bus.EventNews), e)
			if err != nil {
				a.log.Info("news were not heard", "news", e.Message, "err", err)
			}
		}
	}
}
