package reach_test

import (
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/reach"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const node = cluster.NodeID("mini-1")

const patience = bustest.Patience

// site is a cluster's bus.
type site struct{ *bustest.Site }

func newSite(tb testing.TB) *site {
	tb.Helper()
	return &site{bustest.New(tb)}
}

// controller connects in process.
func (s *site) controller(tb testing.TB) *bus.Conn {
	tb.Helper()
	return bustest.Dial(tb, s.Inside(tb))
}

func (s *site) options() reach.Options {
	return reach.Options{ServerName: s.Authority.ServerName(), RootCAs: s.Authority.CAPool()}
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
	e.conn = bustest.Dial(tb, bus.Options{
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

// impostor answers with TLS, but has a certificate of another cluster. It counts its callers.
func impostor(tb testing.TB, addr string) (at string, callers func() int) {
	tb.Helper()
	authority := bustest.Prepare(tb).Authority
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
