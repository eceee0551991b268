package controller

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// snapshotEvery bounds how often the state is put together anew while only counts and readings change.
	snapshotEvery = 100 * time.Millisecond
	// snapshotStale is when it is put together anew though nothing changed.
	snapshotStale = time.Second
)

// viewer makes Snapshots and keeps the last one.
type viewer struct {
	base     cluster.Snapshot // what does not change
	registry *registry
	ledger   *ledger
	now      func() time.Time

	mu       sync.Mutex
	last     *cluster.Snapshot // guarded by mu, as is everything below
	made     time.Time
	states   <-chan struct{} // closed when a node came, went or changed state since
	versions [2]uint64
}

// snapshot returns the state of the cluster, at most snapshotEvery old; nodes that came, went or changed state show at
// once.
func (v *viewer) snapshot() *cluster.Snapshot {
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last != nil && !v.isStale(now) {
		return v.last
	}
	v.states = v.registry.news()
	nodes, registryVersion := v.registry.nodesAt()
	_, ledgerVersion := v.ledger.pulse(now)
	s := v.base
	s.At = now
	s.Nodes = nodes.Nodes
	s.Requests, s.Totals = v.ledger.report(now)
	markDrained(&s)
	v.last, v.made, v.versions = &s, now, [2]uint64{registryVersion, ledgerVersion}
	return &s
}

// markDrained says of each draining node whether something is left to finish there. The nodes are the registry's, so that
// they are copied before.
func markDrained(s *cluster.Snapshot) {
	copied := false
	for i := range s.Nodes {
		if s.Nodes[i].State != cluster.NodeDraining || s.Open(s.Nodes[i].ID) > 0 {
			continue
		}
		if !copied {
			s.Nodes, copied = slices.Clone(s.Nodes), true
		}
		s.Nodes[i].Drained = true
	}
}

func (v *viewer) isStale(now time.Time) bool {
	select {
	case <-v.states:
		return true
	default:
	}
	age := now.Sub(v.made)
	if age < snapshotEvery {
		return false
	}
	_, registryVersion := v.registry.nodesAt()
	alive, ledgerVersion := v.ledger.pulse(now)
	return alive || v.versions != [2]uint64{registryVersion, ledgerVersion} || age >= snapshotStale
}

// watch sends one snapshot after another, each at least snapshotEvery after the one before; a slow reader gets the
// newest and misses those in between. out is closed when ctx ends.
func (v *viewer) watch(ctx context.Context, out chan *cluster.Snapshot) {
	defer close(out)
	pause := time.NewTimer(snapshotEvery) // a ticker would make up for what it is late
	defer pause.Stop()
	var last *cluster.Snapshot
	for {
		if s := v.snapshot(); s != last {
			last = s
			select {
			case <-out: // nobody took the one before
			default:
			}
			out <- s // there is room: nobody else sends
		}
		pause.Reset(snapshotEvery)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// catalogue merges the models on the disks of all nodes that are not down, by name and content.
func catalogue(nodes []cluster.Node) []cluster.Model {
	type key struct{ name, digest string }
	seen := make(map[key]bool)
	out := []cluster.Model{}
	for i := range nodes {
		if nodes[i].State == cluster.NodeDown {
			continue
		}
		for _, m := range nodes[i].Models {
			if k := (key{m.Name, m.Digest}); !seen[k] {
				seen[k] = true
				out = append(out, m)
			}
		}
	}
	slices.SortFunc(out, func(a, b cluster.Model) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Digest, b.Digest))
	})
	return out
}
