package bonjour

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

const (
	domain = "local"
	// textBytes bounds a TXT record: RFC 6763 wants it to fit into one packet.
	textBytes = 1300
	// packetBytes is the largest message of multicast DNS.
	packetBytes = 9000
)

// record is a part of what a host said of itself. With Service it is about one of its services, and empty fields were not
// said; without, it is about the addresses of a host.
type record struct {
	service, name string
	wire          string // the service's full name as DNS has it, lower case
	host          string // hostKey; empty where the packet did not say
	port          int
	text          map[string]string
	addrs         []netip.Addr
	from          netip.Addr // who answered, where that is known
}

// decode reads a packet for the services that were asked for. zone is the interface that it came in by, empty where that
// is not known. Whatever the packet holds, the records are bounded and clean.
func decode(packet []byte, services []string, zone string) []record {
	if len(packet) > packetBytes {
		return nil
	}
	var m dns.Msg
	if err := m.Unpack(packet); err != nil || !m.Response {
		return nil
	}
	var about, addresses []record
	for _, rr := range slices.Concat(m.Answer, m.Ns, m.Extra) {
		if rr.Header().Ttl == 0 {
			continue // a goodbye; nobody that is listed leaves the list for it, connecting says who is there
		}
		if r, ok := serviceRecord(rr, services); ok {
			about = append(about, r)
		} else if r, ok := addressRecord(rr, zone); ok {
			addresses = append(addresses, r)
		}
	}
	return append(about, addresses...) // hosts count only once a service has named them
}

func serviceRecord(rr dns.RR, services []string) (record, bool) {
	name := rr.Header().Name
	if ptr, ok := rr.(*dns.PTR); ok {
		name = ptr.Ptr
	}
	instance, service, ok := splitInstance(name, services)
	if !ok {
		return record{}, false
	}
	r := record{service: service, name: instance, wire: strings.ToLower(name)}
	switch rr := rr.(type) {
	case *dns.PTR:
		return r, dns.CanonicalName(rr.Hdr.Name) == service+"."+domain+"."
	case *dns.SRV:
		r.host, r.port = hostKey(rr.Target), int(rr.Port)
		return r, true
	case *dns.TXT:
		r.text = attributes(rr.Txt)
		return r, true
	}
	return record{}, false
}

func addressRecord(rr dns.RR, zone string) (record, bool) {
	var ip netip.Addr
	var ok bool
	switch rr := rr.(type) {
	case *dns.A:
		ip, ok = netip.AddrFromSlice(rr.A)
	case *dns.AAAA:
		ip, ok = netip.AddrFromSlice(rr.AAAA)
	}
	if !ok || !reachable(ip.Unmap()) {
		return record{}, false
	}
	return record{host: hostKey(rr.Header().Name), addrs: []netip.Addr{inZone(ip.Unmap(), zone)}}, true
}
