package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Probe reaches a target and learns what it is. It changes nothing there, and does not authenticate with a host whose key
// is not known. When ctx ends, a host that was not reached has failed.
func (b *Bootstrap) Probe(ctx context.Context, t Target) *Host {
	h := b.probe(ctx, t)
	if f := b.known.finding(); f != nil {
		h.Findings = append(h.Findings, *f)
	}
	return h
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
	defer b.turn(h.way)()
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
