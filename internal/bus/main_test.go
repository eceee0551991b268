package bus_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = bustest.Patience

// site is a cluster's bus with its users.
type site struct {
	*bustest.Site
	dir string
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	return &site{bustest.New(tb), tb.TempDir()}
}

// over are the options of somebody who connects over the network.
func (s *site) over(url string, c bus.Credentials) bus.Options {
	o := s.Over(url, c).WithClocks(bus.Clocks{Silence: patience})
	o.WaitForConnect = true
	return o
}

func (s *site) agent(tb testing.TB, node cluster.NodeID) *bus.Conn {
	tb.Helper()
	return bustest.Dial(tb, s.over(s.Server.URL(), s.Agent(tb, node)))
}

func (s *site) client(tb testing.TB, name string) *bus.Conn {
	tb.Helper()
	o := s.over(s.Server.URL(), s.Client(tb, name))
	o.InboxPrefix = bus.ClientInbox(name)
	return bustest.Dial(tb, o)
}

// controller connects in process.
func (s *site) controller(tb testing.TB) *bus.Conn {
	tb.Helper()
	return bustest.Dial(tb, s.Inside(tb).WithClocks(bus.Clocks{Silence: patience}))
}

// raw is a plain connection of somebody who follows no protocol.
func (s *site) raw(tb testing.TB, c bus.Credentials) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(s.Server.URL(), nats.UserJWTAndSeed(c.JWT, string(c.Seed)), nats.TLSHandshakeFirst(),
		nats.Secure(&tls.Config{RootCAs: s.Authority.CAPool(), ServerName: s.Authority.ServerName(), MinVersion: tls.VersionTLS13}),
		nats.Timeout(patience), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
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
