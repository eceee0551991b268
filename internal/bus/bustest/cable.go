package bustest

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/mlxctl/mlxctl/internal/freeport"
)

// Cable leads to an address; it can be cut, for a moment or for longer. It is safe for concurrent use.
type Cable struct {
	listener net.Listener
	to       string
	run      sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu
	down  bool                  // guarded by mu
}

// NewCable makes one that ends with the test; somebody else may listen at its address after End.
func NewCable(tb testing.TB, to string) *Cable {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", freeport.Addr(tb))
	if err != nil {
		tb.Fatal(err)
	}
	c := &Cable{listener: l, to: to, conns: make(map[net.Conn]struct{})}
	c.run.Go(c.accept)
	tb.Cleanup(c.End)
	return c
}

// Addr is the near end.
func (c *Cable) Addr() string { return c.listener.Addr().String() }

// URL is Addr as agents and clients are told it.
func (c *Cable) URL() string { return "tls://" + c.Addr() }

// End takes it away.
func (c *Cable) End() {
	_ = c.listener.Close() // it may be closed already
	c.Set(false)           // what was accepted before is cut, too
	c.run.Wait()
}

// Cut closes what is connected; what connects after it comes through.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Close() // whoever copies sees it
	}
}

// Set lets connections through, or closes them, from now on.
func (c *Cable) Set(up bool) {
	c.mu.Lock()
	c.down = !up
	c.mu.Unlock()
	if !up {
		c.Cut()
	}
}

func (c *Cable) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.to) //nolint:noctx // on loopback, it does not wait
		if err != nil {
			_ = near.Close() // nothing was said
			continue
		}
		c.mu.Lock()
		down := c.down
		c.conns[near], c.conns[far] = struct{}{}, struct{}{}
		c.mu.Unlock()
		if down {
			c.Cut()
		}
		c.run.Go(func() { c.pipe(near, far) })
		c.run.Go(func() { c.pipe(far, near) })
	}
}

func (c *Cable) pipe(from, to net.Conn) {
	_, _ = io.Copy(to, from)        // a cut is no error
	_, _ = from.Close(), to.Close() // the other way may have closed them
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, from)
}
