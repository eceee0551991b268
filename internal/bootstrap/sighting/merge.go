package sighting

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// Merge makes one host of the sightings of each machine, in the order of their sources. The best source names it; a node of
// ours stays that node, at whatever address it was reached. The sightings are left as they are.
func Merge(sightings []*bootstrap.Host, nodes []roster.Node) []*bootstrap.Host {
	hosts := make([]*bootstrap.Host, 0, len(sightings))
	for _, s := range sightings {
		h := *s
		if h.Source == bootstrap.SourceBonjour {
			h.LocalName = cmp.Or(h.LocalName, h.Host)
		}
		if h.Source != "" && !slices.Contains(h.Sources, h.Source) {
			h.Sources = append(slices.Clip(h.Sources), h.Source)
		}
		if isCopyOf(nodes, &h) {
			h.Node = ""
		}
		if h.Node == "" {
			h.Node = nodeWithKey(nodes, &h)
		}
		hosts = append(hosts, &h)
	}
	slices.SortStableFunc(hosts, func(a, b *bootstrap.Host) int {
		return cmp.Or(rank(a.Source)-rank(b.Source), strings.Compare(a.Label()+a.Host, b.Label()+b.Host))
	})
	// An address says the least, so that it is asked when everything else is known.
	return merged(merged(hosts, Same), isAtOneAddress)
}

// merged joins hosts of which is says that they are one, until no two are left.
func merged(hosts []*bootstrap.Host, is func(a, b *bootstrap.Host) bool) []*bootstrap.Host {
	var out []*bootstrap.Host
	for _, h := range hosts {
		place := -1
		for {
			i := slices.IndexFunc(out, func(x *bootstrap.Host) bool { return is(x, h) })
			if i < 0 {
				break
			}
			h = joined(out[i], h)
			out = slices.Delete(out, i, i+1)
			place = i // what is known now may make it the same as another one
		}
		if place < 0 {
			place = len(out)
		}
		out = slices.Insert(out, place, h)
	}
	return out
}

// rank orders sources, best first.
func rank(source string) int {
	all := []string{
		bootstrap.SourceLocal, bootstrap.SourceCommandLine, bootstrap.SourceConfig, bootstrap.SourceRoster, bootstrap.SourceCluster,
		bootstrap.SourceBonjour,
	}
	if i := slices.Index(all, source); i >= 0 {
		return i
	}
	return len(all)
}

// Same says that two hosts are one: they show one key, they are one node of ours, or they have one name and do not both show
// a key. Copies of a disk have one key, and are told by the numbers of the machines; where those are not known yet, by
// Bonjour, which has one name for each Mac.
func Same(a, b *bootstrap.Host) bool {
	switch {
	case a.Self && b.Self:
		return true
	case AreTwoMachines(a.Facts.Hardware, b.Facts.Hardware), areNewMacs(a, b):
		return false
	case a.Key.Fingerprint != "" && b.Key.Fingerprint != "":
		isOne := a.Key.Fingerprint == b.Key.Fingerprint && areOfOneKind(a, b)
		return isOne || (a.Node != "" && a.Node == b.Node)
	case a.Node != "" && b.Node != "":
		return a.Node == b.Node
	}
	return haveOneName(a, b)
}

// areNewMacs says that two hosts have different names of Bonjour, and that nothing else is known of them yet than a key.
func areNewMacs(a, b *bootstrap.Host) bool {
	isHeard := a.Source == bootstrap.SourceBonjour && b.Source == bootstrap.SourceBonjour && !isSameName(a.LocalName, b.LocalName)
	isLooked := a.Facts.Hardware != "" && b.Facts.Hardware != ""
	return isHeard && !isLooked && (a.Key.State == bootstrap.KeyNew || b.Key.State == bootstrap.KeyNew)
}

// areOfOneKind says that one key makes two hosts one. A host that shows another key than the one that was agreed to for its
// name is not the host of that name: whoever has its address now is somebody else, who is reached under another name as well.
func areOfOneKind(a, b *bootstrap.Host) bool {
	return (a.Key.State == bootstrap.KeyChanged) == (b.Key.State == bootstrap.KeyChanged) || haveOneName(a, b)
}

// haveOneName says that two hosts are reached by one name and port. Bonjour's name is that of one Mac, whatever its port.
func haveOneName(a, b *bootstrap.Host) bool {
	if isSameName(a.LocalName, b.Host) || isSameName(a.Host, b.LocalName) || isSameName(a.LocalName, b.LocalName) {
		return true
	}
	return isSameName(a.Host, b.Host) && cmp.Or(a.Port, sshPort) == cmp.Or(b.Port, sshPort)
}

func isSameName(a, b string) bool {
	a, b = strings.TrimSuffix(a, "."), strings.TrimSuffix(b, ".")
	return a != "" && strings.EqualFold(a, b)
}

// isAtOneAddress says that two hosts are one as far as their addresses tell. That counts where SSH was not tried on both, and
// nothing speaks against it; an address of one link repeats on every link.
func isAtOneAddress(a, b *bootstrap.Host) bool {
	areTwoMacs := a.LocalName != "" && b.LocalName != "" && !isSameName(a.LocalName, b.LocalName)
	areTwoNodes := a.Node != "" && b.Node != "" && a.Node != b.Node
	if areTwoMacs || areTwoNodes || (isTried(a) && isTried(b)) {
		return false
	}
	others := addressesOf(b)
	return slices.ContainsFunc(addressesOf(a), func(ip netip.Addr) bool { return isRoutable(ip) && slices.Contains(others, ip) })
}

// isTried says that SSH was tried on a host.
func isTried(h *bootstrap.Host) bool {
	return h.Key.State != "" || len(h.Findings) > 0 || h.Facts.OS != ""
}

func addressesOf(h *bootstrap.Host) []netip.Addr {
	return Addresses(append(slices.Clone(h.Addresses), h.Host))
}

// joined is what two sightings of one host say together.
func joined(a, b *bootstrap.Host) *bootstrap.Host {
	best, other := a, b
	if isBetter(b, a) {
		best, other = b, a
	}
	x := *best
	if x.Host == "" {
		x.Host, x.User, x.Port = other.Host, other.User, other.Port
	}
	x.Name, x.LocalName = cmp.Or(best.Name, other.Name), cmp.Or(best.LocalName, other.LocalName)
	x.Node = cmp.Or(best.Node, other.Node)
	x.Facts.Hardware, x.Facts.Model = cmp.Or(best.Facts.Hardware, other.Facts.Hardware), cmp.Or(best.Facts.Model, other.Facts.Model)
	x.RemoteLogin, x.Self = best.RemoteLogin || other.RemoteLogin, best.Self || other.Self
	if rank(other.Source) < rank(x.Source) {
		x.Source = other.Source
	}
	for _, s := range other.Sources {
		if !slices.Contains(x.Sources, s) {
			x.Sources = append(slices.Clip(x.Sources), s)
		}
	}
	if best.Failure() != nil || other.Failure() == nil { // else nobody is at the other addresses any more
		x.Addresses = AddressTexts(slices.Concat(Addresses(best.Addresses), Addresses(other.Addresses)))
	}
	return &x
}

// isBetter says that b is the one to reach a host by: it was reached, or where nobody tried, the key of the host is known by
// the name that it became a node with.
func isBetter(b, a *bootstrap.Host) bool {
	if (a.Failure() == nil) != (b.Failure() == nil) {
		return b.Failure() == nil
	}
	if !isTried(a) && !isTried(b) && (a.Node == "") != (b.Node == "") {
		return b.Node != ""
	}
	return rank(b.Source) < rank(a.Source)
}

// AreTwoMachines says that two hashes of machines' numbers are known to be of two.
func AreTwoMachines(a, b string) bool { return a != "" && b != "" && a != b }

// isCopyOf says that a host was reached where a node of ours is expected, and is another machine.
func isCopyOf(nodes []roster.Node, h *bootstrap.Host) bool {
	return slices.ContainsFunc(nodes, func(n roster.Node) bool { return n.ID == h.Node && AreTwoMachines(n.Hardware, h.Facts.Hardware) })
}

// nodeWithKey is the node of ours that a host is by its host key; empty where that is none, or might be several, or where
// another key was agreed to for the name of the host.
func nodeWithKey(nodes []roster.Node, h *bootstrap.Host) cluster.NodeID {
	if h.Key.State == bootstrap.KeyChanged {
		return ""
	}
	var same []cluster.NodeID
	for _, n := range nodes {
		if h.Key.Fingerprint == "" || n.HostKey != h.Key.Fingerprint || AreTwoMachines(n.Hardware, h.Facts.Hardware) {
			continue
		}
		if n.Hardware != "" && n.Hardware == h.Facts.Hardware {
			return n.ID
		}
		same = append(same, n.ID)
	}
	if len(same) != 1 {
		return ""
	}
	return same[0]
}
