package gateway

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// limited is a listener that has at most so many connections open; more wait in the system's queue.
type limited struct {
	net.Listener
	slots  chan struct{} // one token for each connection
	closed chan struct{}
	once   func() error
	times  Times

	mu     sync.Mutex
	paused chan struct{} // guarded by mu; closed when it goes on, nil while it does
}

func newLimited(l net.Listener, most int, times Times) *limited {
	closed := make(chan struct{})
	return &limited{
		Listener: l,
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
	c, err := l.acceptUnlessPaused()
	if err != nil {
		<-l.slots
		return nil, err // as it is: the server asks its type whether to go on
	}
	counted := &counted{Conn: c, free: sync.OnceFunc(func() { <-l.slots }), times: l.times}
	counted.fresh.Store(true)
	return counted, nil
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
