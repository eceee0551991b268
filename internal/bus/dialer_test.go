package bus_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// A dialer of the owner's own makes every connection: TLS is its business, and it sees all URLs at once.
func TestOwnDialer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cable := bustest.NewCable(t, s.Server.Addr())
	secure := &tls.Config{RootCAs: s.Authority.CAPool(), ServerName: s.Authority.ServerName(), MinVersion: tls.VersionTLS13}
	urls := []string{"tls://192.0.2.1:1", cable.URL()}
	var dials atomic.Int64
	o := bus.Options{
		URLs: urls, Credentials: s.Client(t, "one"), InboxPrefix: bus.ClientInbox("one"), WaitForConnect: true,
		Dialer: func(ctx context.Context, got []string) (net.Conn, error) {
			if dials.Add(1); !slices.Equal(got, urls) {
				t.Errorf("called with %v", got)
			}
			return (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", cable.Addr())
		},
	}
	c := bustest.Dial(t, o)
	if _, err := c.RTT(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := dials.Load()
	cable.Cut()
	eventually(t, "it is connected again", func() bool { return dials.Load() > before && c.Connected() })
	if _, err := c.RTT(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What the dialer says of its failure is what the owner hears, in the first try and in later ones.
func TestOwnDialerSaysWhy(t *testing.T) {
	t.Parallel()
	why := cluster.Errorf(cluster.CodeUnauthorized, "connection refused by a stranger") // nats.go hides such words
	heard := make(chan error, 16)
	o := bus.Options{
		Dialer:  func(context.Context, []string) (net.Conn, error) { return nil, why },
		OnState: func(_ bool, err error) { heard <- err },
	}
	c := bustest.Dial(t, o)
	select {
	case err := <-heard:
		if !errors.Is(err, why) {
			t.Errorf("heard %v", err)
		}
	case <-time.After(patience):
		t.Fatal("nothing is said")
	}
	if err := c.Publish("mlx.hb.a", nil); !errors.Is(err, why) {
		t.Errorf("publish says %v", err)
	}
	o.WaitForConnect = true
	if _, err := bus.Dial(t.Context(), o); !errors.Is(err, why) {
		t.Errorf("dial says %v", err)
	}
}

// A dialer that waits is interrupted by the end of the connection, and by the end of the first try.
func TestOwnDialerIsInterrupted(t *testing.T) {
	t.Parallel()
	waiting, ended := make(chan struct{}, 16), make(chan error, 16)
	o := bus.Options{Dialer: func(ctx context.Context, _ []string) (net.Conn, error) {
		waiting <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-waiting
		cancel()
	}()
	c, err := bus.Dial(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	<-waiting // again
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) { // not that its own time was over
			t.Errorf("the dialer's context ended with %v", err)
		}
	}
}
