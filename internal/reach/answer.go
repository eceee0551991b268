package reach

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/flood"
)

const (
	// proofWait is how long, if nothing else is set, who calls has to prove that it is the controller.
	proofWait = 3 * time.Second
	// mostCalls bounds the callers that have not proven it yet. When another comes, the oldest goes of the address that has
	// most of them, so that those who only hold their place keep nobody out but themselves.
	mostCalls = 16
	// staleAfter is when the server at the far end is about to give up a connection on which nobody speaks.
	staleAfter = 2 * time.Second
	// acceptPause is the wait after an error of the listener, as when there are no descriptors left.
	acceptPause = 200 * time.Millisecond
)

// answerer takes calls of the controller. On a call it speaks as the client that it is: who calls learns the greeting of
// TLS, until it proves to be the controller.
type answerer struct {
	listener net.Listener
	secure   *tls.Config
	log      *slog.Logger
	proof    time.Duration // as proofWait
	ready    chan *proven  // the newest proven one that nobody took
	quit     chan struct{}
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool       // no call is wanted; guarded by mu, as is the rest
	ended  bool       // by close
	calls  []net.Conn // not proven yet, oldest first
}

func answer(addr string, secure *tls.Config, proof time.Duration, log *slog.Logger) (*answerer, error) {
	l, err := net.Listen("tcp", addr) //nolint:noctx // a local bind does not wait
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, cluster.Errorf(cluster.CodeConflict, "cannot listen for the controller on %s: the address is in use", addr).
			WithHint("is another agent running?")
	}
	if err != nil {
		return nil, cluster.Errorf(cluster.CodeInvalid, "cannot listen for the controller on %s: %v", addr, err)
	}
	a := &answerer{listener: l, secure: secure, log: log, proof: proof, ready: make(chan *proven, 1), quit: make(chan struct{})}
	a.running.Go(a.accept)
	return a, nil
}

func (a *answerer) close() {
	close(a.quit)
	_ = a.listener.Close() // accept sees it
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.open(false)
	a.running.Wait()
	a.clear()
}

// open says whether calls are wanted. Those that wait while none is are ended.
func (a *answerer) open(wanted bool) {
	a.mu.Lock()
	a.closed = !wanted || a.ended
	if a.closed {
		for _, c := range a.calls {
			_ = c.Close() // nothing was said
		}
	}
	closed := a.closed
	a.mu.Unlock()
	if closed {
		a.clear()
	}
}

func (a *answerer) clear() {
	select {
	case p := <-a.ready:
		_ = p.Close() // nobody used it
	default:
	}
}

func (a *answerer) accept() {
	for {
		conn, err := a.listener.Accept()
		if err != nil {
			pause := time.NewTimer(acceptPause)
			select {
			case <-a.quit:
				pause.Stop()
				return
			case <-pause.C:
			}
			a.log.Warn("cannot take calls of the controller", "err", err)
			continue
		}
		if a.enter(conn) {
			a.running.Go(func() { a.prove(conn) })
		}
	}
}

// enter notes a caller, if one is wanted.
func (a *answerer) enter(conn net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		_ = conn.Close() // nothing was said
		return false
	}
	if len(a.calls) >= mostCalls {
		i := flood.OldestOfLoudest(a.calls)
		_ = a.calls[i].Close() // its handshake ends
		a.calls = slices.Delete(a.calls, i, i+1)
	}
	a.calls = append(a.calls, conn)
	return true
}

func (a *answerer) leave(conn net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = slices.DeleteFunc(a.calls, func(c net.Conn) bool { return c == conn })
}

// prove keeps a caller that is the controller.
func (a *answerer) prove(conn net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), a.proof)
	defer cancel()
	secure := tls.Client(conn, a.secure)
	err := secure.HandshakeContext(ctx)
	a.leave(conn)
	if err != nil {
		_ = conn.Close() // the handshake says more
		a.log.Debug("a caller is not the controller", "from", conn.RemoteAddr().String(), "err", err)
		return
	}
	p := &proven{Conn: secure, addr: conn.RemoteAddr().String(), reverse: true, at: time.Now()}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		_ = p.Close() // nobody used it
		return
	}
	select {
	case old := <-a.ready: // the far end of an older one may be gone
		_ = old.Close()
	default:
	}
	a.ready <- p // there is room: only the holder of mu sends
}

// take waits for the controller to call.
func (a *answerer) take(ctx context.Context) (*proven, error) {
	for {
		select {
		case p := <-a.ready:
			if time.Since(p.at) < staleAfter {
				return p, nil
			}
			_ = p.Close() // the server is about to
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
