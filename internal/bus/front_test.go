package bus

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/flood"
)

// plug is a connection between two addresses, over which nothing goes.
type plug struct {
	net.Conn
	from   string
	closed bool
}

func (p *plug) RemoteAddr() net.Addr { return addr(p.from) }
func (p *plug) LocalAddr() net.Addr  { return addr("10.0.0.1:8660") }
func (p *plug) Close() error {
	p.closed = true
	return nil
}

func addr(s string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", s)
	if err != nil {
		panic(err)
	}
	return a
}

// Somebody who opens more and more connections without a word takes room from nobody: not from nodes that are known, not from
// new ones, not from this machine. The log says so in few lines.
func TestWhoOnlyConnectsKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	f := &front{most: usualCrowd(), log: slog.New(slog.NewTextHandler(&out, nil)), sources: map[netip.Addr]*source{}}
	now := time.Now()
	enter := func(from string, at time.Time) *plug {
		p := &plug{from: from}
		p.closed = f.enter(p, at) == nil
		return p
	}
	began := time.Now()
	node := enter("10.0.0.2:1000", now)
	now = now.Add(time.Minute)
	for name, from := range map[string]func(i int) string{
		"one address": func(int) string { return "10.0.0.66:2000" },
		"addresses": func(i int) string {
			return net.JoinHostPort(net.IPv4(10, 0, byte(1+i/250), byte(1+i%250)).String(), "2000")
		},
		"addresses of IPv6":    func(i int) string { return net.JoinHostPort("2001:db8::1:"+strconv.FormatInt(int64(i), 16), "2000") },
		"one address and more": func(i int) string { return []string{"10.0.0.66:2000", "10.0.0.67:2000"}[i%2] },
	} {
		for i := range 3_000 {
			enter(from(i), now)
		}
		if f.fresh > f.most.fresh || f.remote > f.most.remote || len(f.sources) > f.most.remote+1 {
			t.Errorf("%s: %d, of them %d not proven, of %d sources", name, f.remote, f.fresh, len(f.sources))
		}
		for _, from := range []string{"10.0.0.3:1000", "127.0.0.1:1000", "10.0.0.1:1000"} {
			if p := enter(from, now); p.closed {
				t.Errorf("%s: %s was kept out", name, from)
			}
		}
		if node.closed {
			t.Errorf("%s: a node that is known was ended", name)
		}
	}
	if n, most := strings.Count(out.String(), "\n"), 2+2*int(time.Since(began)/flood.ComplainEvery); n == 0 || n > most {
		t.Errorf("%d lines, of at most %d", n, most)
	}
}

// What is proven counts for its address, and leaves room for others all the same.
func TestOneAddressCannotHaveAll(t *testing.T) {
	t.Parallel()
	f := &front{most: usualCrowd(), log: slog.New(slog.DiscardHandler), sources: map[netip.Addr]*source{}}
	now := time.Now()
	kept := 0
	for range 10_000 {
		p := &plug{from: "10.0.0.66:2000"}
		if f.enter(p, now) != nil {
			kept++
		}
		now = now.Add(f.most.proven)
	}
	if s := f.sources[flood.SourceOf(&plug{from: "10.0.0.66:2000"})]; len(s.open) != f.most.each || f.remote != f.most.each {
		t.Errorf("%d of %d entered, %d are open", kept, 10_000, len(s.open))
	}
	local := 0
	for range 10_000 {
		if f.enter(&plug{from: "127.0.0.1:2000"}, now) != nil {
			local++
		}
		now = now.Add(f.most.proven)
	}
	if local != f.most.local {
		t.Errorf("%d of this machine", local)
	}
	if f.enter(&plug{from: "10.0.0.2:2000"}, now) == nil {
		t.Error("another machine is kept out")
	}
}
