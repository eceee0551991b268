package agent

import (
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	attemptKept  = 60 * time.Second
	attemptsMost = 1 << 16
)

// recent remembers attempts: a message that comes twice must not be computed twice. The zero value is ready.
type recent struct {
	mu    sync.Mutex
	known map[cluster.AttemptID]struct{} // guarded by mu, as is order
	order []seen                         // oldest first
}

type seen struct {
	id cluster.AttemptID
	at time.Duration
}

// add says whether the attempt is new. now must not go back.
func (r *recent) add(id cluster.AttemptID, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = make(map[cluster.AttemptID]struct{})
	}
	for len(r.order) > 0 && (now-r.order[0].at > attemptKept || len(r.order) >= attemptsMost) {
		delete(r.known, r.order[0].id)
		r.order = r.order[1:]
	}
	if _, ok := r.known[id]; ok {
		return false
	}
	r.known[id] = struct{}{}
	r.order = append(r.order, seen{id, now})
	return true
}
