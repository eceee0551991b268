package reach

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	callTimeout = 2 * time.Second // of one address
	// The wait between two calls to a node doubles from the least to the most; one that lasted begins anew.
	leastWait, mostWait = 250 * time.Millisecond, 5 * time.Second
	// lasted is longer than the bus keeps a connection on which nobody has said who it is.
	lasted = 4 * time.Second
	// targetsEvery is how often the nodes to call are looked up.
	targetsEvery = time.Second
)

// Target is a node that is called, since it may not dial.
type Target struct {
	Node  cluster.NodeID
	Addrs []string // host and port, best first
}

// Tunnels calls nodes from their controller's side, and joins each call to the controller's own bus: the node speaks to
// the bus as if it had dialled, with the same proof and the same rights. Bytes are copied, never looked at.
type Tunnels struct {
	// Targets lists the nodes to call; it is asked once a second.
	Targets func() []Target
	// Connected says whether a node has a connection already, by whatever way; then it is not called.
	Connected func(cluster.NodeID) bool
	Bus       string // address of the controller's bus, host and port
	Log       *slog.Logger

	every, least time.Duration // tests are impatient
}

// Run calls until ctx ends, and returns when no connection is left.
func (t *Tunnels) Run(ctx context.Context) {
	if t.every <= 0 {
		t.every, t.least = targetsEvery, leastWait
	}
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	lines := make(map[cluster.NodeID]*line)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		targets := t.Targets()
		for id, l := range lines {
			if !slices.ContainsFunc(targets, func(x Target) bool { return x.Node == id }) {
				l.stop()
				delete(lines, id)
			}
		}
		for _, x := range targets {
			l := lines[x.Node]
			if l == nil {
				l = &line{t: t, node: x.Node}
				var inner context.Context
				inner, l.stop = context.WithCancel(ctx)
				lines[x.Node] = l
				wg.Go(func() { l.run(inner) })
			}
			l.set(x.Addrs)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// line is the way to one node.
type line struct {
	t    *Tunnels
	node cluster.NodeID
	stop context.CancelFunc

	mu    sync.Mutex
	addrs []string // guarded by mu
	next  int      // which of them is called next; guarded by mu
}

func (l *line) set(addrs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs = slices.Clone(addrs)
}

// pick takes turns among the addresses: whoever answers at the first may not be the node.
func (l *line) pick() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.addrs) == 0 {
		return ""
	}
	l.next++
	return l.addrs[(l.next-1)%len(l.addrs)]
}

// keep has the address that was right called first the next time.
func (l *line) keep(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.addrs, addr); i >= 0 {
		l.next = i
	}
}

func (l *line) run(ctx context.Context) {
	wait := l.t.least
	for {
		if l.serve(ctx) {
			wait = l.t.least
		}
		timer := time.NewTimer(wait + rand.N(wait/4))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(2*wait, mostWait)
	}
}

// serve calls the node if it needs that, and says whether all is well: the next call may come soon.
func (l *line) serve(ctx context.Context) bool {
	if l.t.Connected(l.node) {
		return true
	}
	addr := l.pick()
	if addr == "" {
		return true
	}
	began := time.Now()
	err := l.call(ctx, addr)
	took := time.Since(began)
	if took < lasted {
		l.t.Log.Debug("a node was called in vain", "node", l.node, "addr", addr, "err", err)
		return false
	}
	l.keep(addr)
	l.t.Log.Info("the connection to a node ended", "node", l.node, "addr", addr, "dur", took)
	return true
}

// call calls a node once and stays while the connection does.
func (l *line) call(ctx context.Context, addr string) error {
	dialer := &net.Dialer{Timeout: callTimeout}
	node, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	own, err := dialer.DialContext(ctx, "tcp", l.t.Bus)
	if err != nil {
		return errors.Join(err, node.Close())
	}
	return join(ctx, node, own)
}

// join copies both ways until either side ends, or ctx does.
func join(ctx context.Context, a, b net.Conn) error {
	stop := sync.OnceFunc(func() {
		_, _ = a.Close(), b.Close() // both copies end
	})
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	var wg sync.WaitGroup
	var there, back error
	wg.Go(func() {
		defer stop()
		_, there = io.Copy(a, b)
	})
	wg.Go(func() {
		defer stop()
		_, back = io.Copy(b, a)
	})
	wg.Wait()
	return errors.Join(there, back)
}
