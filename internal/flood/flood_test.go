package flood_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/flood"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a connection of which only the two ends are known.
type peer struct {
	net.Conn
	from, to string
}

func (p peer) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(p.from))
}

func (p peer) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(p.to)) }

func TestForWhomAConnectionCounts(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"10.0.0.2:1":          "10.0.0.2",
		"[::ffff:10.0.0.2]:1": "10.0.0.2",
		"10.0.0.1:1":          "127.0.0.1", // its own address
		"127.0.0.9:1":         "127.0.0.1",
		"[::1]:1":             "127.0.0.1",
		"[2001:db8::1:2]:1":   "2001:db8::",
		"[fe80::2%eth0]:1":    "fe80::2",
	} {
		if got := flood.SourceOf(peer{from: from, to: "10.0.0.1:8660"}); got != netip.MustParseAddr(want) {
			t.Errorf("%s counts for %s, want %s", from, got, want)
		}
	}
	if s := flood.SourceOf(peer{from: "[2001:db8::2]:1", to: "[2001:db8::2]:8660"}); s != flood.ThisMachine() {
		t.Errorf("this machine counts for %s", s)
	}
	here, there := net.Pipe()
	defer func() { _, _ = here.Close(), there.Close() }()
	if s := flood.SourceOf(here); s.IsValid() {
		t.Errorf("a connection without addresses counts for %s", s)
	}
}

func TestTheLoudestMakesRoom(t *testing.T) {
	t.Parallel()
	conns := make([]net.Conn, 0, 4)
	for _, from := range []string{"10.0.0.2:1", "[2001:db8::1]:1", "10.0.0.3:1", "[2001:db8::2]:1"} {
		conns = append(conns, peer{from: from, to: "10.0.0.1:1"})
	}
	if i := flood.OldestOfLoudest(conns); i != 1 {
		t.Errorf("number %d makes room, want 1: its network has two", i)
	}
	if i := flood.OldestOfLoudest(conns[:3]); i != 0 {
		t.Errorf("number %d makes room among equals, want the oldest", i)
	}
}

func TestALineASecondWithACount(t *testing.T) {
	t.Parallel()
	var c flood.Complaints
	now := time.Unix(1000, 0)
	c.Say("a", now)
	c.Say("a", now)
	c.Say("a", now.Add(flood.ComplainEvery/2))
	if before, ok := c.Say("a", now.Add(flood.ComplainEvery)); !ok || before != 2 {
		t.Errorf("a second later: %d before, %v", before, ok)
	}
	if _, ok := c.Say("b", now); !ok {
		t.Error("another is not told of")
	}
}
