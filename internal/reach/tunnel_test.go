package reach_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/reach"
)

// plainService says something that is no TLS to everybody.
func plainService(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var run sync.WaitGroup
	run.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			_ = conn.Close()
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		run.Wait()
	})
	return l.Addr().String()
}

// tunnels run until the test ends, or end is called.
func tunnels(tb testing.TB, t *reach.Tunnels) (end func()) {
	tb.Helper()
	if t.Log = log(tb); t.Connected == nil {
		t.Connected = func(cluster.NodeID) bool { return false }
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.WithClock(20 * time.Millisecond).Run(ctx)
	}()
	end = sync.OnceFunc(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			tb.Error("the tunnels do not end")
		}
	})
	tb.Cleanup(end)
	return end
}

func to(id cluster.NodeID, addrs ...string) func() []reach.Target {
	return func() []reach.Target { return []reach.Target{{Node: id, Addrs: addrs}} }
}

// reversed is an agent that listens and knows no address.
func (s *site) reversed(tb testing.TB) *end {
	tb.Helper()
	o := s.options()
	o.Reverse = "127.0.0.1:0"
	return s.agent(tb, o, s.Agent(tb, node))
}

func TestControllerCalls(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	e := s.reversed(t)
	cable := bustest.NewCable(t, e.dialer.ReverseAddr())
	// The first address is another service, the second nobody: the third is the node.
	end := tunnels(t, &reach.Tunnels{
		Targets: to(node, plainService(t), nobody, cable.Addr()), Bus: s.Server.Addr(), Connected: func(cluster.NodeID) bool { return e.conn.Connected() },
	})
	l := e.await(t, "connected", in(plan.LinkConnected))
	if !l.Reverse || l.Error != "" {
		t.Errorf("the link is %+v", l)
	}
	asked := make(chan string, 1)
	sub, err := e.conn.Handle(bus.CommandSubject(node, bus.VerbUnload), func(_ context.Context, subject string, _ func(any) error) (any, error) {
		asked <- subject
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	ctl := s.controller(t)
	if err := ctl.Request(t.Context(), bus.CommandSubject(node, bus.VerbUnload), bus.UnloadRequest{}, nil); err != nil {
		t.Fatal(err)
	}
	<-asked
	// It may say what it may say, and no more, as over any other connection.
	heard := make(chan string, 16)
	all, err := ctl.Subscribe("mlx.hb.*", func(subject string, _ func(any) error) { heard <- subject })
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	for _, id := range []cluster.NodeID{"mini-2", node} {
		if err := e.conn.Publish(bus.HeartbeatSubject(id), bus.Heartbeat{Node: id}); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-heard; got != bus.HeartbeatSubject(node) {
		t.Errorf("it spoke as another node: %s", got)
	}
	cable.Cut()
	e.await(t, "the cut is noticed", in(plan.LinkConnecting))
	e.await(t, "connected again", in(plan.LinkConnected))
	end()
	e.await(t, "the end of the tunnels is noticed", in(plan.LinkConnecting))
}

// Who is connected is not called, and who is not in the list any more is hung up on.
func TestOnlyWhoNeedsItIsCalled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	e := s.reversed(t)
	var asked, listed atomic.Bool
	listed.Store(true)
	var connected atomic.Bool
	connected.Store(true)
	tunnels(t, &reach.Tunnels{
		Bus: s.Server.Addr(),
		Targets: func() []reach.Target {
			if !listed.Load() {
				return nil
			}
			return to(node, e.dialer.ReverseAddr())()
		},
		Connected: func(cluster.NodeID) bool {
			asked.Store(true)
			return connected.Load()
		},
	})
	eventually(t, "it is asked whether the node is connected", asked.Load)
	e.await(t, "it waits", func(l plan.Link) bool { return l.State == plan.LinkConnecting && l.Error != "" })
	if e.conn.Connected() {
		t.Error("it was called, though it had a connection")
	}
	connected.Store(false)
	e.await(t, "connected", in(plan.LinkConnected))
	listed.Store(false)
	e.await(t, "hung up", in(plan.LinkConnecting))
}

// Strangers who call learn that somebody would speak TLS, keep the controller from nothing, and are hung up on.
func TestStrangersCall(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	o := s.options().WithProof(time.Hour) // nobody is hung up on for being slow
	o.Reverse = "127.0.0.1:0"
	e := s.agent(t, o, s.Agent(t, node))
	addr := e.dialer.ReverseAddr()
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			_ = c.Close()
		}
	}()
	call := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
		return c
	}
	for range 4 * reach.MostCalls {
		call()
	}
	oldest := silent[0]
	_ = oldest.SetReadDeadline(time.Now().Add(patience))
	hello, err := io.ReadAll(oldest)
	if err != nil && !isClosed(err) {
		t.Errorf("the oldest is not hung up on: %v", err)
	}
	if len(hello) > 0 && (hello[0] != 22 || len(hello) > 4096) { // a record of a handshake
		t.Errorf("a stranger heard %d bytes: %q", len(hello), hello[:min(len(hello), 64)])
	}
	// An impostor that answers the greeting gets no further.
	fake, _ := impostor(t, "127.0.0.1:0")
	end := tunnels(t, &reach.Tunnels{Targets: to(node, addr), Bus: fake})
	e.await(t, "it still waits", func(l plan.Link) bool { return l.State == plan.LinkConnecting && l.Error != "" })
	end()
	for range 2 * reach.MostCalls {
		call()
	}
	tunnels(t, &reach.Tunnels{Targets: to(node, addr), Bus: s.Server.Addr(), Connected: func(cluster.NodeID) bool { return e.conn.Connected() }})
	e.await(t, "connected among strangers", in(plan.LinkConnected))
	late := call()
	_ = late.SetReadDeadline(time.Now().Add(patience))
	if heard, err := io.ReadAll(late); len(heard) > 0 || (err != nil && !isClosed(err)) {
		t.Errorf("who calls while there is a connection hears %q, %v", heard, err)
	}
	if _, err := e.conn.RTT(t.Context()); err != nil {
		t.Error(err)
	}
}

func isClosed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}

// A node that is to be called dials as well, when nobody calls.
func TestNobodyCalls(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	o := s.options().WithClocks(100*time.Millisecond, 0)
	o.Reverse = "127.0.0.1:0"
	e := s.agent(t, o, s.Agent(t, node), s.Server.URL())
	if l := e.await(t, "connected", in(plan.LinkConnected)); l.Reverse || l.URL != s.Server.URL() {
		t.Errorf("the link is %+v", l)
	}
	if _, err := reach.New(reach.Options{ServerName: "x", RootCAs: s.Authority.CAPool(), Reverse: e.dialer.ReverseAddr()}); cluster.CodeOf(err) != cluster.CodeConflict {
		t.Errorf("a second one at the same address: %v", err)
	}
}

func BenchmarkRTT(b *testing.B) {
	for _, way := range []string{"direct", "reverse"} {
		b.Run(way, func(b *testing.B) {
			s := newSite(b)
			var e *end
			if way == "direct" {
				e = s.agent(b, s.options(), s.Agent(b, node), s.Server.URL())
			} else {
				e = s.reversed(b)
				tunnels(b, &reach.Tunnels{
					Targets: to(node, e.dialer.ReverseAddr()), Bus: s.Server.Addr(),
					Connected: func(cluster.NodeID) bool { return e.conn.Connected() },
				})
			}
			e.await(b, "connected", in(plan.LinkConnected))
			var took []time.Duration
			for b.Loop() {
				d, err := e.conn.RTT(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, d)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
		})
	}
}
