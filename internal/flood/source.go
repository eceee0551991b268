// Package flood says of senders who send too much: for whom a connection counts, whose makes room for another, and how often
// what they do is worth a line of a log.
package flood

import (
	"net"
	"net/netip"
)

// ThisMachine stands for all addresses of it.
func ThisMachine() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// SourceOf is whom a connection is counted for: ThisMachine, or as of Source.
func SourceOf(c net.Conn) netip.Addr {
	from := address(c.RemoteAddr())
	if from.IsValid() && (from.IsLoopback() || from == address(c.LocalAddr())) {
		return ThisMachine()
	}
	return network(from)
}

// Source is the address of a peer without its zone, or the network of one of IPv6, who changes its own at will. It is not
// valid where the peer has none.
func Source(peer net.Addr) netip.Addr { return network(address(peer)) }

// OldestOfLoudest is the place of the first of the connections whose source has most of them, oldest first.
func OldestOfLoudest(conns []net.Conn) int {
	sources := make([]netip.Addr, len(conns))
	has := make(map[netip.Addr]int)
	for i, c := range conns {
		sources[i] = Source(c.RemoteAddr())
		has[sources[i]]++
	}
	oldest := 0
	for i, s := range sources {
		if has[s] > has[sources[oldest]] {
			oldest = i
		}
	}
	return oldest
}

func address(a net.Addr) netip.Addr {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}

func network(ip netip.Addr) netip.Addr {
	if !ip.Is6() || ip.IsLinkLocalUnicast() {
		return ip
	}
	p, err := ip.Prefix(64)
	if err != nil {
		return ip
	}
	return p.Addr()
}
