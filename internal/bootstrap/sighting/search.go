package sighting

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// Prober looks at a host and changes nothing; *bootstrap.Bootstrap is one.
type Prober interface {
	Probe(ctx context.Context, t bootstrap.Target) *bootstrap.Host
}

// usualParallel is how many hosts are probed at a time when nobody says it.
const usualParallel = 8

// Probe looks at hosts, parallel of them at a time; zero means 8. The result is in the order of the targets. When ctx ends,
// the prober is asked about the rest without waiting: it says of each why it was not looked at.
func Probe(ctx context.Context, p Prober, targets []bootstrap.Target, parallel int) []*bootstrap.Host {
	hosts := make([]*bootstrap.Host, len(targets))
	room := make(chan struct{}, cmp.Or(parallel, usualParallel))
	var wg sync.WaitGroup
	for i, t := range targets {
		select {
		case room <- struct{}{}:
			wg.Go(func() {
				defer func() { <-room }()
				hosts[i] = p.Probe(ctx, t)
			})
		case <-ctx.Done():
			hosts[i] = p.Probe(ctx, t)
		}
	}
	wg.Wait()
	return hosts
}

// Bounds on what Bonjour can have a search do: anybody on the network can tell of thousands of Macs that do not answer.
const (
	MostHeard    = 64 // hosts that are probed, and hosts without Remote Login that are listed
	DefaultHeard = 2 * time.Minute
)

// routableWait is how long a Mac that was seen is given to tell of a better address than that of the link: the records of
// its addresses come one by one.
const routableWait = 300 * time.Millisecond

// Search says where hosts are looked for. Each that is named or seen is probed as soon as it is heard of.
type Search struct {
	Prober   Prober
	Parallel int // hosts that are probed at a time; zero means 8
	// Scan asks Bonjour, as bonjour.Scan does; nil asks nobody.
	Scan    func(context.Context, bonjour.ScanOptions) ([]bonjour.Mac, error)
	Options bonjour.ScanOptions // without Found
	User    string              // who logs in on Macs that Bonjour tells of; empty means whom ssh would use
	// Patience bounds how long Macs that Bonjour tells of may take to answer, together; zero means DefaultHeard.
	Patience time.Duration
}

// Found is what there is.
type Found struct {
	// Hosts are those that SSH was tried on, each of them once.
	Hosts []*bootstrap.Host
	// Without are Macs without Remote Login that are reached by no other means, by name.
	Without []bonjour.Mac
	// LeftOut counts the Macs that Bonjour told of beyond what is looked at.
	LeftOut int
	// ScanErr is why Bonjour could not look; the hosts that were named are there all the same.
	ScanErr error
}

// Run probes what is named and what Bonjour sees meanwhile. Nodes are those that were admitted before. The error is that of
// ctx.
func (s Search) Run(ctx context.Context, named []bootstrap.Target, nodes []roster.Node) (Found, error) {
	r := &search{Search: s, room: make(chan struct{}, cmp.Or(s.Parallel, usualParallel)), macs: map[string]*heardMac{}, named: named}
	for _, t := range named {
		r.probe(ctx, func() bootstrap.Target { return t })
	}
	var out Found
	heard, cancel := context.WithTimeout(ctx, cmp.Or(s.Patience, DefaultHeard))
	defer cancel()
	if s.Scan != nil {
		o := s.Options
		o.Found = func(m bonjour.Mac) { r.see(heard, m) }
		_, out.ScanErr = s.Scan(ctx, o)
	}
	r.wg.Wait()
	r.again(ctx)
	if ctx.Err() != nil {
		return Found{}, context.Cause(ctx)
	}
	for _, h := range r.hosts {
		if m := r.macOf(h); m != nil {
			h.Addresses, h.Facts.Model = AddressTexts(m.Addrs), cmp.Or(h.Facts.Model, m.Model)
		}
	}
	out.Hosts = Merge(r.hosts, nodes)
	out.Without = r.unreached()
	out.LeftOut = len(r.leftOut) + max(len(out.Without)-MostHeard, 0)
	out.Without = out.Without[:min(len(out.Without), MostHeard)]
	return out, nil
}

// search is one Search that is under way.
type search struct {
	Search
	named []bootstrap.Target
	room  chan struct{} // as many probes as may run at a time
	wg    sync.WaitGroup

	mu    sync.Mutex
	hosts []*bootstrap.Host    // guarded by mu, as is the rest
	macs  map[string]*heardMac // by keyOf
	heard int                  // Macs that are probed as Bonjour told of them
	// leftOut are such Macs that are not, by keyOf.
	leftOut map[string]bool
}

// heardMac is what Bonjour has said of a Mac so far.
type heardMac struct {
	mac        bonjour.Mac
	isProbed   bool
	isRoutable bool
	routable   chan struct{} // closed once there is an address that is good beyond one link
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
func (s *search) probe(ctx context.Context, of func() bootstrap.Target) {
	s.wg.Go(func() {
		select {
		case s.room <- struct{}{}:
			defer func() { <-s.room }()
		case <-ctx.Done():
		}
		t := of()
		var h *bootstrap.Host
		if ctx.Err() == nil {
			h = s.Prober.Probe(ctx, t)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case t.Source == bootstrap.SourceBonjour && ctx.Err() != nil && (h == nil || h.Failure() != nil):
			s.leaveOut(strings.ToLower(cmp.Or(t.Host, t.Name)))
		case h != nil:
			s.hosts = append(s.hosts, h)
		}
	})
}

// see takes in what Bonjour says of a Mac, and probes it when that is new.
func (s *search) see(ctx context.Context, m bonjour.Mac) {
	if len(m.Addrs) == 0 || m.Self {
		return // nothing to reach yet, or this machine
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.keyOf(m)
	x := s.macs[key]
	if x == nil {
		x = &heardMac{routable: make(chan struct{})}
		s.macs[key] = x
	}
	x.mac = m
	if !x.isRoutable && slices.ContainsFunc(m.Addrs, isRoutable) {
		x.isRoutable = true
		close(x.routable)
	}
	if !m.RemoteLogin || x.isProbed || s.isNamed(m) {
		return
	}
	if s.heard >= MostHeard {
		s.leaveOut(key)
		return
	}
	x.isProbed = true
	s.heard++
	s.probe(ctx, func() bootstrap.Target {
		wait := time.NewTimer(routableWait)
		defer wait.Stop()
		select {
		case <-x.routable:
		case <-wait.C:
		case <-ctx.Done():
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return OfMac(x.mac, s.User).Target
	})
}

// keyOf tells Macs apart. One whose host name is not known is told by its name and by the addresses that it had before.
func (s *search) keyOf(m bonjour.Mac) string {
	if m.HostName != "" {
		return strings.ToLower(strings.TrimSuffix(m.HostName, "."))
	}
	for key, x := range s.macs {
		isSeen := slices.ContainsFunc(m.Addrs, func(a netip.Addr) bool { return slices.Contains(x.mac.Addrs, a) })
		if x.mac.HostName == "" && x.mac.Name == m.Name && isSeen {
			return key
		}
	}
	return m.Name + " " + m.Addrs[0].String()
}

// again probes hosts that were named and not reached, where Bonjour knows addresses for their names: not every system
// resolves those.
func (s *search) again(ctx context.Context) {
	var left []*bootstrap.Host
	var targets []bootstrap.Target
	for _, h := range s.hosts {
		m, f := s.macOf(h), h.Failure()
		isBetter := m != nil && slices.ContainsFunc(AddressTexts(m.Addrs), func(a string) bool { return !slices.Contains(h.Addresses, a) })
		if !isBetter || f == nil || f.Check != bootstrap.CheckReach || h.Source == bootstrap.SourceBonjour || h.Source == bootstrap.SourceRoster {
			left = append(left, h)
			continue
		}
		t := h.Target
		t.Addresses = AddressTexts(m.Addrs)
		targets = append(targets, t)
	}
	s.hosts = append(left, Probe(ctx, s.Prober, targets, s.Parallel)...)
}

// macOf is what Bonjour says of a host by its name; nil where that is nothing.
func (s *search) macOf(h *bootstrap.Host) *bonjour.Mac {
	for _, x := range s.macs {
		if isSameName(OfMac(x.mac, "").Host, h.Host) {
			return &x.mac
		}
	}
	return nil
}

// isNamed says that a Mac was named by the very same name. Under another name it is probed again, and its host key tells
// that it is the same.
func (s *search) isNamed(m bonjour.Mac) bool {
	return slices.ContainsFunc(s.named, func(t bootstrap.Target) bool {
		return t.Source != bootstrap.SourceRoster && isSameName(t.Host, m.HostName)
	})
}

// unreached are the Macs without Remote Login, unless they were named or were reached by other means.
func (s *search) unreached() []bonjour.Mac {
	var out []bonjour.Mac
	for _, x := range s.macs {
		if !x.mac.RemoteLogin && !s.isNamed(x.mac) && !s.isReached(OfMac(x.mac, "")) {
			out = append(out, x.mac)
		}
	}
	slices.SortFunc(out, func(a, b bonjour.Mac) int { return strings.Compare(a.Name+a.HostName, b.Name+b.HostName) })
	return out
}

func (s *search) isReached(mac *bootstrap.Host) bool {
	return slices.ContainsFunc(s.hosts, func(h *bootstrap.Host) bool {
		return h.Failure() == nil && (Same(h, mac) || isAtOneAddress(h, mac))
	})
}
