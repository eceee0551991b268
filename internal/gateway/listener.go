package gateway

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlxctl/mlxctl/internal/flood"
)

// limited is a listener that has at most so many connections open; more wait in the system's queue. Other machines together
// have three quarters of the room, and one address of them half: whoever only connects keeps this machine out never, and
// others not by itself.
type limited struct {
	net.Listener
	log    *slog.Logger
	slots  chan struct{} // one token for each connection
	closed chan struct{}
	once   func() error
	times  Times
	most   int
	said   flood.Complaints

	mu     sync.Mutex
	paused chan struct{}      // guarded by mu; closed when it goes on, nil while it does
	open   map[netip.Addr]int // guarded by mu; connections of other machines, by address
	remote int                // guarded by mu; all of them
}

func newLimited(l net.Listener, most int, times Times, log *slog.Logger) *limited {
	closed := make(chan struct{})
	return &limited{
		Listener: l,
		log:      log,
		most:     most,
		open:     make(map[netip.Addr]int),
		slots:    make(chan struct{}, most),
		closed:   closed,
		times:    times,
		once: sync.OnceValue(func() error {
			close(closed)
			return l.Close()
		}),
	}
}

// Accept waits for a connection and for room for it.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.acceptUnlessPaused()
		if err != nil {
			<-l.slots
			return nil, err // as it is: the server asks its type whether to go on
		}
		leave, ok := l.enter(c)
		if !ok {
			_ = c.Close() // nothing was said
			continue
		}
		counted := &counted{Conn: c, times: l.times, free: sync.OnceFunc(func() {
			leave()
			<-l.slots
		})}
		counted.fresh.Store(true)
		return counted, nil
	}
}

// enter counts a connection of another machine, if there is room for it.
func (l *limited) enter(c net.Conn) (leave func(), ok bool) {
	from := flood.SourceOf(c)
	if !from.IsValid() || from == flood.ThisMachine() {
		return func() {}, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= max(1, l.most/2) || l.remote >= max(1, l.most/4*3) {
		if before, ok := l.said.Say("full", time.Now()); ok {
			l.log.Warn("a connection to the gateway was refused: too many are open", "from", from, "open", l.open[from], "before", before)
		}
		return nil, false
	}
	l.open[from]++
	l.remote++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.remote--
		if l.open[from]--; l.open[from] == 0 {
			delete(l.open, from)
		}
	}, true
}

func (l *limited) acceptUnlessPaused() (net.Conn, error) {
	for {
		if paused := l.pausing(); paused != nil {
			select {
			case <-paused:
			case <-l.closed:
				return nil, net.ErrClosed
			}
		}
		c, err := l.Listener.Accept()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
	}
}

func (l *limited) pausing() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused
}

// pause leaves connections in the system's queue until resume. A listener that knows no deadline takes one more.
func (l *limited) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = make(chan struct{})
	l.setDeadline(time.Unix(1, 0))
}

func (l *limited) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setDeadline(time.Time{})
	close(l.paused)
	l.paused = nil
}

func (l *limited) setDeadline(t time.Time) {
	if d, ok := l.Listener.(interface{ SetDeadline(t time.Time) error }); ok {
		_ = d.SetDeadline(t) // it may be closed
	}
}

// Close ends Accept too where it waits for room.
func (l *limited) Close() error { return l.once() }

// counted is a connection that frees its place when it is closed.
//
// Clients open connections ahead of use. The server would allow one only the time of a head before its first byte, and
// close it just when it is used at last; a POST that is lost so is not sent again. Here it is idle until that byte.
type counted struct {
	net.Conn
	free  func()
	times Times
	fresh atomic.Bool // nothing was read yet
}

// SetReadDeadline sets the deadline of the server, or that of an idle connection while c is one.
func (c *counted) SetReadDeadline(t time.Time) error {
	if c.fresh.Load() && !t.IsZero() {
		t = time.Now().Add(c.times.Idle)
	}
	return c.Conn.SetReadDeadline(t)
}

// Read reads. With the first byte the time of a head begins.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.fresh.CompareAndSwap(true, false) {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.times.Header))
	}
	return n, err
}

// Close closes the connection.
func (c *counted) Close() error {
	defer c.free()
	return c.Conn.Close()
}
