package agent

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	watchEvery = time.Second
	// sleepGap is how long this process may stand still before what it did is stale: by then the controller has taken
	// the node for gone.
	sleepGap = 5 * time.Second
)

// sinceBoot is a clock that nobody sets and that goes on while the machine sleeps, unlike Go's own.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(bootClock, &t); err != nil {
		return time.Duration(time.Now().UnixNano()) // older kernels; a clock that is set is better than none
	}
	return time.Duration(t.Nano())
}

// watchSleep ends the answers that ran while the machine slept, or this process was stopped: the controller has given
// them up, and nobody reads them.
func (a *Agent) watchSleep(ctx context.Context) {
	tick := time.NewTicker(a.o.watchEvery)
	defer tick.Stop()
	last := a.o.clock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := a.o.clock()
		if gap := now - last; gap > sleepGap {
			a.log.Warn("this node stood still; its streams are ended", "dur", gap)
			a.running.endAll(a.here(cluster.Errorf(cluster.CodeNodeLost, "the node slept for %s", gap.Round(time.Second)).
				WithHint("send the request again")))
			poke(a.hello)
			poke(a.rescan)
		}
		last = now
	}
}

// streams are the answers that run. The zero value is ready.
type streams struct {
	mu   sync.Mutex
	ends map[*context.CancelCauseFunc]struct{} // guarded by mu
}

// add has end called by endAll; remove undoes it.
func (s *streams) add(end context.CancelCauseFunc) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		s.ends = make(map[*context.CancelCauseFunc]struct{})
	}
	key := &end
	s.ends[key] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ends, key)
	}
}

func (s *streams) endAll(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for end := range s.ends {
		(*end)(cause)
	}
}
