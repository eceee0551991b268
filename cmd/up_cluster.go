package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/hwmon"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// nodesLock is held by every command that changes other machines, so that two of them do not interleave. It is not the lock
// of the services: those can be started and stopped meanwhile.
const nodesLock = "nodes.lock"

// lockSoon is how long a lock may take before somebody is told that another command has it.
const lockSoon = 200 * time.Millisecond

// upRun is one `up` over the network.
type upRun struct {
	*upOptions
	cfg       *config.Config
	began     time.Time
	events    *upEvents
	installer installer
	finder    macFinder
	roster    admitted

	local     localState
	authority *trust.Authority
	settings  bootplan.Settings
	password  string // for sudo, where a host wants one
	signing   signing
}

func (u *upRun) flags() *clusterFlags { return &u.cluster }

// clusterConfig reads the settings for a command that changes other machines of the cluster of this home.
func (d *deps) clusterConfig(cmd *cobra.Command, flags *clusterFlags) (*config.Config, error) {
	cfg, err := d.config(cmd.Flags())
	if err != nil {
		return nil, err
	}
	if cfg.Context != config.LocalContext {
		return nil, usageHint("add `--context local`, or set MLXCTL_HOME for another cluster on this machine",
			"this is for the cluster of this home, not that of context %q", cfg.Context)
	}
	if err := flags.check(); err != nil {
		return nil, err
	}
	return cfg, flags.settle(cfg)
}

func runUpCluster(ctx context.Context, opts *upOptions, out printer.Options) (err error) {
	cfg, err := opts.clusterConfig(opts.cmd, &opts.cluster)
	if err != nil {
		return err
	}
	if err := checkNetwork(cfg); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx, cfg.Timeout)
	defer cancel()
	u := &upRun{upOptions: opts, cfg: cfg, began: time.Now(), events: newUpEvents(opts.deps, out)}
	defer u.events.close()
	if !opts.cluster.dryRun {
		release, err := opts.acquireNodes(ctx, cfg.Dirs.Home)
		if err != nil {
			return err
		}
		defer release()
	}
	if err := u.open(ctx); err != nil {
		return err
	}
	defer u.installer.Close()
	defer func() {
		if u.local.client != nil {
			u.local.client.Close()
		}
	}()
	return u.run(ctx)
}

// acquireNodes waits for the lock, and says so when it has to.
func (d *deps) acquireNodes(ctx context.Context, home string) (func(), error) {
	soon, cancel := context.WithTimeout(ctx, lockSoon)
	defer cancel()
	release, err := service.Lock(soon, home, nodesLock)
	if err == nil || soon.Err() == nil {
		return release, err
	}
	if err := d.say("waiting for another mlxctl that changes the machines of this cluster"); err != nil {
		return nil, err
	}
	release, err = service.Lock(ctx, home, nodesLock)
	if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil, cluster.Errorf(cluster.CodeTimeout, "another mlxctl still changes the machines of this cluster").
			WithHint("let it end, or end it")
	}
	return release, err
}

// open makes what the run works with. Nothing is changed by it.
func (u *upRun) open(ctx context.Context) error {
	p := u.lanParts()
	home := u.cfg.Dirs.Home
	u.roster, u.finder = p.roster(rosterPath(home)), p.finder()
	var err error
	u.installer, err = p.installer(u.installerOptions(ctx, u.cfg, &u.cluster.sshFlags, u.events.pause))
	return err
}

// installerOptions are those of one command. A person who is there is asked for what SSH wants to know.
func (d *deps) installerOptions(ctx context.Context, cfg *config.Config, f *sshFlags, pause func() func()) installerOptions {
	o := installerOptions{
		StateDir: cfg.Dirs.Home, CacheDir: cfg.Dirs.Cache, Transport: f.transport, Parallel: f.parallel, Hardware: d.hardware(ctx),
	}
	if d.streams.CanAsk() {
		o.Ask = func(ctx context.Context, prompt string) (string, error) {
			defer pause()()
			return d.streams.Secret(ctx, printer.Clean(prompt)+" ")
		}
	}
	return o
}

// hardware is this machine's own number; empty where it has none.
func (d *deps) hardware(ctx context.Context) string {
	monitor := hwmon.New(hwmon.Options{Log: d.log()})
	defer monitor.Close()
	id, err := monitor.HardwareID(ctx)
	if err != nil {
		return "" // then this machine is told by its addresses
	}
	return id
}

// run looks, plans, asks and installs.
func (u *upRun) run(ctx context.Context) error {
	f := u.flags()
	canAgree := f.yes || u.streams.CanAsk()
	var seen found
	var err error
	if f.dryRun || (!canAgree && !u.wasOpen()) {
		// Nobody has agreed to anything yet.
		var isEnd bool
		if seen, isEnd, err = u.lookFirst(ctx); err != nil || isEnd {
			return err
		}
		err = u.start(ctx)
	} else {
		seen, err = u.startAndLook(ctx)
	}
	if err != nil {
		return err
	}
	if err := u.awaitNodes(ctx, seen); err != nil {
		return err
	}
	u.events.endLooking()
	if err := u.undrainInterrupted(ctx); err != nil {
		return err
	}
	j, err := u.judge()
	if err != nil {
		return err
	}
	items := j.items(seen)
	if err := u.events.plan(items, false); err != nil {
		return err
	}
	if needsYes(items) && !canAgree {
		return nobodyAgrees(items)
	}
	if items, err = u.carryOut(ctx, items); err != nil {
		return err
	}
	if ctx.Err() != nil {
		_ = u.say("what is done is done; `mlxctl up` again completes the rest")
		return context.Cause(ctx)
	}
	return u.summarise(ctx, items)
}

// lookFirst shows what would be done before anything is; isEnd says that this is all.
func (u *upRun) lookFirst(ctx context.Context) (seen found, isEnd bool, err error) {
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
func (u *upRun) startAndLook(ctx context.Context) (seen found, err error) {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return u.start(inner) })
	group.Go(func() (err error) {
		seen, err = u.look(inner)
		return err
	})
	err = group.Wait()
	return seen, err
}

// carryOut does the plan, once it is agreed to. What came of each machine is in its item.
func (u *upRun) carryOut(ctx context.Context, items []*planItem) ([]*planItem, error) {
	agreed, err := u.agree(ctx, items)
	if err != nil || !agreed {
		return items, err
	}
	if items, err = u.acceptKeys(ctx, items); err != nil {
		return items, err
	}
	if err := u.askSudo(ctx, items); err != nil {
		return items, err
	}
	u.install(ctx, items)
	return items, nil
}

// returnTimeout is how long nodes may take to find a controller that was started again.
const returnTimeout = 10 * time.Second

// awaitNodes reads the state of the cluster anew. Where the services were just started, nodes that SSH finds installed are
// given the time to come back: one that does needs no repair.
func (u *upRun) awaitNodes(ctx context.Context, seen found) error {
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
		if !u.local.changed || !isMissing(u.local.snapshot, seen.hosts) {
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
func isMissing(s *cluster.Snapshot, hosts []*foundHost) bool {
	return slices.ContainsFunc(hosts, func(h *foundHost) bool {
		if h.Node == "" || h.Installed == "" || h.failure() != nil {
			return false
		}
		n := nodeIn(s, h.Node)
		return n == nil || (n.State != cluster.NodeReady && n.State != cluster.NodeDraining)
	})
}

func nobodyAgrees(items []*planItem) error {
	return usageHint("add --yes to do it, or --dry-run to look only", "nobody is there to agree to the plan: %s", countPlan(items))
}

// wasOpen says that the services of this machine were set up before with a bus that others reach, so that to start them
// again is nothing to agree to.
func (u *upRun) wasOpen() bool {
	l, _, err := readLocal(u.cfg.Dirs.Home)
	return err == nil && l != nil && openToNetwork(l).NATSAddr == l.NATSAddr
}

func (u *upRun) look(ctx context.Context) (found, error) {
	u.events.looking("looking for Macs")
	seen, err := u.find(ctx)
	if err == nil && seen.scan != nil {
		e := cluster.AsError(seen.scan)
		err = u.events.warn("Bonjour cannot look for Macs: "+e.Message, e.Hint)
	}
	if seen.leftOut > 0 && err == nil {
		err = u.events.warn(fmt.Sprintf("Bonjour tells of more Macs than can be looked at: %d left out", seen.leftOut),
			"name those that are wanted: mlxctl up user@host")
	}
	if f := configWarning(seen.hosts); err == nil && f != nil {
		err = u.events.warn(f.Message, f.Fix)
	}
	return seen, err
}

// start has the services of this machine run with a bus that others reach.
func (u *upRun) start(ctx context.Context) error {
	var err error
	if u.local, err = u.lanParts().services(ctx, u.upOptions, u.cfg, u.events.progress); err != nil {
		return err
	}
	home := u.cfg.Dirs.Home
	if u.authority, err = trust.Open(trustDir(home)); err != nil {
		return err
	}
	if err := settlePending(home, u.roster, u.authority); err != nil {
		return err
	}
	l, _, err := readLocal(home)
	if err != nil {
		return err
	}
	if l == nil {
		return notRunning(home)
	}
	u.settings, err = nodeSettings(u.authority, l)
	return err
}

// startServices starts the services of this machine and proves that they answer.
func startServices(ctx context.Context, opts *upOptions, cfg *config.Config, progress *iostreams.Progress) (localState, error) {
	return opts.bringUp(ctx, cfg, progress)
}

// preview judges without having changed anything: the services may not even run.
func (u *upRun) preview(ctx context.Context, seen found) ([]*planItem, error) {
	home := u.cfg.Dirs.Home
	own := &planItem{Name: hostName(), Node: localNode(home), Address: "this machine", Source: "local", KeyState: "-", State: "down", What: whatStart, isSelf: true}
	j, err := u.judge()
	if err != nil {
		return nil, err
	}
	if info, err := u.readInfo(home); err == nil && info != nil {
		own.State, own.What = "ready", whatNothing
		soon, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		if c, err := u.connect(soon, u.cfg); err == nil {
			j.snapshot, _ = c.Snapshot(soon) // none is as good as one in which nothing is ready
			c.Close()
		}
		if err := u.previewSettings(home, own, j); err != nil {
			return nil, err
		}
	}
	return append([]*planItem{own}, j.items(seen)...), nil
}

func (u *upRun) previewSettings(home string, own *planItem, j *judge) error {
	l, _, err := readLocal(home)
	if err != nil || l == nil {
		return err
	}
	if open := openToNetwork(l); open.NATSAddr != l.NATSAddr {
		own.What, own.Reason = whatStart, fmt.Sprintf("again, with the bus on %s in place of %s", open.NATSAddr, l.NATSAddr)
		l = open
	}
	authority, err := trust.Open(trustDir(home))
	if err != nil {
		return err
	}
	l.Models = u.cfg.Models
	settings, err := nodeSettings(authority, l)
	j.digest = settingsDigest(settings)
	return err
}

func (u *upRun) judge() (*judge, error) {
	nodes, err := u.roster.List()
	if err != nil {
		return nil, err
	}
	j := &judge{installer: u.installer, snapshot: u.local.snapshot, nodes: nodes, knownOnly: u.cluster.knownOnly}
	if u.authority != nil {
		j.digest = settingsDigest(u.settings)
	}
	return j, nil
}

func needsYes(items []*planItem) bool {
	for _, p := range items {
		if p.isInstall() {
			return true
		}
	}
	return false
}
