package bonjour

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"github.com/grandcat/zeroconf"
)

// browse listens to the multicast answers about one service until ctx ends. A resolver takes the addresses of one family
// from the first packet alone, so each family has its own; and it ends with its context, so each scan has new ones.
func browse(ctx context.Context, b *book, service, family string, heard chan<- []record, log *slog.Logger) {
	kind := zeroconf.IPType(zeroconf.IPv4)
	if family == "udp6" {
		kind = zeroconf.IPv6
	}
	resolver, err := zeroconf.NewResolver(zeroconf.SelectIPTraffic(kind), zeroconf.SelectIfaces(b.net.interfaces))
	if err != nil {
		log.Debug("cannot listen for multicast dns", "family", family, "err", err)
		return
	}
	entries := make(chan *zeroconf.ServiceEntry)
	if err := resolver.Browse(ctx, service, domain+".", entries); err != nil {
		log.Debug("cannot ask by multicast dns", "family", family, "service", service, "err", err)
	}
	for e := range entries { // to its end even after ctx: the resolver would wait for its reader for ever
		hand(ctx, heard, entryRecords(e, service))
	}
}

// entryRecords turns what zeroconf read into records. It does not say which interface an answer came in by.
func entryRecords(e *zeroconf.ServiceEntry, service string) []record {
	r := record{
		service: service, name: instanceName(e.Instance, service),
		wire: strings.ToLower(e.Instance + "." + service + "." + domain + "."), host: hostKey(e.HostName), port: e.Port,
	}
	if e.Text != nil {
		r.text = attributes(e.Text)
	}
	for _, ips := range [][]net.IP{e.AddrIPv4, e.AddrIPv6} {
		for _, ip := range ips {
			if a, ok := netip.AddrFromSlice(ip); ok && reachable(a.Unmap()) {
				r.addrs = append(r.addrs, a.Unmap())
			}
		}
	}
	return []record{r}
}
