// Package bustest stands up a cluster's bus for tests: its authority, its embedded server, its users, and a cable to it
// that can be cut.
package bustest

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/freeport"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// Patience ends what hangs; it says nothing about how long anything may take.
const Patience = time.Minute

// Site is a cluster's bus on loopback, with the authority that signs its users.
type Site struct {
	Authority *trust.Authority
	Server    *bus.Server // the first one
}

// New starts one, at an address where it can be started again.
func New(tb testing.TB) *Site {
	tb.Helper()
	s := Prepare(tb)
	s.Server = s.Start(tb, freeport.Addr(tb), nil)
	return s
}

// Prepare makes one whose server is still to be started.
func Prepare(tb testing.TB) *Site {
	tb.Helper()
	authority, err := trust.Init(filepath.Join(tb.TempDir(), "trust"), "attic")
	if err != nil {
		tb.Fatal(err)
	}
	return &Site{Authority: authority}
}

// Start starts a server of the site, which ends with the test. change may be nil.
func (s *Site) Start(tb testing.TB, addr string, change func(*bus.ServerOptions)) *bus.Server {
	tb.Helper()
	o := s.Options(tb, addr)
	if change != nil {
		change(&o)
	}
	server, err := bus.StartServer(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { Stop(tb, server) })
	return server
}

// Stop ends a server before its test ends.
func Stop(tb testing.TB, server *bus.Server) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		tb.Error(err)
	}
}

// Options are those of a server of the site.
func (s *Site) Options(tb testing.TB, addr string) bus.ServerOptions {
	tb.Helper()
	secure, err := s.Authority.ServerTLS(time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	token, seed, err := s.Authority.SystemUser()
	if err != nil {
		tb.Fatal(err)
	}
	return bus.ServerOptions{
		Name: "ctl", Addr: addr, TLS: secure, OperatorJWT: s.Authority.OperatorJWT(), Accounts: s.Authority.Accounts(),
		SystemAccount: s.Authority.SystemAccount(), SystemCredentials: bus.Credentials{JWT: token, Seed: seed},
	}
}

// Credentials are those of a new user, signed by sign.
func Credentials(tb testing.TB, sign func(pub string) (string, error)) bus.Credentials {
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

// Agent are the credentials of an agent.
func (s *Site) Agent(tb testing.TB, node cluster.NodeID) bus.Credentials {
	tb.Helper()
	return Credentials(tb, func(pub string) (string, error) { return s.Authority.SignAgent(pub, node) })
}

// Client are the credentials of a client.
func (s *Site) Client(tb testing.TB, name string) bus.Credentials {
	tb.Helper()
	return Credentials(tb, func(pub string) (string, error) { return s.Authority.SignClient(pub, name) })
}

// Over are the options of somebody who connects over the network.
func (s *Site) Over(url string, c bus.Credentials) bus.Options {
	return bus.Options{
		URLs: []string{url}, Credentials: c, RootCAs: s.Authority.CAPool(), ServerName: s.Authority.ServerName(),
		HandshakeFirst: true,
	}
}

// Inside are the options of the controller, which connects in process.
func (s *Site) Inside(tb testing.TB) bus.Options {
	tb.Helper()
	return bus.Options{
		InProcess: s.Server, Credentials: Credentials(tb, s.Authority.SignController), InboxPrefix: "_INBOX_ctl", WaitForConnect: true,
	}
}

// Reached dials until it is answered: a server on a slow machine may not answer within the time of one try.
func Reached[T any](tb testing.TB, dial func() (T, error)) T {
	tb.Helper()
	for began := time.Now(); ; {
		c, err := dial()
		if err == nil {
			return c
		}
		if cluster.CodeOf(err) != cluster.CodeUnreachable || time.Since(began) > Patience {
			tb.Fatal(err)
		}
	}
}

// Dial connects until the test ends.
func Dial(tb testing.TB, o bus.Options) *bus.Conn {
	tb.Helper()
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	c := Reached(tb, func() (*bus.Conn, error) { return bus.Dial(tb.Context(), o) })
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}
