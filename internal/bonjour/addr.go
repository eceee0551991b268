package bonjour

import (
	"cmp"
	"net"
	"net/netip"
	"regexp"
	"slices"
)

// virtual are interfaces that no other Mac is behind: AirDrop's radio, tunnels, the links to a phone, virtual machines
// and containers. bridge0 is not among them: on macOS it is Thunderbolt.
var virtual = regexp.MustCompile(`^(?:awdl|llw|utun|anpi|ap[0-9]|gif|stf|p2p|bridge1[0-9]{2}|docker|br-|veth|virbr|vmnet|vmenet|wg|tun|tap|tailscale)`)

// network is the part of the local network that one scan sees. It is read anew each time: cables come and go.
type network struct {
	interfaces []net.Interface
	prefixes   []netip.Prefix // of this host on those
	own        []netip.Addr   // of this host on any interface, without zones
}

func readNetwork() (*network, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	n := &network{}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away between the two calls
		}
		usable := isUsable(i)
		if usable {
			n.interfaces = append(n.interfaces, i)
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			n.own = append(n.own, p.Addr().WithZone(""))
			if usable {
				n.prefixes = append(n.prefixes, p)
			}
		}
	}
	return n, nil
}

func isUsable(i net.Interface) bool {
	const need, never = net.FlagUp | net.FlagMulticast, net.FlagLoopback | net.FlagPointToPoint
	return i.Flags&need == need && i.Flags&never == 0 && !virtual.MatchString(i.Name)
}

func (n *network) zones() []string {
	var out []string
	for _, i := range n.interfaces {
		out = append(out, i.Name)
	}
	return out
}

func (n *network) zone(index int) string {
	for _, i := range n.interfaces {
		if i.Index == index {
			return i.Name
		}
	}
	return ""
}

// isOnLink says whether an address is a neighbour's: multicast DNS comes from nobody else, and speaks for nobody else.
func (n *network) isOnLink(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	return ip.IsLinkLocalUnicast() || slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// reachable says whether an address can be another host's. One that names this host, or many, is never dialled on the
// word of an advert.
func reachable(ip netip.Addr) bool {
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsLoopback() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func inZone(ip netip.Addr, zone string) netip.Addr {
	if ip.Is6() && ip.IsLinkLocalUnicast() {
		return ip.WithZone(zone)
	}
	return ip
}

// rank sorts addresses by how likely they are to work, and to be fast: those of a network, self-assigned ones as on a
// Thunderbolt cable, and last what works on one interface only.
func rank(addrs []netip.Addr) {
	class := func(ip netip.Addr) int {
		switch {
		case ip.Is6() && ip.IsLinkLocalUnicast():
			return 3
		case ip.IsLinkLocalUnicast():
			return 2
		case ip.Is6():
			return 1
		default:
			return 0
		}
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int { return cmp.Or(cmp.Compare(class(a), class(b)), a.Compare(b)) })
}
