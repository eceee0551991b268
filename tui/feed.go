package tui

import (
	"context"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Feed gives the state of the cluster, again and again.
type Feed interface {
	// Next blocks until something is new and returns the newest state, nil when it did not change, and what happened
	// since the last call. An error means that the cluster is out of reach: the dashboard says so, shows what it last
	// knew with its age, and calls Next again after a pause, which is then expected to connect anew. Next is called by
	// one goroutine at a time.
	Next(ctx context.Context) (*cluster.Snapshot, []cluster.Event, error)
}

const (
	eventBacklog = 256                    // events kept for a screen that is busy
	focusedGap   = 100 * time.Millisecond // between two updates of the screen
	blurredGap   = time.Second            // the same while the terminal has no focus
	retryFirst   = 250 * time.Millisecond
	retryMost    = 2 * time.Second
)

// update is what the screen has not seen yet.
type update struct {
	snapshot *cluster.Snapshot // nil: unchanged
	came     time.Time         // when the newest Snapshot came
	events   []cluster.Event   // oldest first
	dropped  int64             // events that were never shown, in all
	err      error             // of the last try; nil while connected
}

// pump reads a Feed as fast as it comes and keeps what the screen has not seen: the newest Snapshot wins, events queue
// up to eventBacklog, then the oldest are dropped and counted. So a slow terminal never makes the Feed wait.
type pump struct {
	feed  Feed
	ready chan struct{} // holds one token while next has something new

	mu   sync.Mutex
	next update // guarded by mu
}

func newPump(feed Feed) *pump { return &pump{feed: feed, ready: make(chan struct{}, 1)} }

// run reads until ctx ends.
func (p *pump) run(ctx context.Context) {
	retry := retryFirst
	for ctx.Err() == nil {
		s, events, err := p.feed.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		p.put(s, events, err)
		if err == nil {
			retry = retryFirst
			continue
		}
		if !pause(ctx, retry) {
			return
		}
		retry = min(2*retry, retryMost)
	}
}

func (p *pump) put(s *cluster.Snapshot, events []cluster.Event, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next.err = err
	if s != nil {
		p.next.snapshot, p.next.came = s, time.Now()
	}
	p.next.events = append(p.next.events, events...)
	if n := len(p.next.events) - eventBacklog; n > 0 {
		p.next.events = append([]cluster.Event(nil), p.next.events[n:]...)
		p.next.dropped += int64(n)
	}
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

// take waits until something is new, but at least gap, and returns it; false when ctx ended.
func (p *pump) take(ctx context.Context, gap time.Duration) (update, bool) {
	if !pause(ctx, gap) {
		return update{}, false
	}
	select {
	case <-ctx.Done():
		return update{}, false
	case <-p.ready:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.next
	p.next.snapshot, p.next.events = nil, nil
	return u, true
}

// pause waits for d and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
