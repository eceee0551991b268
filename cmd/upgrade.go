package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

type upgradeOptions struct {
	fleetOptions
	all            bool
	keepGoing      bool
	keepController bool
}

func newUpgrade(d *deps, runF func(context.Context, *upgradeOptions) error) *cobra.Command {
	if runF == nil {
		runF = runUpgrade
	}
	opts := &upgradeOptions{fleetOptions: fleetOptions{deps: d}}
	cmd := &cobra.Command{
		Use: "upgrade [NODE…]", Short: "Bring nodes to the version of this program, one at a time",
		Long: `upgrade goes through the nodes whose version is not that of this program: each one finishes what it answers, while
others take what is new, is installed anew, proves that it serves, and takes requests again. A version that does not come up
is taken back on that node by itself; the others are then left as they are, unless --keep-going is given. With --all the
services of this machine follow last, unless --keep-controller is given: what is open is answered to its end, what comes
meanwhile is answered too, or waits for seconds, and a version that does not answer is taken back as well.`,
		Example:     "  mlxctl upgrade --all\n  mlxctl upgrade studio-2",
		Annotations: exits("0", "1", "2", "3", "4", "6", "7", "130"), ValidArgsFunction: completeNodes(d),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.names = args
			return runF(cmd.Context(), opts)
		},
	}
	opts.cmd = cmd
	opts.output = addOutput(cmd, objectFormats()...)
	f := cmd.Flags()
	opts.cluster.add(f)
	f.BoolVar(&opts.all, "all", false, "every node, then the services of this machine")
	f.BoolVarP(&opts.cluster.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&opts.cluster.offline, "offline", false, "send Python packages from here; nodes fetch nothing")
	f.BoolVar(&opts.keepGoing, "keep-going", false, "go on with the next node when one fails")
	f.BoolVar(&opts.keepController, "keep-controller", false, "leave the services of this machine as they are")
	f.DurationVar(&opts.drain, "drain-timeout", defaultDrain, "how long what is being answered may take")
	return cmd
}

// againTimeout bounds how long what a version answers that is taken back may take.
const againTimeout = 20 * time.Second

// rollout is one upgrade.
type rollout struct {
	*fleet
	opts *upgradeOptions
	run  *upRun // for installing on one node
}

func runUpgrade(ctx context.Context, opts *upgradeOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	if opts.all == (len(opts.names) > 0) {
		return usageHint("`mlxctl nodes -o wide` shows versions", "name the nodes, or say --all")
	}
	cfg, err := opts.settle()
	if err != nil {
		return err
	}
	f, closeAll, err := opts.openFleet(ctx, cfg, out)
	if err != nil {
		return err
	}
	defer closeAll()
	r := &rollout{fleet: f, opts: opts}
	if err := r.open(ctx); err != nil {
		return err
	}
	items, err := r.plan(ctx)
	if err != nil {
		return err
	}
	if err := r.events.plan(items, false); err != nil {
		return err
	}
	if needsYes(items) {
		if err := r.confirm(ctx, "Do this, one after the other: "+countPlan(items)+"?"); err != nil {
			return err
		}
	}
	isWhole := r.nodes(ctx, items)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if own := r.ownItem(isWhole); own != nil {
		items = append(items, own)
		r.one(ctx, own, r.restartServices)
		r.events.endBoard()
	}
	return r.finish(items, "on this version")
}

// open needs a cluster that answers: without it no node can be emptied.
func (r *rollout) open(ctx context.Context) error {
	home := r.cfg.Dirs.Home
	l, _, err := readLocal(home)
	if err != nil {
		return err
	}
	if l == nil {
		return notRunning(home)
	}
	if r.client, err = r.connect(ctx, r.cfg); err != nil {
		return err
	}
	s, err := r.client.Snapshot(ctx)
	if err != nil {
		return err
	}
	authority, err := trust.Open(trustDir(home))
	if err != nil {
		return err
	}
	if err := settlePending(home, r.roster, authority); err != nil {
		return err
	}
	settings, err := nodeSettings(authority, l)
	if err != nil {
		return err
	}
	up := &upOptions{deps: r.deps, output: r.output, cmd: r.cmd, cluster: r.cluster, local: isLoopback(l.NATSAddr)}
	r.run = &upRun{
		upOptions: up, cfg: r.cfg, began: time.Now(), events: r.events, installer: r.installer, roster: r.roster,
		local: localState{client: r.client, snapshot: s}, authority: authority, settings: settings,
	}
	return r.run.undrainInterrupted(ctx)
}

// plan says which nodes are to be changed.
func (r *rollout) plan(ctx context.Context) ([]*planItem, error) {
	var nodes []roster.Node
	var err error
	if r.opts.all {
		nodes, err = r.roster.List()
		nodes = otherMachines(nodes, r.cfg.Dirs.Home)
	} else {
		nodes, err = r.named()
	}
	if err != nil {
		return nil, err
	}
	items := itemsOf(nodes, r.reach(ctx, nodes), whatUpgrade)
	for _, p := range items {
		r.judge(p)
	}
	return items, r.run.askSudo(ctx, items)
}

func (r *rollout) judge(p *planItem) {
	live := nodeIn(r.run.local.snapshot, p.Node)
	if live != nil {
		p.State = string(live.State)
	}
	if err := unreached(*p.node, p.host); err != nil {
		if live != nil && live.State != cluster.NodeDown && live.Version == r.build.Version {
			p.What = whatNothing
			return
		}
		if _, ok := sighting.OfNode(*p.node); !ok {
			p.isApart = true
			p.What, p.Reason, p.Fix = whatCannot, "it joined without SSH", withoutSSHFix
			return
		}
		e := cluster.AsError(err)
		p.What, p.Reason, p.Fix, p.isAuth = whatCannot, e.Message, e.Hint, e.Code == cluster.CodeUnauthorized
		return
	}
	there := &plan.Order{Action: plan.Stop, Node: p.Node, ClusterID: r.clusterID}
	if why := there.Spares(p.host.Facts.Owner); why != "" {
		p.What, p.Reason, p.Fix = whatCannot, why, "`mlxctl up` looks at it anew"
		return
	}
	p.KeyState, p.HostKey, p.Model = string(p.host.Key.State), p.host.Key.Fingerprint, modelText(p.host)
	_, want, err := r.binaries(r.cfg.Dirs.Cache)(p.host.Facts.OS, p.host.Facts.Arch)
	switch {
	case err != nil:
		e := cluster.AsError(err)
		p.What, p.Reason, p.Fix = whatCannot, e.Message, e.Hint
	case p.host.Facts.Installed == want:
		p.What = whatNothing
	default:
		p.What, p.Reason = versionChange(p.host.Facts.Installed, want, versionOf(p.host.Facts.Installed), versionOf(want))
	}
}

// withoutSSHFix is how a node that joined by a token gets this version.
const withoutSSHFix = "there, with this version of mlxctl: mlxctl agent join TOKEN   # of `mlxctl token create`; or `mlxctl up HOST` here, where SSH works"

// nodes goes through them one at a time, and says whether all of them run this version now. One that cannot be reached by its
// nature does not count.
func (r *rollout) nodes(ctx context.Context, items []*planItem) bool {
	isWhole := true
	for _, p := range items {
		if p.What == whatCannot && !p.isApart {
			isWhole = false
		}
		if !p.isInstall() || ctx.Err() != nil {
			continue
		}
		if !isWhole && !r.opts.keepGoing {
			p.What, p.Reason, p.Fix = whatCannot, "left as it is, since another node failed", "once that is mended, `mlxctl upgrade` again"
			continue
		}
		r.one(ctx, p, r.upgradeNode)
		isWhole = isWhole && p.outcome.err == nil
	}
	r.events.endBoard()
	return isWhole
}

// upgradeNode empties a node, has it run this version, and lets it take requests again, whatever came of it. One that was
// drained before stays so.
func (r *rollout) upgradeNode(ctx context.Context, p *planItem) (changed bool, err error) {
	if r.run.local.snapshot, err = r.client.Snapshot(ctx); err != nil {
		return false, err
	}
	isOurs, err := r.empty(ctx, p)
	if err != nil {
		return false, err
	}
	if n := nodeIn(r.run.local.snapshot, p.Node); n != nil && n.State == cluster.NodeDraining && !isOurs {
		changed, err = r.run.installOne(ctx, p, nil)
		return changed, r.rolledBack(p, err)
	}
	isBack := false
	held := &hold{
		end: func(ctx context.Context, node cluster.NodeID) error {
			isBack = true
			return undrain(ctx, r.client, r.roster, node)
		},
		again: func(ctx context.Context, _ cluster.NodeID) error {
			ctx, cancel := context.WithTimeout(ctx, againTimeout)
			defer cancel()
			return errors.Join(r.drainNode(ctx, p), r.awaitEmpty(ctx, p))
		},
	}
	changed, err = r.run.installOne(ctx, p, held)
	if err != nil || !isBack {
		// The old version is up again, drained as it was told to be: that outlives a restart.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), seenTimeout)
		defer cancel()
		if undrainErr := r.undrainWhenUp(back, p.Node); undrainErr != nil && err == nil {
			err = undrainErr
		}
	}
	return changed, r.rolledBack(p, err)
}

// undrainWhenUp waits for a node that is being started, then lets it take requests.
func (r *rollout) undrainWhenUp(ctx context.Context, node cluster.NodeID) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := undrain(ctx, r.client, r.roster, node)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// rolledBack says after a failure what the node runs now, as far as the node has said so.
func (r *rollout) rolledBack(p *planItem, err error) error {
	if err == nil {
		p.done = "runs this version"
		return nil
	}
	now := "what it runs now is not known"
	switch {
	case p.undone.now != "":
		now = p.undone.now
	case !p.undone.isTouched:
		now = fmt.Sprintf("it runs %s as before", first(p.host.Facts.Installed, "nothing"))
	}
	e := *cluster.AsError(err)
	e.Message = err.Error() + "; " + now
	return &e
}

// heard takes note of a step of the host.
func (u *undone) heard(e bootstrap.Event) {
	if e.Step != plan.StepUnit {
		return
	}
	u.isTouched = true
	if e.State == plan.StateUndone {
		u.now = e.Detail
	}
}

// ownItem is this machine in the plan; nil where its services are to stay.
func (r *rollout) ownItem(isWhole bool) *planItem {
	if !r.opts.all || r.opts.keepController {
		return nil
	}
	p := &planItem{Name: hostName(), Node: localNode(r.cfg.Dirs.Home), Address: "this machine", Source: bootstrap.SourceLocal, What: whatUpgrade, done: "runs this version"}
	if !isWhole && !r.opts.keepGoing {
		p.What, p.Reason, p.Fix = whatCannot, "left as it is, since another node failed", "once that is mended, `mlxctl upgrade` again"
		return p
	}
	return p
}

// restartServices has this machine run this version, or the one before where this one does not prove itself. What goes through
// the controller is answered to its end first; what comes meanwhile waits for the new one.
func (r *rollout) restartServices(ctx context.Context, p *planItem) (bool, error) {
	if p.What == whatCannot {
		return false, cluster.Errorf(cluster.CodeConflict, "%s", p.Reason).WithHint("%s", p.Fix)
	}
	up := r.run.upOptions
	up.finish = r.opts.drain
	state, err := r.lanParts().services(ctx, up, r.cfg, r.events.progress)
	if state.client != nil {
		state.client.Close()
	}
	return state.changed, err
}
