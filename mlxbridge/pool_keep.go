package mlxbridge

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// keepEvery is how often workers are held against their plans; they tell how they are about once a second.
	keepEvery = time.Second
	// growBytes is the least by which a claim grows: less is not worth telling.
	growBytes = 64 * mib
)

// Levels of memory pressure.
const (
	pressureNormal   = 1
	pressureWarning  = 2
	pressureCritical = 4
)

// instruct tells a running worker what has changed since it was told last. Called with mu held.
func (p *Pool) instruct(r *replica) {
	if r.engine == nil || r.state != cluster.ReplicaReady {
		return
	}
	r.slots = p.slotsOf(r)
	want := Settings{MaxRows: r.slots, Pressure: p.pressure}
	if p.o.BudgetBytes > 0 {
		want.MemoryBytes = cmp.Or(r.offered, r.planned)
	}
	want.PrefixBytes = p.options(r.model.Name).prefixOf(want.MemoryBytes)
	change := Settings{
		MemoryBytes: changed(want.MemoryBytes, r.told.MemoryBytes), PrefixBytes: changed(want.PrefixBytes, r.told.PrefixBytes),
		MaxRows: changed(want.MaxRows, r.told.MaxRows), Pressure: changed(want.Pressure, r.told.Pressure),
	}
	if change != (Settings{}) {
		r.told, r.toldAt = want, time.Now()
		r.order = r.engine.Set(change)
	}
}

// changed is the new value, or zero where it is the old one.
func changed[T comparable](now, before T) T {
	if now == before {
		var zero T
		return zero
	}
	return now
}

// correct plans a model anew that has just been loaded, with what the worker measured. Called with mu held.
func (p *Pool) correct(r *replica) {
	info := r.engine.Info()
	r.known = measured{weights: info.WeightBytes, kvPerToken: info.KVBytesPerToken}
	if p.o.BudgetBytes > 0 {
		need := p.need(r)
		free := p.o.BudgetBytes - p.planned(nil)
		if short := need.least - r.planned; short > 0 {
			r.planned += min(short, max(free, 0))
			p.event(r, fmt.Sprintf("it needs %s, more than was planned; it has %s", need, bytesText(r.planned)))
		}
		r.planned = min(r.planned, need.wanted)
	}
	p.instruct(r)
}

// keep holds workers against their plans until the Pool is closed.
func (p *Pool) keep() {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.closing:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		for _, r := range p.replicas {
			p.check(r)
		}
		p.mu.Unlock()
		select {
		case p.admission <- struct{}{}: // else what is free is about to be claimed
			p.grow()
			<-p.admission
		default:
		}
		p.tell()
	}
}

// check tells a worker that uses more than its claim, and everybody once. Called with mu held.
func (p *Pool) check(r *replica) {
	if r.engine == nil || r.state != cluster.ReplicaReady {
		return
	}
	s := r.engine.Stats()
	if used := s.ActiveBytes + s.CacheBytes; p.o.BudgetBytes > 0 && s.At.After(r.toldAt) {
		over := used > r.planned
		if over {
			r.told.MemoryBytes = 0 // so that it is told again
		}
		if over && !r.isOver {
			p.event(r, fmt.Sprintf("its worker uses %s, more than the %s that were planned", bytesText(used), bytesText(r.planned)))
		}
		r.isOver = over
	}
	p.instruct(r)
}

// grow gives what is free to those who can make use of it, the one used last before all.
func (p *Pool) grow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.o.BudgetBytes <= 0 || p.pressure > pressureNormal {
		return
	}
	free := p.o.BudgetBytes - p.planned(nil)
	var may []*replica
	for _, r := range p.replicas {
		if r.engine != nil && r.state == cluster.ReplicaReady && !r.isDeaf() {
			may = append(may, r)
		}
	}
	slices.SortFunc(may, func(a, b *replica) int {
		return cmp.Or(cmp.Compare(min(b.users, 1), min(a.users, 1)), b.idleSince.Compare(a.idleSince))
	})
	for _, r := range may {
		if more := min(p.need(r).wanted-r.planned, free); more >= growBytes {
			r.planned += more
			free -= more
			p.instruct(r)
		}
	}
}

// SetPressure has workers do with less while the machine is short of memory: 1 normal, 2 warning, 4 critical, as macOS
// counts. At 2 half of the stored prefixes go, at 4 all of them; then nothing is loaded either, and new requests are
// CodeBusy, while running ones go on. It does not wait.
func (p *Pool) SetPressure(level int) {
	switch {
	case level >= pressureCritical:
		level = pressureCritical
	case level >= pressureWarning:
		level = pressureWarning
	default:
		level = pressureNormal
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if level == p.pressure {
		return
	}
	p.o.Log.Info("memory pressure changed", "level", level, "before", p.pressure)
	p.pressure = level
	for _, r := range p.replicas {
		p.instruct(r)
	}
}

// underPressure is the error of what has to wait for the machine's memory; nil when there is enough. Called with mu held.
func (p *Pool) underPressure() error {
	if p.pressure < pressureCritical {
		return nil
	}
	return cluster.Errorf(cluster.CodeBusy, "this node is short of memory: the pressure is critical")
}
