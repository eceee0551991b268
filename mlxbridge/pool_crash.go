package mlxbridge

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Supervision: see Pool.
const (
	crashWindow  = 5 * time.Minute
	mostCrashes  = 5
	firstBackoff = 500 * time.Millisecond
	mostBackoff  = 30 * time.Second
)

// died takes the end of an engine that nobody asked to end. Twice is no harm.
func (p *Pool) died(r *replica, engine Engine) {
	p.mu.Lock()
	if r.engine == engine {
		p.notice(r)
	}
	p.mu.Unlock()
	p.tell()
}

// notice looks whether a replica's engine has died. Called with mu held.
func (p *Pool) notice(r *replica) {
	if r.engine == nil || r.state == cluster.ReplicaEvicting {
		return
	}
	select {
	case <-r.engine.Done():
	default:
		return
	}
	err := r.engine.Err()
	if err == nil {
		err = cluster.Errorf(cluster.CodeWorkerCrashed, "worker of %s ended", r.model.Name)
	}
	r.last = r.engine.Stats()
	r.forget()
	p.crash(r, err)
}

// fail takes a load that came to nothing. Called with mu held.
func (p *Pool) fail(r *replica, err error) {
	code := cluster.CodeOf(err)
	// What an operator wants in memory and has been there comes back, whatever the hindrance is, but for a folder that
	// is no model any more.
	lasting := r.pinned && r.wasReady && code != cluster.CodeBadModel
	if code == cluster.CodeWorkerCrashed || lasting {
		p.crash(r, err)
		return
	}
	p.enterState(r, cluster.ReplicaFailed, reason(err))
	isChosen := p.isConfigured(r.model.Name) && (code == cluster.CodeBadModel || code == cluster.CodeUnsupported)
	switch {
	case isChosen: // whoever configured it finds out why it does not work
		r.planned, r.retryAt = 0, time.Now().Add(firstBackoff)
	case len(r.crashes) == 0 || code == cluster.CodeBadModel:
		p.remove(r) // else its deaths would be forgotten
		return
	}
	if r.users == 0 {
		r.idleSince = time.Now()
	}
}

// crash counts a death and decides what comes of it. Called with mu held.
func (p *Pool) crash(r *replica, err error) {
	if _, ok := errors.AsType[*OutOfMemoryError](err); ok {
		r.fewerRows = max(1, cmp.Or(r.slots, p.slotsOf(r))/2)
		r.slots = r.fewerRows
		p.event(r, fmt.Sprintf("it ran out of memory; from now on it runs at most %d requests at once", r.fewerRows))
	}
	now := time.Now()
	r.crashes = slices.DeleteFunc(r.crashes, func(at time.Time) bool { return now.Sub(at) > crashWindow })
	r.crashes = append(r.crashes, now)
	if r.users == 0 {
		r.idleSince = now
	}
	if len(r.crashes) >= mostCrashes {
		r.planned = 0
		p.enterState(r, cluster.ReplicaQuarantined,
			fmt.Sprintf("its worker died %d times in %s; the last time: %s", len(r.crashes), crashWindow, reason(err)))
		return
	}
	delay := min(firstBackoff<<(len(r.crashes)-1), mostBackoff)
	r.retryAt = now.Add(delay)
	p.enterState(r, cluster.ReplicaFailed, reason(err))
	switch {
	case !r.pinned:
		r.planned = 0
	case !p.closed:
		p.startLoad(r, delay) // it keeps its claim
	}
}

// reason is an error in one line, with what its log ends with.
func reason(err error) string {
	e := cluster.AsError(err)
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

// enterState changes a replica's state; the next tell tells it. Called with mu held.
func (p *Pool) enterState(r *replica, state cluster.ReplicaState, why string) {
	if r.state == state && r.reason == why {
		return
	}
	r.state, r.reason = state, why
	message := string(state)
	if why != "" {
		message += ": " + why
	}
	p.event(r, message)
}

// event has something about a replica told. Called with mu held.
func (p *Pool) event(r *replica, message string) {
	p.events = append(p.events, cluster.Event{
		At: time.Now(), Kind: cluster.EventReplicaState, Model: r.model.Name, Message: message,
	})
}

// tell hands over the events that wait. One goroutine does it at a time, so that they stay in order; whoever finds
// another one at it goes on.
func (p *Pool) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.telling {
		return
	}
	p.telling = true
	for len(p.events) > 0 {
		event := p.events[0]
		p.events = p.events[1:]
		p.mu.Unlock()
		p.o.Log.Info("replica changed", "model", event.Model, "state", event.Message)
		if p.o.OnEvent != nil {
			p.o.OnEvent(event)
		}
		p.mu.Lock()
	}
	p.telling = false
}
