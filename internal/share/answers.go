package share

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	defaultBytes = 64 << 20
	// mostKept is the share of the memory for answers that one of them may take.
	mostKept = 8
)

// Options say what is shared. Nothing is by default.
type Options struct {
	// InFlight lets a request join an identical one that is being answered.
	InFlight bool
	// TTL is how long a finished answer is given again; zero keeps none.
	TTL time.Duration
	// MaxBytes bounds the memory of finished answers; the least recently used goes first. Zero means 64 MiB.
	MaxBytes int64
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Answers are the generations that can be shared. All methods are safe for concurrent use.
type Answers struct {
	o    Options
	runs sync.WaitGroup

	mu     sync.Mutex
	closed bool
	live   map[*Answer]struct{}
	joined map[Key]*Answer // what another request may join: live with InFlight, or finished
	kept   list.List       // of *Answer, finished, most recently used first
	bytes  int64           // of those
}

// New makes an empty set. Close it in the end.
func New(o Options) *Answers {
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Answers{o: o, live: map[*Answer]struct{}{}, joined: map[Key]*Answer{}}
}

// Enabled says whether anything is shared.
func (a *Answers) Enabled() bool { return a.o.InFlight || a.o.TTL > 0 }

// Generate makes an answer: it hands chunks to emit in order, from one goroutine, and returns after the last.
type Generate func(ctx context.Context, emit func(cluster.Chunk)) error

// Join returns the answer for a key, and whether somebody else has begun it. Where nobody has, generate makes it on a
// goroutine of its own; its context ends when the last reader has left, or with Close. Follow has to be called on what is
// returned, once for each Join. After Close it is an answer that has failed with CodeUnreachable, and generate is not
// called.
func (a *Answers) Join(key Key, generate Generate) (*Answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.joined[key]; old != nil {
		if old.element == nil || a.o.Now().Sub(old.finished) < a.o.TTL {
			if old.element != nil {
				a.kept.MoveToFront(old.element)
			}
			old.readers++
			return old, true
		}
		a.forget(old)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	n := &Answer{set: a, key: key, readers: 1, cancel: cancel, changed: make(chan struct{})}
	if a.closed {
		cancel(nil)
		n.over, n.err = true, errClosed()
		return n, false
	}
	a.live[n] = struct{}{}
	if a.o.InFlight {
		a.joined[key] = n
	}
	a.runs.Go(func() {
		defer cancel(nil)
		err := generate(ctx, n.append)
		a.finish(n, err) // first: who has seen the end finds the answer kept
		n.end(err)
	})
	return n, false
}

// Close ends what is under way, waits for it, and forgets the rest.
func (a *Answers) Close() {
	a.mu.Lock()
	a.closed = true
	for n := range a.live {
		n.cancel(errClosed())
	}
	a.mu.Unlock()
	a.runs.Wait()
}

func errClosed() error {
	return cluster.Errorf(cluster.CodeUnreachable, "the controller is shutting down")
}

// leave takes a reader away; nobody is left to generate for after the last.
func (a *Answers) leave(n *Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n.readers--
	_, isLive := a.live[n]
	if n.readers > 0 || !isLive {
		return
	}
	if a.joined[n.key] == n {
		delete(a.joined, n.key)
	}
	n.cancel(cluster.Errorf(cluster.CodeCancelled, "the client went away"))
}

// finish keeps an answer, or lets it go.
func (a *Answers) finish(n *Answer, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.live, n)
	if a.joined[n.key] == n {
		delete(a.joined, n.key)
	}
	if err != nil || a.closed || a.o.TTL <= 0 || n.bytes > a.o.MaxBytes/mostKept {
		return
	}
	if old := a.joined[n.key]; old != nil {
		if old.element == nil { // it is live, and others read it
			return
		}
		a.forget(old)
	}
	n.finished, n.element = a.o.Now(), a.kept.PushFront(n)
	a.joined[n.key] = n
	a.bytes += n.bytes
	for a.bytes > a.o.MaxBytes {
		a.forget(a.kept.Back().Value.(*Answer)) //nolint:forcetypeassert // nothing else is put there
	}
}

// forget drops a finished answer; who reads it reads on.
func (a *Answers) forget(n *Answer) {
	a.kept.Remove(n.element)
	a.bytes -= n.bytes
	if a.joined[n.key] == n {
		delete(a.joined, n.key)
	}
}
