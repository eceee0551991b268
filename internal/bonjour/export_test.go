package bonjour

import "net/netip"

// Heard is what a scan of a host with these prefixes makes of packets that came in by an interface.
func Heard(own []netip.Prefix, zone string, packets ...[]byte) []Mac {
	n := &network{prefixes: own}
	for _, p := range own {
		n.own = append(n.own, p.Addr())
	}
	b := newBook(n, macServices())
	for _, p := range packets {
		b.add(decode(p, b.services, zone))
	}
	var out []Mac
	for _, m := range b.macs() {
		out = append(out, m.Mac)
	}
	return out
}

// Bounds of what one scan remembers.
const (
	MostEntries   = mostEntries
	MostAddresses = mostAddresses
	NameBytes     = nameBytes
	PacketBytes   = packetBytes
)
