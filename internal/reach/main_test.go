package reach_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/freeport"
	"github.com/mlxctl/mlxctl/internal/reach"
	"github.com/mlxctl/mlxctl/internal/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const node = cluster.NodeID("mini-1")

// patience ends what hangs; it says nothing about how long anything may take.
const patience = time.Minute

// site is a cluster's bus.
type site struct {
	authority *trust.Authority
	server    *bus.Server
}

func newSite(tb testing.TB, addr string) *site {
	tb.Helper()
	authority, err := trust.Init(filepath.Join(tb.TempDir(), "trust"), "attic")
	if err != nil {
		tb.Fatal(err)
	}
	secure, err := authority.ServerTLS(time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	server, err := bus.StartServer(tb.Context(), bus.ServerOptions{
		Name: "ctl", Addr: addr, TLS: secure, OperatorJWT: authority.OperatorJWT(), Accounts: authority.Accounts(),
		SystemAccount: authority.SystemAccount(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			tb.Error(err)
		}
	})
	return &site{authority, server}
}

func (s *site) credentials(tb testing.TB, sign func(pub string) (string, error)) bus.Credentials {
	tb.Helper()
	pub, seed, err := trust.NewUserKey()
	if err != nil {
		tb.Fatal(err)
	}
	token, err := sign(pub)
	if err != nil {
		tb.Fatal(err)
	}
	return bus.Credentials{JWT: token, Seed: seed}
}

func (s *site) agentKey(tb testing.TB, id cluster.NodeID) bus.Credentials {
	tb.Helper()
	return s.credentials(tb, func(pub string) (string, error) { return s.authority.SignAgent(pub, id) })
}

// controller connects in process.
func (s *site) controller(tb testing.TB) *bus.Conn {
	tb.Helper()
	return connect(tb, bus.Options{
		InProcess: s.server, Credentials: s.credentials(tb, s.authority.SignController), InboxPrefix: "_INBOX_ctl", WaitForConnect: true,
	})
}

func (s *site) options() reach.Options {
	return reach.Options{ServerName: s.authority.ServerName(), RootCAs: s.authority.CAPool()}
}

func connect(tb testing.TB, o bus.Options) *bus.Conn {
	tb.Helper()
	o.Log = log(tb)
	c, err := bus.Dial(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

func log(tb testing.TB) *slog.Logger {
	tb.Helper()
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// end is an agent's end of the link.
type end struct {
	dialer *reach.Dialer
	conn   *bus.Conn
	links  chan plan.Link
}

// agent connects to the cluster by the ways that o knows.
func (s *site) agent(tb testing.TB, o reach.Options, cred bus.Credentials, urls ...string) *end {
	tb.Helper()
	e := &end{links: make(chan plan.Link, 256)}
	o.OnLink = func(l plan.Link) {
		select {
		case e.links <- l:
		default: // whoever waits looks at newer ones
		}
	}
	o.Log = log(tb)
	e.dialer = newDialer(tb, o)
	e.conn = connect(tb, bus.Options{
		URLs: urls, Credentials: cred, Dialer: e.dialer.Dial, OnState: e.dialer.Report,
	})
	return e
}

func newDialer(tb testing.TB, o reach.Options) *reach.Dialer {
	tb.Helper()
	d, err := reach.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Close)
	return d
}

// await returns the first link that fits.
func (e *end) await(tb testing.TB, what string, fits func(plan.Link) bool) plan.Link {
	tb.Helper()
	deadline := time.After(patience)
	for {
		select {
		case l := <-e.links:
			if fits(l) {
				return l
			}
		case <-deadline:
			tb.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func in(state plan.LinkState) func(plan.Link) bool {
	return func(l plan.Link) bool { return l.State == state }
}

// wire leads to an address; it can be cut, and given up.
type wire struct {
	listener net.Listener
	to       string
	run      sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu
}

func newWire(tb testing.TB, to string) *wire {
	tb.Helper()
	l, err := net.Listen("tcp", freeport.Addr(tb)) // where an impostor listens after it
	if err != nil {
		tb.Fatal(err)
	}
	w := &wire{listener: l, to: to, conns: make(map[net.Conn]struct{})}
	w.run.Go(w.accept)
	tb.Cleanup(w.end)
	return w
}

func (w *wire) addr() string { return w.listener.Addr().String() }
func (w *wire) url() string  { return "tls://" + w.addr() }

func (w *wire) end() {
	_ = w.listener.Close()
	w.cut()
	w.run.Wait()
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		w.conns[near], w.conns[far] = struct{}{}, struct{}{}
		w.mu.Unlock()
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			w.run.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				_, _ = way[0].Close(), way[1].Close()
				w.mu.Lock()
				defer w.mu.Unlock()
				delete(w.conns, way[0])
			})
		}
	}
}

// impostor answers with TLS, but has a certificate of another cluster. It counts its callers.
func impostor(tb testing.TB, addr string) (at string, callers func() int) {
	tb.Helper()
	authority, err := trust.Init(filepath.Join(tb.TempDir(), "trust"), "attic")
	if err != nil {
		tb.Fatal(err)
	}
	secure, err := authority.ServerTLS(time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	var mu sync.Mutex
	count := 0
	var run sync.WaitGroup
	run.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			count++
			mu.Unlock()
			run.Go(func() {
				defer conn.Close()
				if tls.Server(conn, secure).Handshake() == nil {
					tb.Error("somebody believes the impostor")
				}
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		run.Wait()
	})
	return l.Addr().String(), func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

// nobody is an address where nothing listens: no other test gets that port.
const nobody = "127.0.0.1:1"

func ports(addrs ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range addrs {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			tb.Fatalf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

func readLink(tb testing.TB, home string) plan.Link {
	tb.Helper()
	data, err := os.ReadFile(reach.LinkPath(home))
	if err != nil {
		tb.Fatal(err)
	}
	var l plan.Link
	if err := json.Unmarshal(data, &l); err != nil {
		tb.Fatal(err)
	}
	return l
}
