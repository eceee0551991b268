package mlxbridge

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// obeyWait is how long a worker may take to give memory back: it does so between two steps.
const obeyWait = 5 * time.Second

// errDeaf ends the waiting for a worker that does not obey.
var errDeaf = errors.New("a worker does not give memory back")

// need is what a replica is planned with. Called with mu held.
func (p *Pool) need(r *replica) plan {
	o := p.options(r.model.Name)
	return planFor(r.model, o, p.mostRows(r, o), r.known)
}

// mostRows is how many rows a replica may be planned with: as configured, and fewer after it ran out of memory.
func (p *Pool) mostRows(r *replica, o ModelOptions) int {
	if r.fewerRows > 0 {
		return min(o.rows(), r.fewerRows)
	}
	return o.rows()
}

// slotsOf is how many requests a replica runs at once. Called with mu held.
func (p *Pool) slotsOf(r *replica) int {
	o := p.options(r.model.Name)
	var curve []stepTime
	if r.engine != nil {
		curve = stepTimes(r.engine.Stats().Curve)
	}
	claim := r.planned
	if p.o.BudgetBytes <= 0 {
		claim = 0
	}
	return slots(p.need(r), claim, curve, p.mostRows(r, o), p.o.StepTarget)
}

// makeRoom claims what a replica needs. For it others give back what they have beyond their least, stored prefixes
// first, and only when that is not enough are some evicted. Nobody else gets in between.
func (p *Pool) makeRoom(ctx context.Context, r *replica) error {
	select {
	case p.admission <- struct{}{}:
		defer func() { <-p.admission }()
	case <-ctx.Done():
		return contextError(ctx)
	}
	for {
		p.mu.Lock()
		way, err := p.room(r)
		if err == nil && len(way.victims) == 0 && len(way.givers) == 0 {
			r.planned = p.need(r).claim(way.free)
		}
		for _, v := range way.victims {
			p.startEvict(context.Background(), v, "memory is needed for "+r.model.Name)
		}
		p.mu.Unlock()
		p.tell()
		switch {
		case err != nil:
			return err
		case len(way.givers) > 0:
			err = p.takeBack(ctx, way.givers)
		case len(way.victims) > 0:
			err = awaitGone(ctx, way.victims)
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func awaitGone(ctx context.Context, victims []*replica) error {
	for _, v := range victims {
		select {
		case <-v.gone:
		case <-ctx.Done():
			return contextError(ctx)
		}
	}
	return nil
}

// way is how a replica gets its room: at once where nobody gives or goes.
type way struct {
	free    int64 // of the budget, for it
	givers  []giver
	victims []*replica // ordered by who goes first
}

// giver is a replica that can do with less.
type giver struct {
	*replica
	bytes int64 // that it gives
}

// room finds the way to the least that a replica needs. It is an error when there is none. Called with mu held.
func (p *Pool) room(r *replica) (way, error) {
	need, budget := p.need(r), p.o.BudgetBytes
	if budget <= 0 {
		return way{free: need.wanted}, nil
	}
	if err := p.tooBig(r, need); err != nil {
		return way{}, err
	}
	free := budget - p.planned(r)
	if free >= need.least {
		return way{free: free}, nil
	}
	var going []*replica
	for _, v := range p.replicas {
		if v != r && v.state == cluster.ReplicaEvicting && v.planned > 0 {
			going = append(going, v)
			free += v.planned
		}
	}
	if free >= need.least {
		return way{victims: going}, nil
	}
	givers := p.givers(r)
	for i := range givers {
		if givers[i].bytes = min(givers[i].bytes, need.least-free); givers[i].bytes == 0 {
			return way{givers: givers[:i]}, nil
		}
		free += givers[i].bytes
	}
	if free >= need.least {
		return way{givers: givers}, nil
	}
	victims := going
	for _, v := range p.leastRecentlyUsed(r) {
		for _, g := range givers {
			if g.replica == v {
				free -= g.bytes // which is part of its claim
			}
		}
		victims = append(victims, v)
		if free += v.planned; free >= need.least {
			return way{victims: victims}, nil
		}
	}
	return way{}, cluster.Errorf(cluster.CodeBusy,
		"model %s needs %s, and models that are busy or pinned leave %s of the memory budget of %s",
		r.model.Name, need, bytesText(free), bytesText(budget))
}

// tooBig is the error of a model that would not fit even if it were alone; nil for all others.
func (p *Pool) tooBig(r *replica, need plan) error {
	if most := p.options(r.model.Name).MemoryBytes; most > 0 && need.least > most {
		return cluster.Errorf(cluster.CodeNoFit, "model %s needs %s, and its settings allow %s", r.model.Name, need, bytesText(most))
	}
	if budget := p.o.BudgetBytes; need.least > budget {
		return cluster.Errorf(cluster.CodeNoFit, "model %s needs %s, and the memory budget here is %s",
			r.model.Name, need, bytesText(budget))
	}
	return nil
}

// leastRecentlyUsed lists those that may be evicted for a replica. Called with mu held.
func (p *Pool) leastRecentlyUsed(but *replica) []*replica {
	var idle []*replica
	for _, v := range p.replicas {
		if v != but && v.isIdle() {
			idle = append(idle, v)
		}
	}
	slices.SortFunc(idle, func(a, b *replica) int { return a.idleSince.Compare(b.idleSince) })
	return idle
}

// givers lists who has a claim beyond its least and beyond what it uses without stored prefixes: idle ones first, the
// one used longest ago before all. Called with mu held.
func (p *Pool) givers(but *replica) []giver {
	var out []giver
	for _, v := range p.replicas {
		if v == but || v.engine == nil || v.state != cluster.ReplicaReady || v.isDeaf() {
			continue
		}
		if surplus := v.planned - p.floor(v); surplus > 0 {
			out = append(out, giver{v, surplus})
		}
	}
	slices.SortFunc(out, func(a, b giver) int {
		return cmp.Or(cmp.Compare(min(a.users, 1), min(b.users, 1)), a.idleSince.Compare(b.idleSince))
	})
	return out
}

// floor is what a running replica cannot do without: its least, and what it uses beside stored prefixes, with the next
// piece of keys and values of each row. Called with mu held.
func (p *Pool) floor(r *replica) int64 {
	need, s := p.need(r), r.engine.Stats()
	return max(need.least, s.ActiveBytes-s.PrefixBytes+int64(s.Running)*need.kv.perToken*kvStep)
}

// takeBack asks workers for memory and waits until they have given it. What one does not give in time stays its own.
func (p *Pool) takeBack(ctx context.Context, givers []giver) error {
	ctx, cancel := context.WithTimeoutCause(ctx, obeyWait, errDeaf)
	defer cancel()
	asked := make([]offer, 0, len(givers))
	p.mu.Lock()
	for _, g := range givers {
		if g.engine != nil { // else it has died meanwhile
			g.offered = g.planned - g.bytes
			p.instruct(g.replica)
			asked = append(asked, offer{g.replica, g.engine, g.order})
		}
	}
	p.mu.Unlock()
	for _, a := range asked {
		select {
		case <-a.given:
		case <-a.engine.Done():
		case <-ctx.Done():
		}
		p.mu.Lock()
		p.settle(a)
		p.mu.Unlock()
	}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errDeaf) {
		return contextError(ctx)
	}
	return nil
}

// offer is what a worker was asked to give; given is closed when it has.
type offer struct {
	*replica
	engine Engine
	given  <-chan struct{}
}

// settle ends an offer: the claim is smaller if the worker has obeyed, and as before if not. Called with mu held.
func (p *Pool) settle(o offer) {
	r := o.replica
	if r.engine != o.engine {
		return // it has ended, and the offer with it
	}
	select {
	case <-o.given:
		r.planned = min(r.planned, r.offered)
	default:
		r.deaf = o.given
	}
	r.offered = 0
	p.instruct(r)
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
