package reach_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/reach"
)

func TestTheRightOneWins(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fake, callers := impostor(t, "127.0.0.1:0")
	e := s.agent(t, s.options(), s.Agent(t, node), "tls://"+fake, "tls://"+nobody, "not a url", s.Server.URL())
	l := e.await(t, "connected", in(plan.LinkConnected))
	if l.URL != s.Server.URL() || l.Reverse || l.Error != "" {
		t.Errorf("the link is %+v", l)
	}
	eventually(t, "the impostor was asked, too", func() bool { return callers() > 0 })
	if _, err := e.conn.RTT(t.Context()); err != nil {
		t.Error(err)
	}
}

// The controller gets another address, and impostors are the first to answer at the old and at the new ones.
func TestControllerMoves(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	old, moved := bustest.NewCable(t, s.Server.Addr()), bustest.NewCable(t, s.Server.Addr())
	fake, _ := impostor(t, "127.0.0.1:0")
	o := s.options()
	o.Remember = filepath.Join(t.TempDir(), "run", "controller-url")
	var rounds atomic.Int64
	o.Discover = func(context.Context) ([]netip.AddrPort, error) {
		rounds.Add(1)
		return ports(fake, moved.Addr()), nil
	}
	e := s.agent(t, o, s.Agent(t, node), old.URL())
	e.await(t, "connected", in(plan.LinkConnected))
	if n := rounds.Load(); n != 0 {
		t.Errorf("looked %d times, though the known address was right", n)
	}

	const count = 2000
	pause := make(chan struct{})
	sub, err := e.conn.ServeStreams(bus.CommandSubject(node, bus.VerbInfer), bus.ControlSubject(node), 4,
		func(_ context.Context, _ func(any) error, w *bus.StreamWriter) error {
			for i := range count {
				if i == count/2 {
					<-pause
				}
				if err := w.Send(i); err != nil {
					return err
				}
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	ctl := s.controller(t)
	stream, err := ctl.OpenStream(t.Context(), bus.StreamCall{
		Subject: bus.CommandSubject(node, bus.VerbInfer), Reply: bus.ReplySubject(node, "x"), Control: bus.ControlSubject(node), ID: "x", Gap: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for i := range count / 2 {
		next(t, stream, i)
	}
	at := old.Addr()
	old.End()
	impostor(t, at)
	close(pause)
	for i := count / 2; i < count; i++ {
		next(t, stream, i)
	}
	var nothing int
	if err := stream.Next(t.Context(), &nothing); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}
	if l := e.await(t, "connected again", in(plan.LinkConnected)); l.URL != moved.URL() {
		t.Errorf("it is connected to %s, want %s", l.URL, moved.URL())
	}
	eventually(t, "the address is remembered", func() bool {
		kept, _ := os.ReadFile(o.Remember)
		return string(kept) == moved.Addr()+"\n"
	})

	// The next start goes there at once.
	before := rounds.Load()
	d := newDialer(t, o)
	conn, err := d.Dial(t.Context(), []string{"tls://" + at})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if rounds.Load() != before {
		t.Error("it looked for an address that it had remembered")
	}
}

func next(t *testing.T, s *bus.Stream, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got int
	if err := s.Next(ctx, &got); err != nil || got != want {
		t.Fatalf("got %d, %v; want %d", got, err, want)
	}
}

func TestWhyThereIsNoLink(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	fake, _ := impostor(t, "127.0.0.1:0")
	plain := bustest.NewCable(t, plainService(t))
	gone := nobody
	for _, c := range []struct {
		name  string
		cred  bus.Credentials
		url   string
		state plan.LinkState
		says  string
	}{
		{"another cluster", s.Agent(t, node), "tls://" + fake, plan.LinkRefused, "another cluster answers at " + fake},
		{"no TLS", s.Agent(t, node), plain.URL(), plan.LinkRefused, "another service answers at " + plain.Addr()},
		{"credentials of another cluster", other.Agent(t, node), s.Server.URL(), plan.LinkRefused, "refuses these credentials"},
		{"nobody", s.Agent(t, node), "tls://" + gone, plan.LinkConnecting, gone + ": connection refused"},
		{"no such name", s.Agent(t, node), "tls://no-such-mac.local:8660", plan.LinkConnecting, "no-such-mac.local"},
		{"no address", s.Agent(t, node), "", plan.LinkConnecting, "no address of the controller is known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := s.agent(t, s.options(), c.cred, c.url)
			l := e.await(t, "a state", func(l plan.Link) bool { return l.Error != "" })
			if l.State != c.state || !strings.Contains(l.Error, c.says) {
				t.Errorf("the link is %+v, want %s that says %q", l, c.state, c.says)
			}
		})
	}
}

func TestDiscoveryIsPaced(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var rounds atomic.Int64
	o := s.options().WithClocks(0, time.Hour)
	o.Discover = func(context.Context) ([]netip.AddrPort, error) {
		rounds.Add(1)
		return nil, errors.New("no network")
	}
	d := newDialer(t, o)
	for range 20 {
		if _, err := d.Dial(t.Context(), []string{"tls://" + nobody}); cluster.CodeOf(err) != cluster.CodeUnreachable {
			t.Errorf("got %v", err)
		}
	}
	if n := rounds.Load(); n != 1 {
		t.Errorf("looked %d times within an hour", n)
	}
}

// What a slow round finds is for the next dial, and Close does not wait for it to be through.
func TestSlowDiscovery(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	o := s.options()
	found := make(chan struct{})
	o.Discover = func(ctx context.Context) ([]netip.AddrPort, error) {
		select {
		case <-found:
			return ports(s.Server.Addr()), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d := newDialer(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, nil); cluster.CodeOf(err) != cluster.CodeUnreachable {
		t.Errorf("got %v", err)
	}
	close(found)
	eventually(t, "the next dial is right", func() bool {
		conn, err := d.Dial(t.Context(), nil)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	ended := make(chan error, 1)
	o.Discover = func(ctx context.Context) ([]netip.AddrPort, error) {
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
	slow := newDialer(t, o)
	if _, err := slow.Dial(ctx, nil); err == nil {
		t.Error("it found nobody, and yet")
	}
	slow.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) { // not that its own time was over
		t.Errorf("the round ended with %v", err)
	}
}

func TestLinkFile(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	f, err := reach.OpenLink(home, node, "v1", log(t))
	if err != nil {
		t.Fatal(err)
	}
	first := readLink(t, home)
	if first.State != plan.LinkConnecting || first.Node != node || first.PID != os.Getpid() || first.Version != "v1" || first.At.IsZero() {
		t.Errorf("it begins as %+v", first)
	}
	f.Set(plan.Link{State: plan.LinkConnected, URL: "tls://x:1", Reverse: true, Node: "other", PID: 1})
	got := readLink(t, home)
	if got.State != plan.LinkConnected || got.URL != "tls://x:1" || !got.Reverse || got.Node != node || got.PID != os.Getpid() {
		t.Errorf("it is %+v", got)
	}
	f.Set(plan.Link{State: plan.LinkConnected, URL: "tls://x:1", Reverse: true})
	if again := readLink(t, home); again != got {
		t.Errorf("it was written again without a change: %+v, was %+v", again, got)
	}
	f.Close()
	if left, _ := filepath.Glob(filepath.Join(home, "run", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// denials is set in the process that runs behind a firewall.
const denials = "MLXCTL_TEST_DENIED"

// TestLocalNetworkDenied dials out of a network that lets nobody out, as macOS does to processes without the permission:
// the same error, as soon.
func TestLocalNetworkDenied(t *testing.T) {
	if os.Getenv(denials) != "" {
		t.Skip("this is the process that is denied")
	}
	t.Parallel()
	script := `ip link set lo up && ip addr add 10.77.0.2/24 dev lo &&
ip route add unreachable 10.77.0.1 && exec "$0" -test.run '^TestDeniedProcess$' -test.v`
	args := []string{"-n", "sh", "-c", script, os.Args[0]}
	if os.Geteuid() != 0 {
		args = append([]string{"-r"}, args...)
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", append(args[:len(args)-4:len(args)-4], "true")...).CombinedOutput(); err != nil {
		t.Skipf("this machine gives no network of its own: unshare: %v, %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), denials+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDeniedProcess") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDeniedProcess(t *testing.T) {
	if os.Getenv(denials) == "" {
		t.Skip("TestLocalNetworkDenied runs this, in a network of its own")
	}
	s := newSite(t)
	for _, c := range []struct {
		name    string
		urls    []string
		reverse bool
		state   plan.LinkState
	}{
		{"denied", []string{"tls://10.77.0.1:8660"}, false, plan.LinkDenied},
		{"denied, and nobody on this machine", []string{"tls://10.77.0.1:8660", "tls://" + nobody}, false, plan.LinkDenied},
		{"the network answers", []string{"tls://10.77.0.1:8660", "tls://10.77.0.2:9"}, false, plan.LinkConnecting},
		{"no network", []string{"tls://203.0.113.1:8660"}, false, plan.LinkConnecting},
		{"it is to be called", []string{"tls://10.77.0.1:8660"}, true, plan.LinkConnecting},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := s.options().WithClocks(time.Nanosecond, 0)
			if c.reverse {
				o.Reverse = "127.0.0.1:0"
			}
			e := s.agent(t, o, s.Agent(t, node), c.urls...)
			// A denial is known by how soon it comes: on a slow machine, not every one is.
			l := e.await(t, "a state", func(l plan.Link) bool {
				return l.Error != "" && (c.state != plan.LinkDenied || l.State == plan.LinkDenied)
			})
			if l.State != c.state {
				t.Errorf("the link is %+v, want %s", l, c.state)
			}
			if l.State == plan.LinkDenied && !strings.Contains(l.Error, "Local Network") {
				t.Errorf("it does not say what to do: %s", l.Error)
			}
		})
	}
}
