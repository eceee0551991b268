package bonjour

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Bounds on what one scan remembers, whatever is sent to it.
const (
	mostEntries   = 1024 // services
	mostTargets   = 4    // hosts that claim one service
	mostAddresses = 16   // of one host
	mostQuestions = 64   // at once
)

// Bounds on what one answers for: itself, and Macs that sleep. What zeroconf read does not say who answered, so it has one
// budget for all: what it tells of a neighbour is told by the neighbour's own answer as well.
const (
	mostOfOne, mostHostsOfOne         = 64, 16 // services and hosts
	mostOfUnknown, mostHostsOfUnknown = 384, 48
)

// book is what one scan has heard so far.
type book struct {
	net      *network
	services []string // that were asked for, best name first

	mu      sync.Mutex
	entries map[string]*entry       // guarded by mu; by record.wire
	of      map[netip.Addr]int      // guarded by mu; entries by who told of them
	heard   int                     // guarded by mu; counts entries
	hosts   map[string][]netip.Addr // guarded by mu; by hostKey, all that entries name
}

// entry is one service. Where several hosts say that it is theirs, all are listed: which is right, SSH finds out.
type entry struct {
	service, name string
	from          netip.Addr // who answered; none where that is not known
	order         int        // in which entries were heard of
	targets       []target
	text          map[string]string
}

type target struct {
	host string
	port int
}

func newBook(n *network, services []string) *book {
	return &book{net: n, services: services, entries: map[string]*entry{}, of: map[netip.Addr]int{}, hosts: map[string][]netip.Addr{}}
}

// add takes records in and says whether they told anything new.
func (b *book) add(records []record) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for _, r := range records {
		if r.service != "" {
			changed = b.addService(r) || changed
		}
		changed = b.addAddresses(r.host, r.addrs) || changed
	}
	return changed
}

func (b *book) addService(r record) bool {
	e, known := b.entries[r.wire]
	if !known {
		if !b.hasRoom(r.from) {
			return false
		}
		b.heard++
		e = &entry{service: r.service, name: r.name, from: r.from, order: b.heard}
		b.entries[r.wire] = e
		b.of[r.from]++
	}
	if !e.from.IsValid() && r.from.IsValid() && b.of[r.from] < mostOfOne {
		b.of[e.from]--
		b.of[r.from]++
		e.from = r.from
	}
	changed := !known
	if t := (target{r.host, r.port}); isLocal(t.host) && len(e.targets) < mostTargets && !slices.Contains(e.targets, t) {
		e.targets, changed = append(e.targets, t), true
		if _, ok := b.hosts[t.host]; !ok {
			b.hosts[t.host] = nil
		}
	}
	if r.text != nil && e.text == nil {
		e.text, changed = r.text, true
	}
	return changed
}

// hasRoom says whether who answered may tell of another service. Where the book is full, who told of most gives one up.
func (b *book) hasRoom(from netip.Addr) bool {
	most := mostOfOne
	if !from.IsValid() {
		most = mostOfUnknown
	}
	if b.of[from] >= most {
		return false
	}
	if len(b.entries) < mostEntries {
		return true
	}
	loudest := from
	for who, n := range b.of {
		if n > b.of[loudest] {
			loudest = who
		}
	}
	if loudest == from {
		return false
	}
	for wire, e := range b.entries {
		if e.from == loudest {
			delete(b.entries, wire)
			break
		}
	}
	b.of[loudest]--
	return true
}

func (b *book) addAddresses(host string, addrs []netip.Addr) bool {
	known, ok := b.hosts[host]
	if !ok {
		return false
	}
	before := len(known)
	for _, ip := range addrs {
		if len(known) < mostAddresses && b.net.isOnLink(ip) && !slices.Contains(known, ip) {
			known = append(known, ip)
		}
	}
	b.hosts[host] = known
	return len(known) > before
}

// missing lists the questions that answers so far have left open.
func (b *book) missing() []dns.Question {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []dns.Question
	for wire, e := range b.entries {
		if len(e.targets) == 0 {
			out = append(out, dns.Question{Name: wire, Qtype: dns.TypeSRV}, dns.Question{Name: wire, Qtype: dns.TypeTXT})
		}
	}
	for host, addrs := range b.hosts {
		if len(addrs) == 0 && plainHost.MatchString(host) {
			name := dns.Fqdn(host)
			out = append(out, dns.Question{Name: name, Qtype: dns.TypeA}, dns.Question{Name: name, Qtype: dns.TypeAAAA})
		}
	}
	return out[:min(len(out), mostQuestions)]
}

// addresses are those of a host, best first. A link-local one of which no answer said the interface is tried on each.
func (b *book) addresses(host string) []netip.Addr {
	var out []netip.Addr
	known := b.hosts[host]
	for _, ip := range known {
		if !ip.Is6() || !ip.IsLinkLocalUnicast() || ip.Zone() != "" {
			out = append(out, ip)
			continue
		}
		if slices.ContainsFunc(known, func(k netip.Addr) bool { return k.Zone() != "" && k.WithZone("") == ip }) {
			continue
		}
		for _, zone := range b.net.zones() {
			out = append(out, ip.WithZone(zone))
		}
	}
	rank(out)
	return out
}

// sighted is a Mac and what tells it from others in one scan.
type sighted struct {
	host string
	Mac
}

// macs lists the hosts that are Macs or can be logged in to, each once, by name. Names that stand for one address are one
// host, and nobody speaks for more than a few.
func (b *book) macs() []sighted {
	b.mu.Lock()
	defer b.mu.Unlock()
	byHost := map[string][]*entry{}
	for _, wire := range slices.Sorted(maps.Keys(b.entries)) {
		e := b.entries[wire]
		for _, t := range e.targets {
			if !slices.Contains(byHost[t.host], e) {
				byHost[t.host] = append(byHost[t.host], e)
			}
		}
	}
	var out []sighted
	ends := map[netip.AddrPort]bool{}
	told := map[netip.Addr]int{}
	for _, host := range byOrder(byHost) {
		m, from := b.mac(host, byHost[host]), byHost[host][0].from
		if !m.isHost() || len(m.Addrs) == 0 {
			continue
		}
		end := netip.AddrPortFrom(m.Addrs[0], uint16(m.Port))
		most := mostHostsOfOne
		if !from.IsValid() {
			most = mostHostsOfUnknown
		}
		if ends[end] || told[from] >= most {
			continue
		}
		ends[end] = true
		told[from]++
		out = append(out, sighted{host, m})
	}
	slices.SortFunc(out, func(x, y sighted) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.host, y.host))
	})
	return out
}

// byOrder lists hosts in the order in which they were heard of, and has the service first by which each was.
func byOrder(hosts map[string][]*entry) []string {
	for _, entries := range hosts {
		slices.SortFunc(entries, func(x, y *entry) int { return x.order - y.order })
	}
	return slices.SortedFunc(maps.Keys(hosts), func(x, y string) int {
		return cmp.Or(hosts[x][0].order-hosts[y][0].order, strings.Compare(x, y))
	})
}

// mac puts together what the services of a host tell of it.
func (b *book) mac(host string, entries []*entry) Mac {
	m := Mac{Addrs: b.addresses(host)}
	if plainHost.MatchString(host) && len(host) <= 253 {
		m.HostName = host
	}
	for _, service := range b.services { // best name first
		for _, e := range entries {
			if e.service == service {
				m.learn(e, host)
			}
		}
	}
	first, _, _ := strings.Cut(m.HostName, ".")
	m.Name = cmp.Or(m.Name, first)
	if m.Name == "" && len(m.Addrs) > 0 {
		m.Name = m.Addrs[0].String()
	}
	m.Self = slices.ContainsFunc(m.Addrs, func(ip netip.Addr) bool { return slices.Contains(b.net.own, ip.WithZone("")) })
	return m
}

// learn takes in what one service tells of its host.
func (m *Mac) learn(e *entry, host string) {
	if !slices.Contains(m.Seen, e.service) {
		m.Seen = append(m.Seen, e.service)
	}
	m.Name = cmp.Or(m.Name, e.name)
	if key := modelKey(e.service); key != "" {
		m.Model = cmp.Or(m.Model, e.text[key])
	}
	if e.service != remoteLogin || m.RemoteLogin {
		return
	}
	at := slices.IndexFunc(e.targets, func(t target) bool { return t.host == host })
	m.RemoteLogin, m.Port = true, e.targets[at].port
}

// isHost says whether this can become a node, or could with Remote Login on: AirPlay and its like are also spoken by
// televisions and telephones, and those name a model of their own.
func (m *Mac) isHost() bool {
	switch {
	case m.RemoteLogin:
		return true
	case m.Model != "":
		return macModel.MatchString(m.Model)
	default:
		return slices.ContainsFunc(m.Seen, func(s string) bool { return s == "_airplay._tcp" || s == "_rfb._tcp" || s == workstation })
	}
}
