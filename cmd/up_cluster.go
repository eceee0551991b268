package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/hwmon"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// upRun is one `up` over the network.
type upRun struct {
	*upOptions
	cfg       *config.Config
	began     time.Time
	events    *upEvents
	installer installer
	scan      scanner
	roster    admitted

	local     localState
	authority *trust.Authority
	settings  plan.Settings
	password  string // for sudo, where a host wants one
	isFirst   bool   // the cluster is made by this `up`
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
	if opts.takeOver && len(opts.hosts) == 0 {
		return usageHint("mlxctl up HOST --take-over", "--take-over is for hosts that are named")
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

// open makes what the run works with. Nothing is changed by it.
func (u *upRun) open(ctx context.Context) error {
	p := u.lanParts()
	home := u.cfg.Dirs.Home
	u.roster, u.scan = p.roster(rosterPath(home)), p.scan
	var err error
	u.installer, err = p.installer(u.installerOptions(ctx, u.cfg, &u.cluster.sshFlags, u.events.pause))
	return err
}

// installerOptions are those of one command. A person who is there is asked for what SSH wants to know.
func (d *deps) installerOptions(ctx context.Context, cfg *config.Config, f *sshFlags, pause func() func()) bootstrap.Options {
	o := bootstrap.Options{
		StateDir: cfg.Dirs.Home, Transport: f.transport, Hardware: plan.HardwareHash(d.hardware(ctx)), Env: d.env, Log: d.log(),
	}
	if d.streams.CanAsk() {
		o.Ask = asker(func(ctx context.Context, prompt string) (string, error) {
			defer pause()()
			return d.streams.Secret(ctx, printer.Clean(prompt)+" ")
		})
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
	var seen sighting.Found
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
	if err := u.settleFormer(ctx, seen.Hosts); err != nil {
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

// carryOut does the plan, once it is agreed to. What came of each machine is in its item.
func (u *upRun) carryOut(ctx context.Context, items []*planItem) ([]*planItem, error) {
	agreed, err := u.agree(ctx, items)
	if err != nil || !agreed {
		return items, err
	}
	if items, err = u.acceptKeys(ctx, items); err != nil {
		return items, err
	}
	if err := u.agreeToTakeOver(ctx, items); err != nil {
		return items, err
	}
	if err := u.askSudo(ctx, items); err != nil {
		return items, err
	}
	u.install(ctx, items)
	return items, nil
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

// start has the services of this machine run with a bus that others reach.
func (u *upRun) start(ctx context.Context) error {
	u.isFirst = isUnmade(u.cfg.Dirs.Home)
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

func (u *upRun) judge() (*judge, error) {
	nodes, err := u.roster.List()
	if err != nil {
		return nil, err
	}
	j := &judge{
		binary: u.binaries(u.cfg.Dirs.Cache), snapshot: u.local.snapshot, nodes: nodes, knownOnly: u.cluster.knownOnly,
		clusterID: clusterIDOf(u.cfg.Dirs.Home), mayTakeOver: u.takeOver, canAsk: u.streams.CanAsk() && !u.cluster.yes && !u.cluster.dryRun,
	}
	if u.authority != nil {
		j.digest = settingsDigest(u.settings)
	}
	j.isNamed = len(u.hosts) > 0
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
