package controller

import (
	"context"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// eventBacklog is how many events a reader may be behind; after that it misses the newest, and the miss is counted.
const eventBacklog = 256

// broker hands events to everybody who listens. Events are news, not state: a reader that is too slow misses some, and
// nobody waits for it.
type broker struct {
	mu      sync.Mutex
	readers map[chan cluster.Event]struct{} // guarded by mu
	dropped int64                           // guarded by mu
	closed  bool                            // guarded by mu
}

func newBroker() *broker { return &broker{readers: make(map[chan cluster.Event]struct{})} }

func (b *broker) publish(events ...cluster.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range events {
		for r := range b.readers {
			select {
			case r <- e:
			default:
				b.dropped++
			}
		}
	}
}

// subscribe returns a channel of what happens from now on; it is closed when ctx ends, or the broker.
func (b *broker) subscribe(ctx context.Context) <-chan cluster.Event {
	out := make(chan cluster.Event, eventBacklog)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(out)
		return out
	}
	b.readers[out] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, open := b.readers[out]; open {
			delete(b.readers, out)
			close(out)
		}
	})
	return out
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for r := range b.readers {
		close(r)
	}
	clear(b.readers)
}

// missed counts the events that readers were too slow for.
func (b *broker) missed() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped
}
