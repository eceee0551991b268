package mlxbridge

import (
	"os"
	"sync"
)

// outbox keeps frames for a worker and writes them from one goroutine, so that a worker that does not read stops nobody.
// It holds at most two frames for each request that lives, and a ping.
type outbox struct {
	wake chan struct{} // holds one: frames are there

	mu     sync.Mutex
	frames [][]byte
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

// put never waits.
func (o *outbox) put(frame []byte) {
	o.mu.Lock()
	o.frames = append(o.frames, frame)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run writes until stop is closed, or until the worker takes no more.
func (o *outbox) run(to *os.File, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-o.wake:
		}
		o.mu.Lock()
		frames := o.frames
		o.frames = nil
		o.mu.Unlock()
		for _, frame := range frames {
			if _, err := to.Write(frame); err != nil {
				return
			}
		}
	}
}
