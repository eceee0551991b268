package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"syscall"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Probe reaches every target and learns what it is. It changes nothing on any of them, and does not authenticate with one
// whose key is not known. each, if not nil, hears of every host as soon as it is known, one at a time. What is returned is
// in the order of the targets; several targets that turn out to be one host are one. When ctx ends, hosts that were not
// reached have failed.
func (b *Bootstrap) Probe(ctx context.Context, targets []Target, each func(*Host)) []*Host {
	targets, also := b.unique(targets)
	hosts := make([]*Host, len(targets))
	var tell sync.Mutex
	var wg sync.WaitGroup
	room := make(chan struct{}, b.o.Parallel)
	for i, t := range targets {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			hosts[i] = b.probe(ctx, t)
			hosts[i].Also = also[i]
			if each != nil {
				tell.Lock()
				defer tell.Unlock()
				each(hosts[i])
			}
		})
	}
	wg.Wait()
	return merge(hosts)
}

// unique leaves out targets that would be reached in the very same way as one before; also has those, by the index of it.
func (b *Bootstrap) unique(targets []Target) (out []Target, also map[int][]Target) {
	also = map[int][]Target{}
	seen := map[string]int{}
	for _, t := range targets {
		set, err := b.resolve(&t)
		if err == nil {
			if i, ok := seen[set.id()]; ok {
				also[i] = append(also[i], t)
				continue
			}
			seen[set.id()] = len(out)
		}
		out = append(out, t)
	}
	return out, also
}

func (b *Bootstrap) probe(ctx context.Context, t Target) *Host {
	h := &Host{Target: t}
	set, err := b.resolve(&t)
	if err != nil {
		e := cluster.AsError(err)
		h.Findings = []plan.Finding{fail(CheckConfig, e.Hint, "%s", e.Message)}
		return h
	}
	h.way = set.id()
	b.keep(h.way, nil)
	s, key, err := b.contact(ctx, set)
	h.Key, h.Self = key, errors.Is(err, errSelf)
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		h.Findings = b.explain(set, err)
		return h
	}
	b.keep(h.way, s)
	ctx, cancel := context.WithTimeout(ctx, 2*b.o.Contact)
	defer cancel()
	if h.Facts, err = learn(ctx, s); err != nil {
		h.Findings = []plan.Finding{fail(CheckFacts, "ssh "+word(set.user+"@"+set.host)+" /bin/sh -c true must work, and say nothing",
			"%s lets us in but does not say what it is: %v", set.label, err)}
		return h
	}
	if h.Name == "" {
		h.Name = cmp.Or(h.Facts.Name, h.Facts.HostName)
	}
	h.Findings = b.judge(h)
	return h
}

// contact connects by the chosen transport. A host that does not answer is asked twice: the first packet wakes a sleeping
// Mac, and a busy sshd hangs up on some.
func (b *Bootstrap) contact(ctx context.Context, set *settings) (session, HostKey, error) {
	for again := false; ; again = true {
		s, key, err := b.dial(ctx, set)
		if err == nil {
			return s, key, nil
		}
		_, isHop := errors.AsType[*hopError](err)
		reach := reachOf(err)
		asleep := reach == reachTimeout || reach == reachNoRoute || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
		if again || !asleep || ctx.Err() != nil || isHop || key.Fingerprint != "" {
			return nil, key, err
		}
		b.o.Log.DebugContext(ctx, "host does not answer, asking again", "host", set.label, "error", err)
	}
}

func (b *Bootstrap) dial(ctx context.Context, set *settings) (session, HostKey, error) {
	if b.o.Transport == TransportOpenSSH {
		s, key, err := b.dialOpenSSH(ctx, set)
		if err != nil {
			return nil, key, err
		}
		return s, key, nil
	}
	s, key, err := b.dialLibrary(ctx, set, 0)
	if err != nil {
		return nil, key, err
	}
	return s, key, nil
}

// merge makes one of hosts that are one: same key, and not known to be different machines, as copies of one disk are.
func merge(hosts []*Host) []*Host {
	var out []*Host
	for _, h := range hosts {
		i := slices.IndexFunc(out, func(o *Host) bool { return isSame(o, h) })
		if i < 0 {
			out = append(out, h)
			continue
		}
		out[i] = join(out[i], h)
	}
	return out
}

func isSame(a, b *Host) bool {
	if a.Key.Fingerprint == "" || a.Key.Fingerprint != b.Key.Fingerprint {
		return false
	}
	return a.Facts.Hardware == "" || b.Facts.Hardware == "" || a.Facts.Hardware == b.Facts.Hardware
}

// join keeps the better of two: one that works, then the one that the operator named.
func join(a, b *Host) *Host {
	if rank(b) < rank(a) {
		a, b = b, a
	}
	a.Also = append(a.Also, b.Targets()...)
	for _, address := range b.Addresses {
		if !slices.Contains(a.Addresses, address) {
			a.Addresses = append(slices.Clip(a.Addresses), address)
		}
	}
	a.Key.names = append(a.Key.names, b.Key.names...)
	if a.Key.State == KeyNew || b.Key.State == KeyNew {
		if a.Key.key == nil {
			a.Key.key = b.Key.key
		}
	}
	if a.Node == "" {
		a.Node = b.Node
	}
	a.Self = a.Self || b.Self
	return a
}

func rank(h *Host) int {
	sources := []string{SourceCommandLine, SourceConfig, SourceRoster, SourceBonjour}
	n := slices.Index(sources, h.Source)
	if n < 0 {
		n = len(sources)
	}
	if h.Failed() || h.Key.State == KeyChanged {
		n += 10
	}
	return n
}
