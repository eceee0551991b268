package bustest

import (
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/freeport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// late is a listener that gives a connection when it is closed, as one does that accepted just before.
type late struct {
	net.Listener
	conns chan net.Conn
}

func (l *late) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		return c, nil
	}
	select {
	case c := <-l.conns:
		return c, nil
	default:
		return nil, err
	}
}

// Nobody closes either end of a connection that came at the last moment: End does.
func TestCableEndsWithWhatComesLate(t *testing.T) {
	t.Parallel()
	far := listen(t)
	here, there := net.Pipe()
	defer func() { _ = there.Close() }()
	l := &late{Listener: listen(t), conns: make(chan net.Conn, 1)}
	l.conns <- here
	c := &Cable{listener: l, to: far.Addr().String(), conns: make(map[net.Conn]struct{})}
	c.run.Go(c.accept)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.End()
	}()
	select {
	case <-ended:
	case <-time.After(Patience):
		t.Fatal("End hangs")
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", freeport.Addr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
