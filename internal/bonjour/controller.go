package bonjour

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grandcat/zeroconf"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	controllerService = "_mlxctl._tcp"
	advertVersion     = "1"
	// pollInterval is how soon an advert follows an address that changed. Asking is cheap and the same everywhere;
	// systems' own notices are neither.
	pollInterval = 5 * time.Second
	// controllerRound bounds one look for controllers, settle the time for further answers after the first good one.
	controllerRound = 1500 * time.Millisecond
	settle          = 150 * time.Millisecond
)

// Advert is what a controller says of itself. Nothing in it is secret, and nothing is believed: an agent checks the
// certificate of whoever answers.
type Advert struct {
	ClusterID    string
	Name         string // of the cluster
	ControllerID string
	CAHash       string // of the cluster's certificate authority, to choose by
	Port         int    // of the bus
}

// Advertise answers for a controller until ctx ends, with the addresses that this machine has at the time. The error is
// of an advert that cannot be one; a network that is away is waited for.
func Advertise(ctx context.Context, a Advert, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if a.ClusterID == "" || a.ControllerID == "" || a.Port <= 0 || a.Port > 65535 {
		return cluster.Errorf(cluster.CodeInternal, "an advert needs a cluster, a controller and a port: %+v", a)
	}
	var server *zeroconf.Server
	defer func() { stopServer(server) }()
	var told string
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		n, err := readNetwork()
		if err != nil {
			log.Warn("cannot list the network interfaces", "err", err)
		} else if now := n.signature(); now != told {
			stopServer(server)
			if server, err = a.register(n); err != nil {
				log.Warn("cannot advertise the controller", "err", err)
			} else {
				told = now
				log.Info("controller is advertised", "addresses", strings.Join(n.advertised(), " "))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func stopServer(s *zeroconf.Server) {
	if s != nil {
		s.Shutdown()
	}
}

// register starts to answer. The host name is the controller's own: the machine's would be in conflict with the system's
// responder, which would then rename the machine.
func (a Advert) register(n *network) (*zeroconf.Server, error) {
	ips := n.advertised()
	if len(ips) == 0 {
		return nil, nil
	}
	id := label(a.ControllerID, 8)
	text := []string{"v=" + advertVersion, "cid=" + a.ClusterID, "ca=" + a.CAHash, "p=" + strconv.Itoa(a.Port)}
	return zeroconf.RegisterProxy(cut(label(a.Name, nameBytes), nameBytes-9)+"-"+id, controllerService, domain+".", a.Port,
		"mlx-"+id, ips, text, n.interfaces)
}

// label makes a part of a DNS name of what s begins with.
func label(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, s)
	return cut(s, most)
}

// advertised are the addresses to give away.
func (n *network) advertised() []string {
	var addrs []netip.Addr
	for _, p := range n.prefixes {
		if ip := p.Addr(); reachable(ip) && !slices.Contains(addrs, ip) {
			addrs = append(addrs, ip)
		}
	}
	rank(addrs)
	var out []string
	for _, ip := range addrs[:min(len(addrs), mostAddresses)] {
		out = append(out, ip.String())
	}
	return out
}

// signature changes with anything that an advert depends on; an interface that was made anew has another number.
func (n *network) signature() string {
	var b strings.Builder
	for _, i := range n.interfaces {
		b.WriteString(i.Name + "#" + strconv.Itoa(i.Index) + " ")
	}
	b.WriteString(strings.Join(n.advertised(), " "))
	return b.String()
}

// Controllers looks once, for at most about a second and a half, where controllers of a cluster say they are; best
// addresses first. Nobody is no error. Whoever dials one must check its certificate: anybody can advertise.
func Controllers(ctx context.Context, clusterID string) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, controllerRound)
	defer cancel()
	var settled *time.Timer
	defer func() {
		if settled != nil {
			settled.Stop()
		}
	}()
	b, err := gather(ctx, []string{controllerService}, nil, func(b *book) {
		if settled == nil && len(b.controllers(clusterID)) > 0 {
			settled = time.AfterFunc(settle, cancel)
		}
	})
	if err != nil {
		return nil, err
	}
	return b.controllers(clusterID), nil
}

// controllers lists where those of a cluster are.
func (b *book) controllers(clusterID string) []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	ports := map[netip.Addr][]int{}
	for _, wire := range slices.Sorted(maps.Keys(b.entries)) {
		e := b.entries[wire]
		if e.text["v"] != advertVersion || e.text["cid"] != clusterID {
			continue
		}
		for _, t := range e.targets {
			for _, ip := range b.addresses(t.host) {
				if t.port > 0 && !slices.Contains(ports[ip], t.port) {
					ports[ip] = append(ports[ip], t.port)
				}
			}
		}
	}
	addrs := slices.Collect(maps.Keys(ports))
	rank(addrs)
	var out []netip.AddrPort
	for _, ip := range addrs {
		for _, p := range ports[ip] {
			out = append(out, netip.AddrPortFrom(ip, uint16(p)))
		}
	}
	return out
}
