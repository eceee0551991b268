package enrol

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
)

// mute is a connection on which nobody says anything.
type mute struct {
	net.Conn
	from   string
	closed bool
}

func (m *mute) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(m.from))
}

func (m *mute) Close() error {
	m.closed = true
	return nil
}

// Whoever opens one connection after another keeps out itself alone.
func TestOneAddressMakesRoomItself(t *testing.T) {
	t.Parallel()
	var s connections
	mac := &mute{from: "10.0.0.2:1000"}
	for i := range 10 * mostConns {
		if i == mostConns {
			s.changed(mac, http.StateNew)
		}
		s.changed(&mute{from: "10.0.0.66:1000"}, http.StateNew)
	}
	if mac.closed {
		t.Error("a Mac that wants to join was hung up on")
	}
}
