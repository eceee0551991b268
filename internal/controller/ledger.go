package controller

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// ledger accounts for requests: those that are here, and the totals of all.
type ledger struct {
	mu      sync.Mutex
	open    list.List // of *record, oldest first; guarded by mu, as is everything below
	totals  cluster.Totals
	rate    rate
	version uint64
	ended   []ended // the last mostEnded, a ring
	oldest  int     // index of ended, when it is full
}

// What is remembered of requests after their end, two megabytes at most together with the names of their models: how many
// they are, and the bytes of the reason why one failed.
const (
	mostEnded       = 1024
	mostReasonBytes = 512
)

// ended is what is remembered of a request.
type ended struct {
	cluster.RequestStatus
	at     time.Time
	code   cluster.Code // empty of one that was answered
	reason string
}

// record is what is known of one request while it is here.
type record struct {
	mu     sync.Mutex
	status cluster.RequestStatus // guarded by mu, as is everything below
	queued time.Duration         // spent waiting for a node
	// produced are the tokens of the answer so far, of all attempts: another node could go on after them.
	produced []int

	place *list.Element // of ledger.open; guarded by ledger.mu
}

// begin opens the record of a request.
func (l *ledger) begin(now time.Time, req *cluster.Request) *record {
	r := &record{status: cluster.RequestStatus{ID: req.ID, Model: req.Model, State: cluster.RequestQueued, Since: now}}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.place = l.open.PushBack(r)
	l.totals.Requests++
	l.version++
	return r
}

// end closes it, with how the request ended.
func (l *ledger) end(now time.Time, r *record, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open.Remove(r.place)
	e := ended{RequestStatus: r.now(), at: now}
	if failure := cluster.AsError(err); failure != nil {
		e.code, e.reason = failure.Code, shortened(failure.Message)
	}
	l.remember(e)
	l.version++
	switch {
	case err == nil:
		l.totals.Finished++
	case cluster.CodeOf(err) == cluster.CodeCancelled:
		l.totals.Cancelled++
	default:
		l.totals.Failed++
	}
}

// shortened is a text as it is remembered; a long one must not be kept in memory by a part of it.
func shortened(text string) string {
	if len(text) <= mostReasonBytes {
		return text
	}
	return strings.ToValidUTF8(text[:mostReasonBytes], "") + "…"
}

// remember keeps it in the place of the oldest. Called with mu held.
func (l *ledger) remember(e ended) {
	if len(l.ended) < mostEnded {
		l.ended = append(l.ended, e)
		return
	}
	l.ended[l.oldest] = e
	l.oldest = (l.oldest + 1) % mostEnded
}

// of returns what is known of a request and of its other answers, or of one of these: those that ended, in that order,
// and then those that are here.
func (l *ledger) of(id cluster.RequestID) (gone []ended, here []cluster.RequestStatus) {
	isWanted := func(other cluster.RequestID) bool {
		request, _ := other.Split()
		return other == id || request == id
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.ended {
		if e := &l.ended[(l.oldest+i)%len(l.ended)]; isWanted(e.ID) {
			gone = append(gone, *e)
		}
	}
	for e := l.open.Front(); e != nil; e = e.Next() {
		r := e.Value.(*record) //nolint:forcetypeassert // begin puts nothing else there
		if status := r.now(); isWanted(status.ID) {
			here = append(here, status)
		}
	}
	return gone, here
}

// refused counts a request that was wrong before it had a record.
func (l *ledger) refused() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.Requests++
	l.totals.Failed++
	l.version++
}

// took notes a chunk of an answer.
func (l *ledger) took(now time.Time, r *record, c *cluster.Chunk) {
	r.take(now, c)
	if len(c.Tokens) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.Tokens += int64(len(c.Tokens))
	l.rate.add(now, len(c.Tokens))
	l.version++
}

func (r *record) take(now time.Time, c *cluster.Chunk) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := c.Progress; p != nil {
		switch p.Phase {
		case cluster.PhaseQueued:
			r.status.State = cluster.RequestQueued
		case cluster.PhaseLoading:
			r.status.State = cluster.RequestLoading
		case cluster.PhasePrefill:
			r.status.State = cluster.RequestPrefill
		}
		return
	}
	r.status.State = cluster.RequestStreaming
	if r.status.FirstToken == nil {
		r.status.FirstToken = &now
	}
	r.status.Tokens += len(c.Tokens)
	r.produced = append(r.produced, c.Tokens...)
}

// placed notes that the request goes to a node.
func (r *record) placed(node cluster.NodeID, cold bool, queued time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Node, r.status.State = node, cluster.RequestPrefill
	if cold {
		r.status.State = cluster.RequestLoading
	}
	r.status.Attempt++
	r.queued += queued
}

// displaced notes that the attempt on its node is over, and that the request waits for another.
func (r *record) displaced() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Node, r.status.State = "", cluster.RequestQueued
}

// shares notes that the answer comes from another request's generation.
func (r *record) shares() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.State = cluster.RequestShared
}

// follow notes a chunk of an answer that another request has made: its tokens count there.
func (r *record) follow(c *cluster.Chunk) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Tokens += len(c.Tokens)
}

// now returns how the request stands.
func (r *record) now() cluster.RequestStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// hasBegun says whether something of the answer came.
func (r *record) hasBegun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.FirstToken != nil
}

func (r *record) waited() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queued
}

// report returns the requests that are here, oldest first, and the totals.
func (l *ledger) report(now time.Time) ([]cluster.RequestStatus, cluster.Totals) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]cluster.RequestStatus, 0, l.open.Len())
	for e := l.open.Front(); e != nil; e = e.Next() {
		r := e.Value.(*record) //nolint:forcetypeassert // begin puts nothing else there
		out = append(out, r.now())
	}
	totals := l.totals
	totals.TokensPerSecond = l.rate.at(now)
	return out, totals
}

// pulse says whether anything changes by itself, and the number of the last change.
func (l *ledger) pulse(now time.Time) (alive bool, version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open.Len() > 0 || l.rate.at(now) > 0, l.version
}

// rate counts tokens over the last second, in steps of a tenth.
type rate struct {
	counts [rateSteps + 1]int
	newest int64 // step that counts[newest%len] is for
}

const (
	rateSteps = 10
	rateStep  = time.Second / rateSteps
)

func (r *rate) add(now time.Time, n int) { r.counts[r.turn(now)] += n }

// at is the sum of the ten steps before the one that is not over.
func (r *rate) at(now time.Time) float64 {
	current := r.turn(now)
	sum := 0
	for i, n := range r.counts {
		if i != current {
			sum += n
		}
	}
	return float64(sum)
}

// turn forgets the steps that are too old and returns the place of the current one.
func (r *rate) turn(now time.Time) int {
	step := now.UnixNano() / int64(rateStep)
	size := int64(len(r.counts))
	for old := max(r.newest+1, step-size+1); old <= step; old++ {
		r.counts[old%size] = 0
	}
	r.newest = max(r.newest, step)
	return int(step % size)
}
