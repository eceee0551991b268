package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// agree asks once for everything: installations and new keys.
func (u *upRun) agree(ctx context.Context, items []*planItem) (bool, error) {
	all := items
	items = slices.DeleteFunc(slices.Clone(items), u.isOwnQuestion)
	if !needsYes(items) || u.cluster.yes {
		return true, nil
	}
	question := "Do this: " + countPlan(items) + "?"
	keys := 0
	for _, p := range items {
		if p.needsKey() && p.isInstall() {
			keys++
		}
	}
	if keys > 0 {
		question = fmt.Sprintf("Do this: %s, and trust the %d new host keys above?", countPlan(items), keys)
		if keys == 1 {
			question = fmt.Sprintf("Do this: %s, and trust the new host key above?", countPlan(items))
		}
	}
	yes, err := u.streams.Confirm(ctx, question)
	if errors.Is(err, iostreams.ErrNobody) {
		return false, nobodyAgrees(items)
	}
	if err != nil || yes {
		return yes, err
	}
	for _, p := range all {
		if p.isInstall() {
			p.What, p.Reason, p.isSeen = whatCannot, "not agreed to", p.Source == bootstrap.SourceBonjour
		}
	}
	return false, nil
}

// acceptKeys writes the new keys down that were agreed to, and judges those hosts again, now that they let us look.
func (u *upRun) acceptKeys(ctx context.Context, items []*planItem) ([]*planItem, error) {
	var hosts []*bootstrap.Host
	for _, p := range items {
		if p.needsKey() && p.isInstall() {
			hosts = append(hosts, p.host)
		}
	}
	if len(hosts) == 0 {
		return items, nil
	}
	err := u.installer.Trust(hosts)
	if sayErr := u.events.trusted(hosts); err == nil {
		err = sayErr
	}
	if err != nil {
		return nil, err
	}
	u.events.looking("looking at hosts whose keys are trusted now")
	defer u.events.endLooking()
	targets := make([]bootstrap.Target, len(hosts))
	for i, h := range hosts {
		targets[i] = h.Target
	}
	fresh, err := u.judgedAnew(hosts, sighting.Probe(ctx, u.installer, targets, u.cluster.parallel))
	if err != nil {
		return nil, err
	}
	var out []*planItem
	isNews := false
	for _, p := range items {
		if slices.Contains(hosts, p.host) {
			now := fresh[p.host]
			isNews = isNews || now == nil || now.What != p.What || now.Reason != p.Reason
			if now == nil {
				continue // this machine, or a host that is there already, under a name of another
			}
			p = now
		}
		out = append(out, p)
	}
	if !isNews {
		return out, nil
	}
	return out, u.events.plan(out, false)
}

// judgedAnew judges hosts whose keys were agreed to, as they are now; the result is by what they were. Of those that turn out
// to be one, the first has it.
func (u *upRun) judgedAnew(were, now []*bootstrap.Host) (map[*bootstrap.Host]*planItem, error) {
	j, err := u.judge()
	if err != nil {
		return nil, err
	}
	fresh := map[*bootstrap.Host]*planItem{}
	isTold := map[*bootstrap.Host]bool{}
	merged := sighting.Merge(now, j.nodes)
	for i, was := range were {
		n := slices.IndexFunc(merged, func(h *bootstrap.Host) bool { return sighting.Same(h, now[i]) })
		if n < 0 || merged[n].Self || isTold[merged[n]] {
			continue
		}
		h := merged[n]
		isTold[h] = true
		p := j.item(h)
		// It was agreed to, so that what keeps it from serving counts now, unless it is somebody else's.
		isTheirs := p.isAuth || (p.node == nil && h.Facts.Owner.IsOfAnother(j.clusterID))
		p.isSeen = h.Source == bootstrap.SourceBonjour && isTheirs
		fresh[was] = p
	}
	return fresh, nil
}

// askSudo asks once for a password, where it was wanted and a host needs one.
func (u *upRun) askSudo(ctx context.Context, items []*planItem) (err error) {
	if !u.cluster.askSudo {
		return nil
	}
	var hosts []*bootstrap.Host
	for _, p := range items {
		if p.isInstall() {
			hosts = append(hosts, p.host)
		}
	}
	u.password, err = u.sudoPassword(ctx, hosts, "leave it out: agents then run from login and are served in reverse")
	return err
}

// sudoPassword asks once for the password of those hosts whose sudo wants one; empty where none does. mend says what to do
// where nobody is there to be asked.
func (d *deps) sudoPassword(ctx context.Context, hosts []*bootstrap.Host, mend string) (string, error) {
	var names []string
	for _, h := range hosts {
		if h.Facts.Sudo == bootstrap.SudoPassword {
			names = append(names, printer.Clean(h.Label()))
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	password, err := d.streams.Secret(ctx, "Password for sudo on "+strings.Join(names, ", ")+": ")
	if errors.Is(err, iostreams.ErrNobody) {
		return "", usageHint(mend, "--ask-sudo needs a terminal to ask on")
	}
	return password, err
}

// sudoFor is what an order tells a host of the password: a host that can do without it never learns it.
func sudoFor(h *bootstrap.Host, password string) string {
	if h.Facts.Sudo != bootstrap.SudoPassword {
		return ""
	}
	return password
}
