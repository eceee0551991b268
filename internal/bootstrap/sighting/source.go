package sighting

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// OfName is a host as the operator or the settings name it.
func OfName(h config.Host, source string) bootstrap.Target {
	return bootstrap.Target{Host: h.Host, User: h.User, Port: h.Port, Source: source}
}

// OfNode is how a node is reached over SSH; ok is false for one that is not, as it joined by itself.
func OfNode(n roster.Node) (t bootstrap.Target, ok bool) {
	t = bootstrap.Target{
		Name: n.Name, Host: n.Host, Addresses: n.Addresses, Port: n.Port, User: n.User, Source: bootstrap.SourceRoster, Node: n.ID,
	}
	if t.Host == "" && len(n.Addresses) > 0 {
		t.Host = n.Addresses[0]
	}
	return t, t.Host != ""
}

// OfMac is a Mac that Bonjour told of, before SSH was tried. User is who logs in there; empty means whom ssh would use.
func OfMac(m bonjour.Mac, user string) *bootstrap.Host {
	h := &bootstrap.Host{
		Target: bootstrap.Target{
			Name: m.Name, Host: strings.TrimSuffix(m.HostName, "."), Addresses: AddressTexts(m.Addrs), User: user, Source: bootstrap.SourceBonjour,
		},
		RemoteLogin: m.RemoteLogin, Facts: bootstrap.Facts{Model: m.Model}, Self: m.Self,
	}
	h.LocalName = h.Host
	if h.Host == "" && len(h.Addresses) > 0 {
		h.Host = h.Addresses[0]
	}
	if m.Port != sshPort {
		h.Port = m.Port
	}
	return h
}

const sshPort = 22

// AddressTexts lists addresses, best first: what is routed before what is of one link, IPv4 before IPv6.
func AddressTexts(list []netip.Addr) []string {
	class := func(a netip.Addr) int {
		n := 0
		if !isRoutable(a) {
			n += 2
		}
		if !a.Unmap().Is4() {
			n++
		}
		return n
	}
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b netip.Addr) int { return class(a) - class(b) })
	var out []string
	for _, a := range sorted {
		if text := a.Unmap().String(); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// Addresses reads addresses; what is none is left out.
func Addresses(list []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		if ip, err := netip.ParseAddr(s); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// isRoutable says that an address means the same host on every link.
func isRoutable(a netip.Addr) bool { return !a.IsLinkLocalUnicast() }
