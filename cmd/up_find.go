package cmd

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// found is what there is: hosts that SSH was tried on, and Macs where it is off.
type found struct {
	hosts   []*foundHost
	without []foundMac
	models  map[string]string // what Bonjour said of hosts, by host name
	leftOut int               // Macs that Bonjour told of beyond what is looked at
	// scan is why Bonjour could not look; the hosts that were named are there all the same.
	scan error
}

// search probes hosts as they are heard of.
type search struct {
	installer installer
	room      chan struct{} // as many probes as may run at a time
	wg        sync.WaitGroup

	mu    sync.Mutex
	known []target // that were named; guarded by mu, as is the rest
	hosts []*foundHost
	macs  map[string]*sighting // by keyOf
	heard int                  // Macs that are probed as Bonjour told of them
	// leftOut are such Macs that are not, by keyOf.
	leftOut map[string]bool
}

// Bounds on what Bonjour can have up do: anybody on the network can tell of thousands of Macs that do not answer.
const (
	mostHeard     = 64 // hosts that are probed, and hosts without Remote Login that are listed
	heardPatience = 2 * time.Minute
)

// sighting is what Bonjour has said of a Mac so far.
type sighting struct {
	mac        foundMac
	isProbed   bool
	isRoutable bool
	routable   chan struct{} // closed once there is an address that is good beyond one link
}

// routableWait is how long a Mac that was seen is given to tell of a better address than that of the link: the records of
// its addresses come one by one.
const routableWait = 300 * time.Millisecond

// find probes what is named and, unless it is told otherwise, what Bonjour sees.
func (u *upRun) find(ctx context.Context) (found, error) {
	named, nodes, err := u.targets()
	if err != nil {
		return found{}, err
	}
	s := &search{
		installer: u.installer, room: make(chan struct{}, u.flags().parallel), macs: map[string]*sighting{}, known: named,
	}
	for _, t := range named {
		s.probe(ctx, func() target { return t })
	}
	var out found
	heard, cancel := context.WithTimeout(ctx, heardPatience)
	defer cancel()
	if !u.flags().noDiscover && len(u.hosts) == 0 {
		length := firstScan
		if len(nodes) > 0 {
			length = laterScan
		}
		out.scan = u.finder.Scan(ctx, length, func(m foundMac) { s.see(heard, m, u.flags().user) })
	}
	s.wg.Wait()
	s.again(ctx)
	if ctx.Err() != nil {
		return found{}, context.Cause(ctx)
	}
	for _, h := range s.hosts {
		if m := s.macOf(h); m != nil {
			h.Addresses = addressTexts(m.Addresses)
		}
	}
	out.hosts = mergeHosts(s.hosts, nodes)
	out.without = s.unreached()
	out.leftOut = len(s.leftOut) + max(len(out.without)-mostHeard, 0)
	out.without = out.without[:min(len(out.without), mostHeard)]
	out.models = map[string]string{}
	for _, m := range s.macs {
		out.models[macHost(m.mac)] = m.mac.Model
	}
	return out, nil
}

// targets are those that are known before anybody looks: better sources first.
func (u *upRun) targets() (out []target, nodes []roster.Node, err error) {
	add := func(source string, h config.Host) {
		if h.User == "" {
			h.User = u.flags().user
		}
		t := target{Host: h.Host, User: h.User, Port: h.Port, Source: source}
		if !slices.ContainsFunc(out, func(x target) bool { return x.Host == t.Host && x.User == t.User && x.Port == t.Port }) {
			out = append(out, t)
		}
	}
	for _, s := range u.hosts {
		h, err := config.ParseHost(s)
		if err != nil {
			return nil, nil, usagef("HOST %v", err)
		}
		add(sourceCommandLine, h)
	}
	if nodes, err = u.roster.List(); err != nil {
		return nil, nil, err
	}
	if u.flags().only {
		return out, nodes, nil
	}
	for _, h := range u.cfg.HostList() {
		add(sourceConfig, h)
	}
	for _, n := range nodes {
		if t, ok := nodeTarget(n); ok {
			out = append(out, t)
		}
	}
	return out, nodes, nil
}

// nodeTarget is how a node is reached over SSH; ok is false for one that is not, as it joined by itself.
func nodeTarget(n roster.Node) (t target, ok bool) {
	t = target{Name: n.Name, Host: n.Host, Addresses: n.Addresses, Port: n.Port, User: n.User, Source: sourceRoster, Node: n.ID}
	if t.Host == "" && len(n.Addresses) > 0 {
		t.Host = n.Addresses[0]
	}
	return t, t.Host != ""
}

// leaveOut is called with mu held.
func (s *search) leaveOut(host string) {
	if s.leftOut == nil {
		s.leftOut = map[string]bool{}
	}
	s.leftOut[host] = true
}

// probe looks at a host, which is asked for when its turn has come. One of Bonjour's that has not answered when ctx ends is
// left out.
func (s *search) probe(ctx context.Context, of func() target) {
	s.wg.Go(func() {
		select {
		case s.room <- struct{}{}:
			defer func() { <-s.room }()
		case <-ctx.Done():
		}
		t := of()
		var hosts []*foundHost
		if ctx.Err() == nil {
			hosts = s.installer.Probe(ctx, []target{t})
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.Source == sourceBonjour && ctx.Err() != nil && !slices.ContainsFunc(hosts, func(h *foundHost) bool { return h.failure() == nil }) {
			s.leaveOut(strings.ToLower(first(t.Host, t.Name)))
			return
		}
		s.hosts = append(s.hosts, hosts...)
	})
}

// see takes in what Bonjour says of a Mac, and probes it when that is new.
func (s *search) see(ctx context.Context, m foundMac, user string) {
	own := ownAddresses()
	if len(m.Addresses) == 0 || slices.ContainsFunc(m.Addresses, func(a netip.Addr) bool { return own[a.WithZone("").Unmap()] }) {
		return // nothing to reach yet, or this machine
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.keyOf(m)
	x := s.macs[key]
	if x == nil {
		x = &sighting{routable: make(chan struct{})}
		s.macs[key] = x
	}
	x.mac = m
	if !x.isRoutable && slices.ContainsFunc(m.Addresses, isRoutable) {
		x.isRoutable = true
		close(x.routable)
	}
	if !m.RemoteLogin || x.isProbed || s.isTarget(m) {
		return
	}
	if s.heard >= mostHeard {
		s.leaveOut(key)
		return
	}
	x.isProbed = true
	s.heard++
	s.probe(ctx, func() target {
		wait := time.NewTimer(routableWait)
		defer wait.Stop()
		select {
		case <-x.routable:
		case <-wait.C:
		case <-ctx.Done():
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return macTarget(x.mac, user)
	})
}

// keyOf tells Macs apart. One whose host name is not known is told by its name and by the addresses that it had before.
func (s *search) keyOf(m foundMac) string {
	if m.HostName != "" {
		return strings.ToLower(m.HostName)
	}
	for key, x := range s.macs {
		isSeen := slices.ContainsFunc(m.Addresses, func(a netip.Addr) bool { return slices.Contains(x.mac.Addresses, a) })
		if x.mac.HostName == "" && x.mac.Name == m.Name && isSeen {
			return key
		}
	}
	return m.Name + " " + m.Addresses[0].String()
}

// macHost is what SSH is given for a Mac that Bonjour told of.
func macHost(m foundMac) string {
	if m.HostName == "" && len(m.Addresses) > 0 {
		return addressTexts(m.Addresses)[0]
	}
	return strings.TrimSuffix(m.HostName, ".")
}

// macTarget is how a Mac is reached that Bonjour told of.
func macTarget(m foundMac, user string) target {
	t := target{
		Name: m.Name, Host: macHost(m), Addresses: addressTexts(m.Addresses), User: user, Source: sourceBonjour,
	}
	if m.Port != 22 {
		t.Port = m.Port
	}
	return t
}

// again probes hosts that were named and not reached, where Bonjour knows addresses for their names: not every system
// resolves those.
func (s *search) again(ctx context.Context) {
	var left []*foundHost
	var targets []target
	for _, h := range s.hosts {
		m, f := s.macOf(h), h.failure()
		isBetter := m != nil && slices.ContainsFunc(addressTexts(m.Addresses), func(a string) bool { return !slices.Contains(h.Addresses, a) })
		if !isBetter || f == nil || f.Check != checkReach || h.Source == sourceBonjour || h.Source == sourceRoster {
			left = append(left, h)
			continue
		}
		t := h.target
		t.Addresses = addressTexts(m.Addresses)
		targets = append(targets, t)
	}
	if len(targets) > 0 {
		s.hosts = append(left, s.installer.Probe(ctx, targets)...)
	}
}

// macOf is what Bonjour says of a host by its name; nil where that is nothing.
func (s *search) macOf(h *foundHost) *foundMac {
	for _, x := range s.macs {
		if h.Host != "" && isSameName(x.mac.HostName, h.Host) {
			return &x.mac
		}
	}
	return nil
}

func isSameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// isRoutable says that an address means the same host on every link.
func isRoutable(a netip.Addr) bool { return !a.IsLinkLocalUnicast() }

// addressTexts lists addresses, best first: what is routed before what is of one link, IPv4 before IPv6.
func addressTexts(list []netip.Addr) []string {
	sorted := slices.Clone(list)
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
	slices.SortStableFunc(sorted, func(a, b netip.Addr) int { return class(a) - class(b) })
	var out []string
	for _, a := range sorted {
		if text := a.Unmap().String(); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// isTarget says that a Mac was named by the very same name. Under another name it is probed again, and its host key tells
// that it is the same.
func (s *search) isTarget(m foundMac) bool {
	return slices.ContainsFunc(s.known, func(t target) bool { return t.Source != sourceRoster && isSameName(t.Host, m.HostName) })
}

// unreached are the Macs without Remote Login, unless they were named or were reached by other means.
func (s *search) unreached() []foundMac {
	var out []foundMac
	for _, x := range s.macs {
		if x.mac.RemoteLogin || s.isTarget(x.mac) || s.isReached(x.mac) {
			continue
		}
		out = append(out, x.mac)
	}
	slices.SortFunc(out, func(a, b foundMac) int { return strings.Compare(a.Name+a.HostName, b.Name+b.HostName) })
	return out
}

func (s *search) isReached(m foundMac) bool {
	return slices.ContainsFunc(s.hosts, func(h *foundHost) bool {
		isSame := m.HostName != "" && isSameName(h.Host, m.HostName)
		for _, a := range m.Addresses {
			isSame = isSame || h.Host == a.String() || slices.Contains(h.Addresses, a.String())
		}
		return isSame && h.failure() == nil
	})
}

// mergeHosts makes one of hosts that show the same key. The best source names it; a node of ours stays that node, at
// whatever address it was reached.
func mergeHosts(hosts []*foundHost, nodes []roster.Node) []*foundHost {
	rank := map[string]int{sourceCommandLine: 0, sourceConfig: 1, sourceRoster: 2, sourceBonjour: 3}
	slices.SortStableFunc(hosts, func(a, b *foundHost) int {
		if d := rank[a.Source] - rank[b.Source]; d != 0 {
			return d
		}
		return strings.Compare(a.label()+a.Host, b.label()+b.Host)
	})
	var out []*foundHost
	for _, h := range hosts {
		if h.Node == "" || isCopyOf(nodes, h) {
			h.Node = nodeWithKey(nodes, h)
		}
		i := slices.IndexFunc(out, func(x *foundHost) bool { return isOneHost(x, h) })
		switch {
		case i < 0:
			out = append(out, h)
		case out[i].failure() != nil && h.failure() == nil:
			out[i] = joined(h, out[i]) // it was reached the other way
		default:
			out[i] = joined(out[i], h)
		}
	}
	return out
}

// isCopyOf says that a host was reached where a node of ours is expected, and is another machine.
func isCopyOf(nodes []roster.Node, h *foundHost) bool {
	return slices.ContainsFunc(nodes, func(n roster.Node) bool { return n.ID == h.Node && isOtherMachine(n.Hardware, h.Hardware) })
}

// isOneHost says that two hosts are one: they show one key, they are one node of ours, or they have one name and do not both
// show a key. Copies of a disk have one key, and are told by the numbers of the machines; where those are not known yet, by
// Bonjour, which has one name for each Mac.
func isOneHost(a, b *foundHost) bool {
	if isOtherMachine(a.Hardware, b.Hardware) {
		return false
	}
	areTwoMacs := a.Source == sourceBonjour && b.Source == sourceBonjour && !isSameName(a.Host, b.Host)
	if areTwoMacs && (a.Hardware == "" || b.Hardware == "") && (a.KeyState == keyNew || b.KeyState == keyNew) {
		return false
	}
	if a.Fingerprint != "" && b.Fingerprint != "" {
		return a.Fingerprint == b.Fingerprint || (a.Node != "" && a.Node == b.Node)
	}
	isNamed := a.Host != "" && isSameName(a.Host, b.Host) && a.Port == b.Port
	return isNamed || (a.Node != "" && a.Node == b.Node)
}

// joined is a host, with what another way to the same host is known for.
func joined(h, other *foundHost) *foundHost {
	x := *h
	if x.Node == "" {
		x.Node = other.Node
	}
	if x.Name == "" {
		x.Name = other.Name
	}
	if x.Hardware == "" {
		x.Hardware = other.Hardware
	}
	if x.Source == sourceBonjour {
		x.Source = other.Source
	}
	if h.failure() != nil || other.failure() == nil { // else nobody is at the other addresses any more
		all := slices.Concat(addresses(h.Addresses), addresses(other.Addresses))
		x.Addresses = addressTexts(all)
	}
	return &x
}

// nodeWithKey is the node of ours that a host is by its host key; empty where that is none, or might be several.
func nodeWithKey(nodes []roster.Node, h *foundHost) cluster.NodeID {
	var same []cluster.NodeID
	for _, n := range nodes {
		if h.Fingerprint == "" || n.HostKey != h.Fingerprint || isOtherMachine(n.Hardware, h.Hardware) {
			continue
		}
		if n.Hardware != "" && n.Hardware == h.Hardware {
			return n.ID
		}
		same = append(same, n.ID)
	}
	if len(same) != 1 {
		return ""
	}
	return same[0]
}

// configWarning is what the hosts have in common: how this machine's ssh_config was read.
func configWarning(hosts []*foundHost) *bootplan.Finding {
	for _, h := range hosts {
		for i, f := range h.Findings {
			if f.Check == checkSSHConfig && f.State == bootplan.FindingWarn {
				return &h.Findings[i]
			}
		}
	}
	return nil
}
