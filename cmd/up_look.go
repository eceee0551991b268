package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/roster"
)

func (u *upRun) look(ctx context.Context) (sighting.Found, error) {
	u.events.looking("looking for Macs")
	seen, err := u.find(ctx)
	if err == nil && seen.ScanErr != nil {
		e := cluster.AsError(seen.ScanErr)
		err = u.events.warn("Bonjour cannot look for Macs: "+e.Message, e.Hint)
	}
	if seen.LeftOut > 0 && err == nil {
		err = u.events.warn(fmt.Sprintf("Bonjour tells of more Macs than can be looked at: %d left out", seen.LeftOut),
			"name those that are wanted: mlxctl up user@host")
	}
	for _, f := range configWarnings(seen.Hosts) {
		if err == nil {
			err = u.events.warn(f.Message, f.Fix)
		}
	}
	return seen, err
}

// find probes what is named and, unless it is told otherwise, what Bonjour sees.
func (u *upRun) find(ctx context.Context) (sighting.Found, error) {
	named, nodes, err := u.targets()
	if err != nil {
		return sighting.Found{}, err
	}
	s := sighting.Search{Prober: u.installer, Parallel: u.flags().parallel, User: u.flags().user}
	if !u.flags().noDiscover && len(u.hosts) == 0 {
		s.Scan, s.Options = u.scan, bonjour.ScanOptions{For: firstScan, Log: u.log()}
		if len(nodes) > 0 {
			s.Options.For = laterScan
		}
	}
	seen, err := s.Run(ctx, named, nodes)
	if err != nil {
		return seen, err
	}
	err = u.findByBonjour(ctx, &seen, nodes)
	return seen, err
}

// targets are those that are known before anybody looks: better sources first.
func (u *upRun) targets() (out []bootstrap.Target, nodes []roster.Node, err error) {
	add := func(source string, h config.Host) {
		if h.User == "" {
			h.User = u.flags().user
		}
		t := sighting.OfName(h, source)
		if !slices.ContainsFunc(out, func(x bootstrap.Target) bool { return x.Host == t.Host && x.User == t.User && x.Port == t.Port }) {
			out = append(out, t)
		}
	}
	if nodes, err = u.roster.List(); err != nil {
		return nil, nil, err
	}
	for _, s := range u.hosts {
		h, err := config.ParseHost(s)
		if err != nil {
			return nil, nil, usagef("HOST %v", err)
		}
		if t, ok := ofNodeNamed(nodes, h); ok {
			out = append(out, t)
			continue
		}
		add(bootstrap.SourceCommandLine, h)
	}
	if u.flags().only {
		return out, nodes, nil
	}
	for _, h := range u.cfg.HostList() {
		add(bootstrap.SourceConfig, h)
	}
	for _, n := range nodes {
		if t, ok := sighting.OfNode(n); ok {
			out = append(out, t)
		}
	}
	return out, nodes, nil
}

// ofNodeNamed is how a node is reached that is named by the name which lists show; ok is false where it is another host's.
func ofNodeNamed(nodes []roster.Node, h config.Host) (t bootstrap.Target, ok bool) {
	var found []roster.Node
	for _, n := range nodes {
		if n.Host == h.Host {
			return t, false // ssh knows the name
		}
		if n.Name == h.Host {
			found = append(found, n)
		}
	}
	if len(found) != 1 {
		return t, false
	}
	t, ok = sighting.OfNode(found[0])
	t.Source, t.User = bootstrap.SourceCommandLine, first(h.User, t.User)
	if h.Port != 0 {
		t.Port = h.Port
	}
	return t, ok
}

// findByBonjour looks at hosts anew that were named as Bonjour does and did not answer: not every system's resolver knows such
// names.
func (u *upRun) findByBonjour(ctx context.Context, seen *sighting.Found, nodes []roster.Node) error {
	isLost := func(h *bootstrap.Host) bool {
		f := h.Failure()
		return f != nil && f.Check == bootstrap.CheckReach && len(h.Addresses) == 0 && h.Source != bootstrap.SourceBonjour &&
			strings.HasSuffix(strings.ToLower(h.Host), ".local")
	}
	if u.flags().noDiscover || !slices.ContainsFunc(seen.Hosts, isLost) {
		return nil
	}
	var mu sync.Mutex
	addresses := map[string][]string{}
	_, err := u.scan(ctx, bonjour.ScanOptions{For: laterScan, Log: u.log(), Found: func(m bonjour.Mac) {
		mu.Lock()
		defer mu.Unlock()
		addresses[strings.ToLower(strings.TrimSuffix(m.HostName, "."))] = sighting.AddressTexts(m.Addrs)
	}})
	if err != nil {
		return ctx.Err() // that the hosts do not answer is told
	}
	for i, h := range seen.Hosts {
		t := h.Target
		if t.Addresses = addresses[strings.ToLower(t.Host)]; isLost(h) && len(t.Addresses) > 0 {
			seen.Hosts[i] = u.installer.Probe(ctx, t)
		}
	}
	seen.Hosts = sighting.Merge(seen.Hosts, nodes)
	return ctx.Err()
}

// configWarnings are what the hosts have in common: how this machine's ssh_config and host keys were read.
func configWarnings(hosts []*bootstrap.Host) []plan.Finding {
	var out []plan.Finding
	for _, h := range hosts {
		for _, f := range h.Findings {
			if f.Check == bootstrap.CheckConfig && f.State == plan.FindingWarn && !slices.ContainsFunc(out, func(x plan.Finding) bool { return x.Message == f.Message }) {
				out = append(out, f)
			}
		}
	}
	return out
}

// lookFirst shows what would be done before anything is; isEnd says that this is all.
func (u *upRun) lookFirst(ctx context.Context) (seen sighting.Found, isEnd bool, err error) {
	if seen, err = u.look(ctx); err != nil {
		return seen, false, err
	}
	items, err := u.preview(ctx, seen)
	if err != nil {
		return seen, false, err
	}
	if u.flags().dryRun {
		return seen, true, u.events.plan(items, true)
	}
	if !needsYes(items) {
		return seen, false, nil
	}
	if err := u.events.plan(items, false); err != nil {
		return seen, false, err
	}
	return seen, false, nobodyAgrees(items)
}

// startAndLook does both at the same time.
func (u *upRun) startAndLook(ctx context.Context) (seen sighting.Found, err error) {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return u.start(inner) })
	group.Go(func() (err error) {
		seen, err = u.look(inner)
		return err
	})
	err = group.Wait()
	return seen, err
}

// returnTimeout is how long nodes may take to find a controller that was started again.
const returnTimeout = 10 * time.Second

// awaitNodes reads the state of the cluster anew. Where the services were just started, nodes that SSH finds installed are
// given the time to come back: one that does needs no repair.
func (u *upRun) awaitNodes(ctx context.Context, seen sighting.Found) error {
	limit, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := u.local.client.Snapshot(limit)
		if err != nil && limit.Err() == nil {
			return err
		}
		if err == nil {
			u.local.snapshot = s
		}
		if !u.local.changed || !isMissing(u.local.snapshot, seen.Hosts) {
			return nil
		}
		u.events.looking("waiting for nodes to come back")
		select {
		case <-limit.Done():
			return context.Cause(ctx) // nil: what is missing now is to be repaired
		case <-tick.C:
		}
	}
}

// isMissing says that a node which is installed is not there.
func isMissing(s *cluster.Snapshot, hosts []*bootstrap.Host) bool {
	return slices.ContainsFunc(hosts, func(h *bootstrap.Host) bool {
		if h.Node == "" || h.Facts.Installed == "" || h.Failure() != nil {
			return false
		}
		n := nodeIn(s, h.Node)
		return n == nil || (n.State != cluster.NodeReady && n.State != cluster.NodeDraining)
	})
}
