package gateway

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
)

// door gives one connection after another.
type door struct{ from []string }

type guest struct {
	net.Conn
	from   string
	closed bool
}

func (g *guest) Close() error {
	g.closed = true
	return nil
}
func (g *guest) RemoteAddr() net.Addr { return tcp(g.from) }
func (g *guest) LocalAddr() net.Addr  { return tcp("10.0.0.1:8640") }

func tcp(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

func (d *door) Accept() (net.Conn, error) {
	if len(d.from) == 0 {
		return nil, net.ErrClosed
	}
	g := &guest{from: d.from[0]}
	d.from = d.from[1:]
	return g, nil
}
func (d *door) Close() error   { return nil }
func (d *door) Addr() net.Addr { return tcp("10.0.0.1:8640") }

// Whoever takes all the connections that it gets keeps neither this machine out nor another one.
func TestOneAddressGetsNotAllConnections(t *testing.T) {
	t.Parallel()
	const most = 40
	d := &door{}
	for range 1000 {
		d.from = append(d.from, "10.0.0.66:1000")
	}
	d.from = append(d.from, "10.0.0.2:1000", "127.0.0.1:1000", "10.0.0.1:1000")
	l := newLimited(d, most, Times{}, slog.New(slog.DiscardHandler))
	var got []net.Conn
	of := map[string]int{}
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		got = append(got, c)
		of[c.RemoteAddr().String()]++
	}
	if of["10.0.0.66:1000"] != most/2 || of["10.0.0.2:1000"] != 1 || of["127.0.0.1:1000"] != 1 || of["10.0.0.1:1000"] != 1 {
		t.Errorf("got %v", of)
	}
	for _, c := range got {
		_ = c.Close()
	}
	if len(l.open) != 0 || l.remote != 0 {
		t.Errorf("left %v, %d", l.open, l.remote)
	}
}
