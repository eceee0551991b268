package reach

import (
	"net"
	"net/netip"
	"time"
)

// guardEvery is how often a connection's own address is looked for among those of this machine.
const guardEvery = time.Second

// guard ends a connection whose own address this machine has lost, as in another Wi-Fi: nothing more comes over it, and
// without this, that shows only when answers fail to come, after the controller has taken the node for gone.
func (l *linked) guard() {
	own := addrOf(l.LocalAddr())
	if !own.IsValid() || own.IsLoopback() || !has(own) {
		return // an address that is not listed cannot be missed
	}
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.closed:
			return
		case <-l.d.life().Done():
			return
		case <-tick.C:
		}
		if !has(own) {
			l.d.log.Warn("this machine lost the address of its connection to the controller", "addr", own.String())
			_ = l.NetConn().Close() // its user sees the error
			return
		}
	}
}

func addrOf(a net.Addr) netip.Addr {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}

// has says whether this machine has an address; when that cannot be found out, it has.
func has(ip netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip {
			return true
		}
	}
	return false
}
