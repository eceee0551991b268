package bus_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/freeport"
	"github.com/mlxctl/mlxctl/internal/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends what hangs; it says nothing about how long anything may take.
const patience = time.Minute

// site is a cluster's bus with its users.
type site struct {
	authority *trust.Authority
	server    *bus.Server
	dir       string
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	s := &site{dir: tb.TempDir()}
	var err error
	if s.authority, err = trust.Init(filepath.Join(s.dir, "trust"), "attic"); err != nil {
		tb.Fatal(err)
	}
	s.server = s.start(tb, freeport.Addr(tb), nil) // where some start it again
	return s
}

// start starts a server of the site, which ends with the test.
func (s *site) start(tb testing.TB, addr string, change func(*bus.ServerOptions)) *bus.Server {
	tb.Helper()
	o := s.options(tb, addr)
	if change != nil {
		change(&o)
	}
	server, err := bus.StartServer(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stop(tb, server) })
	return server
}

func stop(tb testing.TB, server *bus.Server) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		tb.Error(err)
	}
}

func (s *site) options(tb testing.TB, addr string) bus.ServerOptions {
	tb.Helper()
	secure, err := s.authority.ServerTLS(time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	token, seed, err := s.authority.SystemUser()
	if err != nil {
		tb.Fatal(err)
	}
	return bus.ServerOptions{
		Name: "ctl", Addr: addr, TLS: secure, OperatorJWT: s.authority.OperatorJWT(), Accounts: s.authority.Accounts(),
		SystemAccount: s.authority.SystemAccount(), SystemCredentials: bus.Credentials{JWT: token, Seed: seed},
	}
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

func (s *site) agentCredentials(tb testing.TB, node cluster.NodeID) bus.Credentials {
	tb.Helper()
	return s.credentials(tb, func(pub string) (string, error) { return s.authority.SignAgent(pub, node) })
}

func (s *site) clientCredentials(tb testing.TB, name string) bus.Credentials {
	tb.Helper()
	return s.credentials(tb, func(pub string) (string, error) { return s.authority.SignClient(pub, name) })
}

// over are the options of somebody who connects over the network.
func (s *site) over(url string, c bus.Credentials) bus.Options {
	return bus.Options{
		URLs: []string{url}, Credentials: c, RootCAs: s.authority.CAPool(), ServerName: s.authority.ServerName(),
		HandshakeFirst: true, WaitForConnect: true,
	}.WithClocks(bus.Clocks{Silence: patience})
}

func (s *site) agent(tb testing.TB, node cluster.NodeID) *bus.Conn {
	tb.Helper()
	return dial(tb, s.over(s.server.URL(), s.agentCredentials(tb, node)))
}

func (s *site) client(tb testing.TB, name string) *bus.Conn {
	tb.Helper()
	o := s.over(s.server.URL(), s.clientCredentials(tb, name))
	o.InboxPrefix = bus.ClientInbox(name)
	return dial(tb, o)
}

// controller connects in process.
func (s *site) controller(tb testing.TB) *bus.Conn {
	tb.Helper()
	return dial(tb, bus.Options{
		InProcess: s.server, Credentials: s.credentials(tb, s.authority.SignController), InboxPrefix: "_INBOX_ctl", WaitForConnect: true,
	}.WithClocks(bus.Clocks{Silence: patience}))
}

func dial(tb testing.TB, o bus.Options) *bus.Conn {
	tb.Helper()
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	}
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

// raw is a plain connection of somebody who follows no protocol.
func (s *site) raw(tb testing.TB, c bus.Credentials) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(s.server.URL(), nats.UserJWTAndSeed(c.JWT, string(c.Seed)), nats.TLSHandshakeFirst(),
		nats.Secure(&tls.Config{RootCAs: s.authority.CAPool(), ServerName: s.authority.ServerName(), MinVersion: tls.VersionTLS13}),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

// wire is a network cable that can be cut.
type wire struct {
	listener net.Listener
	to       string
	run      sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu
	down  bool                  // guarded by mu
}

func newWire(tb testing.TB, to string) *wire {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	w := &wire{listener: l, to: to, conns: make(map[net.Conn]struct{})}
	w.run.Go(w.accept)
	tb.Cleanup(func() {
		_ = l.Close()
		w.cut()
		w.run.Wait()
	})
	return w
}

func (w *wire) url() string { return "tls://" + w.listener.Addr().String() }

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
		down := w.down
		w.conns[near], w.conns[far] = struct{}{}, struct{}{}
		w.mu.Unlock()
		if down {
			w.cut()
		}
		w.run.Go(func() { w.pipe(near, far) })
		w.run.Go(func() { w.pipe(far, near) })
	}
}

func (w *wire) pipe(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_, _ = from.Close(), to.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, from)
}

// cut closes what is connected now.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

// set lets connections through, or not.
func (w *wire) set(up bool) {
	w.mu.Lock()
	w.down = !up
	w.mu.Unlock()
	if !up {
		w.cut()
	}
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

func code(tb testing.TB, err error, want cluster.Code) {
	tb.Helper()
	if err == nil || cluster.CodeOf(err) != want {
		tb.Errorf("got error %v (%s), want code %s", err, cluster.CodeOf(err), want)
	}
}
