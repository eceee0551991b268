package cmd

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// found is what there is: hosts that SSH was tried on, and Macs where it is off.
type found struct {
	hosts   []*foundHost
	without []foundMac
	models  map[string]string // what Bonjour said of hosts, by host name
	// scan is why Bonjour could not look; the hosts that were named are there all the same.
	scan error
}

// search probes hosts as they are heard of.
type search struct {
	installer installer
	room      chan struct{} // as many probes as may run at a time
	wg        sync.WaitGroup

	mu    sync.Mutex
	known []target // probed, or being probed; guarded by mu, as is the rest
	hosts []*foundHost
	macs  map[string]foundMac // by host name
}

// find probes what is named and, unless it is told otherwise, what Bonjour sees.
func (u *upRun) find(ctx context.Context) (found, error) {
	named, nodes, err := u.targets()
	if err != nil {
		return found{}, err
	}
	s := &search{
		installer: u.installer, room: make(chan struct{}, u.flags().parallel), macs: map[string]foundMac{},
	}
	for _, t := range named {
		s.probe(ctx, t)
	}
	var out found
	if !u.flags().noDiscover && len(u.hosts) == 0 {
		length := firstScan
		if len(nodes) > 0 {
			length = laterScan
		}
		out.scan = u.finder.Scan(ctx, length, func(m foundMac) { s.see(ctx, m, u.flags().user) })
	}
	s.wg.Wait()
	if ctx.Err() != nil {
		return found{}, context.Cause(ctx)
	}
	out.hosts = mergeHosts(s.hosts, nodes)
	out.without = s.unreached()
	out.models = map[string]string{}
	for _, m := range s.macs {
		out.models[strings.TrimSuffix(m.HostName, ".")] = m.Model
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

func (s *search) probe(ctx context.Context, t target) {
	s.mu.Lock()
	s.known = append(s.known, t)
	s.mu.Unlock()
	s.wg.Go(func() {
		select {
		case s.room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-s.room }()
		hosts := s.installer.Probe(ctx, []target{t})
		s.mu.Lock()
		defer s.mu.Unlock()
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
	before, isKnown := s.macs[m.HostName]
	s.macs[m.HostName] = m
	s.mu.Unlock()
	if !m.RemoteLogin || (isKnown && before.RemoteLogin) || s.isTarget(m) {
		return
	}
	t := target{Name: m.Name, Host: strings.TrimSuffix(m.HostName, "."), User: user, Source: sourceBonjour}
	if m.Port != 22 {
		t.Port = m.Port
	}
	for _, a := range m.Addresses {
		t.Addresses = append(t.Addresses, a.String())
	}
	s.probe(ctx, t)
}

// isTarget says that a Mac is probed already under the very same name. Under another name it is probed again, and its host
// key tells that it is the same.
func (s *search) isTarget(m foundMac) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.known, func(t target) bool {
		return t.Source != sourceRoster && strings.EqualFold(strings.TrimSuffix(t.Host, "."), strings.TrimSuffix(m.HostName, "."))
	})
}

// unreached are the Macs without Remote Login, unless they were reached by other means.
func (s *search) unreached() []foundMac {
	var out []foundMac
	for _, m := range s.macs {
		if m.RemoteLogin || s.isReached(m) {
			continue
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b foundMac) int { return strings.Compare(a.Name+a.HostName, b.Name+b.HostName) })
	return out
}

func (s *search) isReached(m foundMac) bool {
	return slices.ContainsFunc(s.hosts, func(h *foundHost) bool {
		isSame := strings.EqualFold(strings.TrimSuffix(h.Host, "."), strings.TrimSuffix(m.HostName, "."))
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
		if h.Node == "" {
			h.Node = nodeWithKey(nodes, h.Fingerprint)
		}
		i := slices.IndexFunc(out, func(x *foundHost) bool {
			return (h.Fingerprint != "" && x.Fingerprint == h.Fingerprint) || (h.Node != "" && x.Node == h.Node)
		})
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

// joined is a host, with what another way to the same host is known for.
func joined(h, other *foundHost) *foundHost {
	x := *h
	if x.Node == "" {
		x.Node = other.Node
	}
	if x.Name == "" {
		x.Name = other.Name
	}
	if x.Source == sourceBonjour {
		x.Source = other.Source
	}
	return &x
}

func nodeWithKey(nodes []roster.Node, fingerprint string) cluster.NodeID {
	for _, n := range nodes {
		if fingerprint != "" && n.HostKey == fingerprint {
			return n.ID
		}
	}
	return ""
}
