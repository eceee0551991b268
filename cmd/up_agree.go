package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// agree asks once for everything: installations and new keys.
func (u *upRun) agree(ctx context.Context, items []*planItem) (bool, error) {
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
	for _, p := range items {
		if p.isInstall() {
			p.What, p.Reason, p.isSeen = whatCannot, "not agreed to", p.Source == sourceBonjour
		}
	}
	return false, nil
}

// acceptKeys writes the new keys down that were agreed to, and judges those hosts again, now that they let us look.
func (u *upRun) acceptKeys(ctx context.Context, items []*planItem) ([]*planItem, error) {
	var hosts []*foundHost
	for _, p := range items {
		if p.needsKey() && p.isInstall() {
			hosts = append(hosts, p.host)
		}
	}
	if len(hosts) == 0 {
		return items, nil
	}
	if err := u.installer.Trust(hosts); err != nil {
		return nil, err
	}
	u.events.looking("looking at hosts whose keys are trusted now")
	defer u.events.endLooking()
	var again []target
	for _, h := range hosts {
		again = append(again, h.target)
	}
	fresh := u.judgedAnew(u.installer.Probe(ctx, again))
	var out []*planItem
	isNews := false
	for _, p := range items {
		if p.needsKey() && p.isInstall() {
			now := fresh[p.host.Fingerprint]
			if now == nil {
				now = fresh[p.host.label()] // it did not answer again
			}
			if now == nil {
				continue // this machine, under a name of another
			}
			isNews = isNews || now.What != p.What || now.Reason != p.Reason
			p = now
		}
		out = append(out, p)
	}
	if !isNews {
		return out, nil
	}
	return out, u.events.planned(out)
}

// judgedAnew judges hosts whose keys were agreed to; the result is by key, or by label for one that shows none now.
func (u *upRun) judgedAnew(hosts []*foundHost) map[string]*planItem {
	j := u.judge()
	fresh := map[string]*planItem{}
	for _, h := range mergeHosts(hosts, j.nodes) {
		if h.IsSelf {
			continue
		}
		p := j.item(h)
		// It was agreed to, so that what keeps it from serving counts now, unless it is somebody else's.
		p.isSeen = h.Source == sourceBonjour && p.isAuth
		fresh[first(h.Fingerprint, h.label())] = p
	}
	return fresh
}

// askSudo asks once for a password, where it was wanted and a host needs one.
func (u *upRun) askSudo(ctx context.Context, items []*planItem) (err error) {
	if !u.cluster.askSudo {
		return nil
	}
	var hosts []*foundHost
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
func (d *deps) sudoPassword(ctx context.Context, hosts []*foundHost, mend string) (string, error) {
	var names []string
	for _, h := range hosts {
		if h.Sudo == sudoPassword {
			names = append(names, printer.Clean(h.label()))
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
func sudoFor(h *foundHost, password string) string {
	if h.Sudo != sudoPassword {
		return ""
	}
	return password
}
