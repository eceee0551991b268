package reach

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

// mute is a caller that says nothing.
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

// Whoever calls again and again has nobody hung up on but itself.
func TestOneCallerMakesRoomItself(t *testing.T) {
	t.Parallel()
	var a answerer
	controller := &mute{from: "10.0.0.1:1000"}
	for i := range 10 * mostCalls {
		if i == mostCalls {
			a.enter(controller)
		}
		a.enter(&mute{from: "10.0.0.66:1000"})
	}
	if controller.closed || !slices.Contains(a.calls, net.Conn(controller)) {
		t.Error("the controller was hung up on")
	}
}
