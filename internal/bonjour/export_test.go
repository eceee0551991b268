package bonjour

import "net/netip"

// Heard is what a scan of a host with these prefixes makes of packets that came in by an interface.
func Heard(own []netip.Prefix, zone string, packets ...[]byte) []Mac {
	var told []Told
	for _, p := range packets {
		told = append(told, Told{Packet: p})
	}
	return HeardFrom(own, zone, told)
}

// Told is a packet, and who sent it where that is known.
type Told struct {
	From   netip.Addr
	Packet []byte
}

// HeardFrom is Heard of packets whose senders are known.
func HeardFrom(own []netip.Prefix, zone string, packets []Told) []Mac {
	n := &network{prefixes: own}
	for _, p := range own {
		n.own = append(n.own, p.Addr())
	}
	b := newBook(n, macServices())
	for _, p := range packets {
		b.add(toldBy(p.From, decode(p.Packet, b.services, zone)))
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
