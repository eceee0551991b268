package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// gateTimeout bounds how long an agent may take to reach its controller.
const gateTimeout = 60 * time.Second

// outcome is what came of one machine.
type outcome struct {
	err     error
	changed bool
	took    time.Duration
	node    cluster.NodeID
	isCut   bool // it failed because the command was interrupted
}

// text is why it failed.
func (o *outcome) text() string {
	if o.isCut {
		return "interrupted"
	}
	return o.err.Error()
}

// install does the plan, as many hosts at a time as is allowed. What fails is told in its item.
func (u *upRun) install(ctx context.Context, items []*planItem) {
	room := make(chan struct{}, u.cluster.parallel)
	var wg sync.WaitGroup
	for _, p := range items {
		if !p.isInstall() {
			continue
		}
		wg.Go(func() {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-room }()
			began := time.Now()
			changed, err := u.installOne(ctx, p, u.interrupted(p))
			p.outcome = &outcome{err: err, changed: changed, took: time.Since(began), node: p.Node, isCut: err != nil && ctx.Err() != nil}
			u.events.ended(p)
		})
	}
	wg.Wait()
	u.events.endBoard()
}

// hold keeps the requests of others from a node that was emptied. It is ended when the new agent is up, before that is asked
// anything, and begun again when it then answers wrongly, before the version from before is put back. Nil holds nothing.
type hold struct {
	end, again func(context.Context, cluster.NodeID) error
}

// interrupted ends the drain of a node that a command left drained which was killed; nil where none did.
func (u *upRun) interrupted(p *planItem) *hold {
	if p.node == nil || p.node.Drained == "" {
		return nil
	}
	return &hold{
		end: func(ctx context.Context, node cluster.NodeID) error {
			return undrain(ctx, u.local.client, u.roster, node)
		},
		again: func(context.Context, cluster.NodeID) error { return nil }, // nothing is emptied by this command
	}
}

// undrainInterrupted has the nodes take requests again that a command left drained which was killed. One that is not up keeps
// its mark.
func (u *upRun) undrainInterrupted(ctx context.Context) error {
	nodes, err := u.roster.List()
	if err != nil {
		return err
	}
	isNews := false
	for _, n := range nodes {
		live := nodeIn(u.local.snapshot, n.ID)
		if n.Drained == "" || live == nil || (live.State != cluster.NodeReady && live.State != cluster.NodeDraining) {
			continue
		}
		if err := undrain(ctx, u.local.client, u.roster, n.ID); err != nil {
			if err := u.events.warn(fmt.Sprintf("%s is still drained by `%s`, which was cut short: %v", n.Name, n.Drained, err), ""); err != nil {
				return err
			}
			continue
		}
		isNews = true
		if err := u.events.warn(fmt.Sprintf("%s takes requests again: `%s`, which drained it, was cut short", n.Name, n.Drained), ""); err != nil {
			return err
		}
	}
	if isNews {
		u.local.snapshot, err = u.local.client.Snapshot(ctx)
	}
	return err
}

// installOne has one host run this version with these settings.
func (u *upRun) installOne(ctx context.Context, p *planItem, held *hold) (changed bool, err error) {
	h := p.host
	proof := &proof{u: u, host: h, hold: held}
	job := bootstrap.Job{
		Order: plan.Order{
			Action: plan.Install, Operator: operatorName(), Settings: u.settings, Unit: plan.UnitKind(u.cluster.unit),
			Password: sudoFor(h, u.password), Offline: u.cluster.offline, Gate: gateTimeout,
			TakeOver: p.What == whatTakeOver,
		},
		Binary: u.binaries(u.cfg.Dirs.Cache),
		Sign: func(_ context.Context, node cluster.NodeID, key, _ string) (string, error) {
			token, err := u.sign(node, key, h)
			if err == nil {
				proof.node, proof.key = node, key
			}
			return token, err
		},
		Prove:  proof.run,
		Wheels: u.wheels(u.cfg.Dirs.Cache),
	}
	settle, err := u.begin(p)
	if err != nil {
		return false, err
	}
	defer func() {
		if settleErr := settle(err == nil); settleErr != nil {
			err = errors.Join(err, settleErr)
		}
	}()
	r, err := u.installer.Apply(ctx, h, job, func(e bootstrap.Event) {
		p.copied(e)
		if e.Step == plan.StepUnit && e.State == plan.StateChanged {
			proof.restarted.Store(true)
		}
		p.undone.heard(e)
		u.events.step(p, e)
	})
	p.log = r.Log
	if err != nil {
		return false, proof.takeBack(err)
	}
	p.Node = proof.node
	p.Warnings = u.warningsAfter(h, r, proof)
	if err := u.admit(ctx, h, r, proof); err != nil {
		return r.Changed, proof.takeBack(err)
	}
	if proof.name != "" && proof.name != p.Name {
		p.done = "serves as " + printer.Clean(proof.name) // which commands want
	}
	return r.Changed, nil
}

// warningsAfter are those that are still true of a host with the unit that runs its agent now, and with the way it is served.
func (u *upRun) warningsAfter(h *bootstrap.Host, r bootstrap.Result, proof *proof) []plan.Finding {
	isService := slices.Contains([]plan.UnitKind{plan.UnitLaunchDaemon, plan.UnitSystemd, plan.UnitRunit}, r.Unit)
	var out []plan.Finding
	for _, f := range h.Warnings() {
		if f.Check != bootstrap.CheckLink && (f.Check != bootstrap.CheckSudo || !isService) {
			out = append(out, f)
		}
	}
	if len(proof.reverse) > 0 {
		out = append(out, bootstrap.Reversed(h.Label()))
	}
	return bootstrap.OneCause(out)
}

// admit writes a node down that serves, and throws out the key that it had before. Which node it is was settled when its
// key was signed; what the host says afterwards does not count.
func (u *upRun) admit(ctx context.Context, h *bootstrap.Host, r bootstrap.Result, proof *proof) error {
	if proof.key == "" || (r.Node != "" && r.Node != proof.node) {
		return cluster.Errorf(cluster.CodeUnauthorized, "%s says it is another node than the one that was signed for it", printer.Clean(h.Label())).
			WithHint("whoever runs that host may be after another node; look at it before it is added again")
	}
	n := newNode(proof.node, proof.key, h)
	former, err := u.former(proof.node)
	if err != nil {
		return err
	}
	if former.ID == proof.node {
		n = former
	}
	n.Key, n.Name = proof.key, first(proof.name, h.Name, h.Host)
	n.Host, n.Port, n.User, n.HostKey, n.Hardware = h.Host, h.Port, h.User, first(h.Key.Fingerprint, n.HostKey), first(h.Facts.Hardware, n.Hardware)
	if len(h.Addresses) > 0 {
		n.Addresses = h.Addresses
	}
	n.Home, n.Unit, n.Version = r.Home, string(r.Unit), r.VersionID
	n.Settings = settingsDigest(u.settings)
	n.Reverse = proof.reverse
	if former.Key != "" && former.Key != n.Key { // first: once the list has the new key, nobody knows the one before
		if _, _, err := u.authority.Revoke(former.Key); err != nil {
			return fmt.Errorf("revoke the key that %s had before: %w", n.Name, err)
		}
	}
	if err := u.roster.Put(n); err != nil {
		return err
	}
	if err := settleKey(u.cfg.Dirs.Home, u.roster, u.authority, n.ID, n.Key); err != nil {
		return err
	}
	_, err = u.replaceFormer(ctx, n, formerTimeout)
	return err
}

// former is a node as it is in the list; zero where it is not.
func (u *upRun) former(id cluster.NodeID) (roster.Node, error) {
	nodes, err := u.roster.List()
	if err != nil {
		return roster.Node{}, err
	}
	for _, n := range nodes {
		if n.ID == id {
			return n, nil
		}
	}
	return roster.Node{}, nil
}

// proof is what shows that a node serves.
type proof struct {
	u    *upRun
	host *bootstrap.Host
	hold *hold

	node cluster.NodeID // whose key was signed in this installation; empty before that
	key  string

	restarted atomic.Bool // the host's side started the agent anew
	name      string      // as the node calls itself
	reverse   []string    // where the controller dials it
	undo      func() error
}

// run waits until the controller sees the node run the version, and has it answer. The host keeps the installation only
// when this returns nil.
func (p *proof) run(ctx context.Context, node cluster.NodeID, versionID string, link plan.Link) error {
	if node != p.node {
		return cluster.Errorf(cluster.CodeUnauthorized, "%s says it is another node than the one that was signed for it", printer.Clean(p.host.Label()))
	}
	if link.Reverse || link.State == plan.LinkDenied {
		if err := p.dialBack(node); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, selfTestTimeout)
	defer cancel()
	formerly := startOf(p.u.local.snapshot, node)
	n, err := p.await(ctx, node, func(n *cluster.Node) bool {
		isNew := !p.restarted.Load() || n.StartedAt == nil || formerly == nil || !n.StartedAt.Equal(*formerly)
		return isNew && n.Version == versionOf(versionID) && (n.State == cluster.NodeReady || n.State == cluster.NodeDraining)
	})
	if err != nil {
		return err
	}
	p.name = n.Name
	if p.hold != nil {
		if err := p.hold.end(ctx, node); err != nil {
			return err
		}
		if n, err = p.await(ctx, node, func(n *cluster.Node) bool { return n.State == cluster.NodeReady }); err != nil {
			return err
		}
	}
	if n.State == cluster.NodeDraining {
		return nil // drained on purpose; it takes no prompt until `mlxctl undrain`
	}
	err = selfTest(ctx, p.u.local.client, node)
	if err != nil && p.hold != nil {
		if againErr := p.hold.again(context.WithoutCancel(ctx), node); againErr != nil {
			return fmt.Errorf("%w; and it could not be emptied again: %w", err, againErr)
		}
	}
	return err
}

// seenTimeout bounds how long a controller may take to see a node that has a link to it.
const seenTimeout = 30 * time.Second

func (p *proof) await(ctx context.Context, node cluster.NodeID, is func(*cluster.Node) bool) (*cluster.Node, error) {
	soon, cancel := context.WithTimeout(ctx, seenTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last := "it was not heard of"
	for {
		s, err := p.u.local.client.Snapshot(soon)
		if err != nil && soon.Err() == nil {
			return nil, err
		}
		if n := nodeIn(s, node); n != nil {
			if is(n) {
				return n, nil
			}
			last = fmt.Sprintf("it is %s with version %s", n.State, printer.Clean(n.Version))
		}
		select {
		case <-soon.Done():
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, cluster.Errorf(cluster.CodeTimeout, "the controller did not see the node ready within %s: %s", seenTimeout, last).
				WithHint("`mlxctl logs controller` says more")
		case <-tick.C:
		}
	}
}

// dialBack has the controller dial a node that may not dial it: it reads where from the list of nodes. takeBack undoes that
// when the installation fails after all.
func (p *proof) dialBack(node cluster.NodeID) error {
	h := p.host
	addresses := h.Addresses
	if len(addresses) == 0 {
		addresses = []string{h.Host}
	}
	for _, a := range addresses {
		p.reverse = append(p.reverse, net.JoinHostPort(a, strconv.Itoa(reversePort)))
	}
	n, err := p.u.former(node)
	if err != nil {
		return err
	}
	if n.ID != node {
		n = newNode(node, "", p.host) // its key is written down when it serves
		p.undo = func() error { return p.u.roster.Remove(node) }
	} else {
		former := n
		p.undo = func() error { return p.u.roster.Put(former) }
	}
	n.Reverse = p.reverse
	return p.u.roster.Put(n)
}

// takeBack leaves the list of nodes as it was, has a key that was signed for nothing be worth nothing, and returns the error
// of the installation.
func (p *proof) takeBack(failed error) error {
	if p.undo != nil {
		if err := p.undo(); err != nil {
			return fmt.Errorf("%w; and the list of nodes is wrong now: %w", failed, err)
		}
	}
	if p.key == "" {
		return failed
	}
	if err := settleKey(p.u.cfg.Dirs.Home, p.u.roster, p.u.authority, p.node, p.key); err != nil {
		return fmt.Errorf("%w; and its key is good until `mlxctl up` is run again: %w", failed, err)
	}
	return failed
}

func nodeIn(s *cluster.Snapshot, id cluster.NodeID) *cluster.Node {
	if s == nil {
		return nil
	}
	for i := range s.Nodes {
		if s.Nodes[i].ID == id {
			return &s.Nodes[i]
		}
	}
	return nil
}

func startOf(s *cluster.Snapshot, id cluster.NodeID) *time.Time {
	if n := nodeIn(s, id); n != nil {
		return n.StartedAt
	}
	return nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
