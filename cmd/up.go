package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/internal/trust"
)

const (
	// startTimeout bounds the start of the services, model and Python apart.
	startTimeout = 60 * time.Second
	// hungAfter is how long a controller that ran before may take to answer; then it is started again. A busy machine
	// must not look like a hung one.
	hungAfter = 15 * time.Second
	// selfTestTimeout bounds the first answer, which waits for the worker to come up.
	selfTestTimeout = 5 * time.Minute
	// defaultFinish is less than what a roll-out lets requests take: somebody waits for the change.
	defaultFinish  = time.Minute
	selfTestModel  = "tiny"
	selfTestPrompt = "Count from 1 to 5."
	selfTestAnswer = "1, 2, 3, 4, 5"
)

type upOptions struct {
	*deps
	output *outputFlags
	cmd    *cobra.Command
	local  bool
	hosts  []string
	// takeOver lets hosts that are named leave another cluster for this one.
	takeOver bool
	cluster  clusterFlags
	finish   time.Duration // how long open requests may take before services of another version, or other settings, replace these
}

// upResult is the shape of `up -o json`.
type upResult struct {
	Cluster string   `json:"cluster"`
	HTTP    string   `json:"http"`
	BaseURL string   `json:"base_url"`          // for OpenAI clients
	APIKey  string   `json:"api_key,omitempty"` // of the `up` that made the cluster
	Nodes   []upNode `json:"nodes"`
	Changed bool     `json:"changed"` // false when everything ran already
	TookMS  int64    `json:"took_ms"`
}

type upNode struct {
	ID    cluster.NodeID    `json:"id"`
	Name  string            `json:"name"`
	State cluster.NodeState `json:"state"`
}

func newUp(d *deps, runF func(context.Context, *upOptions) error) *cobra.Command {
	if runF == nil {
		runF = runUp
	}
	opts := &upOptions{deps: d, finish: defaultFinish}
	cmd := &cobra.Command{
		Use: "up [HOST…]", Short: "Make this Mac and others one cluster, and prove that each answers",
		Long: `up starts controller and agent on this machine as background services of this user, finds other Macs, shows what it
would do with each, and after a yes installs an agent on them over SSH. It returns when a real prompt has been answered by
every node. Doing it again adds, upgrades and repairs, and changes nothing that is right already.

Macs come from Bonjour, from the setting hosts, and from earlier times; with HOST ([USER@]HOST[:PORT], several) Bonjour is not
asked. With --local there is this machine alone, and nothing on the network is asked or answered.`,
		Example: `  mlxctl up
  mlxctl up --dry-run
  mlxctl up anna@studio.local mini-2 --yes
  mlxctl up --local --http-addr 0.0.0.0:8640`,
		Annotations: exits("0", "1", "2", "3", "4", "5", "6", "7", "130"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.hosts = args
			return runF(cmd.Context(), opts)
		},
	}
	opts.cmd = cmd
	opts.output = addOutput(cmd, objectFormats()...)
	f := cmd.Flags()
	opts.addTakeOver(f)
	f.BoolVar(&opts.local, "local", false, "on this machine alone")
	opts.cluster.addUp(f)
	f.DurationVar(&opts.finish, "drain-timeout", defaultFinish, "how long what is being answered may take, where the services here start again")
	f.String("name", "", "the cluster's name, when it is first made")
	f.String("http-addr", "", "where the gateway listens (default "+defaultHTTPAddr+", or the next free port)")
	f.String("nats-addr", "", "where the embedded NATS listens (default "+openNATSAddr+", with --local "+defaultNATSAddr+", or the next free port)")
	f.String("nats-url", "", "use a NATS of your own")
	f.String("nats-creds", "", "credentials file for it")
	f.String("nats-ca", "", "its certificate authority, PEM")
	f.String("nats-server-name", "", "name in its certificate, where it is not the host")
	return cmd
}

func runUp(ctx context.Context, opts *upOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	if !opts.local {
		return runUpCluster(ctx, opts, out)
	}
	if len(opts.hosts) > 0 {
		return usagef("--local takes no hosts, not %q", opts.hosts[0])
	}
	cfg, err := opts.config(opts.cmd.Flags())
	if err != nil {
		return err
	}
	if cfg.Context != config.LocalContext {
		return usageHint("add `--context local`, or set MLXCTL_HOME for another cluster on this machine",
			"up --local starts the cluster of this home, not that of context %q", cfg.Context)
	}
	if opts.cluster.dryRun {
		return opts.previewLocal(ctx, cfg, out)
	}
	ctx, cancel := bounded(ctx, cfg.Timeout)
	defer cancel()
	began := time.Now()
	isFirst := isUnmade(cfg.Dirs.Home)
	progress := opts.streams.NewProgress(opts.quiet)
	defer progress.Close()
	state, err := opts.bringUp(ctx, cfg, progress)
	if err != nil {
		return err
	}
	state.client.Close()
	s := state.snapshot
	progress.Close()
	e, err := opts.localEndpoint(cfg)
	if err != nil {
		return err
	}
	r := upResult{
		Cluster: s.Cluster, HTTP: strings.TrimSuffix(e.BaseURL, "/v1"), BaseURL: e.BaseURL,
		Changed: state.changed, TookMS: time.Since(began).Milliseconds(),
	}
	if isFirst {
		r.APIKey = e.APIKey
	}
	for _, n := range s.Nodes {
		r.Nodes = append(r.Nodes, upNode{n.ID, n.Name, n.State})
	}
	return opts.tell(out, r)
}

// start brings home, trust, Python and services into the state that is wanted.
// a is told what there was, and what was touched.
func (opts *upOptions) start(ctx context.Context, cfg *config.Config, a *attempt, progress *iostreams.Progress) (changed bool, err error) {
	home := cfg.Dirs.Home
	release, err := opts.acquire(ctx, home, progress)
	if err != nil {
		return false, err
	}
	defer release()
	before, digest, err := readLocal(home)
	if err != nil {
		return false, err
	}
	if err := checkName(cfg, before); err != nil {
		return false, err
	}
	if a.former, err = opts.formerServices(ctx, home); err != nil {
		return false, err
	}
	if !opts.local {
		before = opts.openBus(before, a.former.Running, progress)
	}
	l, err := opts.wanted(cfg, before, a.former.Running)
	if err != nil {
		return false, err
	}
	if _, err := service.Prepare(opts.services(home, digest, opts.log())); err != nil {
		return false, err
	}
	if isUnmade(home) {
		progress.Step("making the cluster's identity")
	}
	if _, err := trust.Init(trustDir(home), l.Name); err != nil {
		return false, err
	}
	if err := opts.engine.prepare(ctx, cfg.Dirs, func(line string) { progress.Step("%s", line) }); err != nil {
		return false, err
	}
	if err := l.write(home); err != nil {
		return false, err
	}
	if _, digest, err = readLocal(home); err != nil {
		return false, err
	}
	o := opts.services(home, digest, opts.log())
	if f := a.former; !f.Running || f.Version != o.Version || f.Settings != o.Settings {
		progress.Step("starting controller and agent")
	}
	o.Finish = opts.finish
	a.version, a.settings = o.Version, digest
	changed, err = service.Start(ctx, o)
	a.isStarted = err == nil
	return changed, err
}

// restartHung starts services again that run and do not answer.
func (opts *upOptions) restartHung(ctx context.Context, cfg *config.Config, began time.Time, progress *iostreams.Progress) (bool, error) {
	soon, cancel := context.WithTimeout(ctx, hungAfter)
	defer cancel()
	c, err := opts.awaitController(soon, cfg, began)
	if err == nil {
		_, err = c.Snapshot(soon)
		c.Close()
	}
	switch code := cluster.CodeOf(err); {
	case err == nil || ctx.Err() != nil:
		return false, context.Cause(ctx)
	case cfg.NATSURL != "" || (code != cluster.CodeUnreachable && code != cluster.CodeTimeout):
		return false, err // another start would not mend it
	}
	progress.Step("starting the services again, which do not answer")
	release, err := opts.acquire(ctx, cfg.Dirs.Home, progress)
	if err != nil {
		return false, err
	}
	defer release()
	_, digest, err := readLocal(cfg.Dirs.Home)
	if err != nil {
		return false, err
	}
	o := opts.services(cfg.Dirs.Home, digest, opts.log())
	if err := service.Stop(ctx, o); err != nil {
		return false, err
	}
	return service.Start(ctx, o)
}

// openBus has the bus listen for other machines, and says so where that ends what runs.
func (opts *upOptions) openBus(before *localSettings, isRunning bool, progress *iostreams.Progress) *localSettings {
	open := openToNetwork(before)
	if isRunning && before != nil && before.NATSAddr != open.NATSAddr {
		resume := progress.Pause()
		_ = opts.say("starting the services again, with the bus on %s in place of %s, so that other Macs reach it", open.NATSAddr, before.NATSAddr)
		resume()
	}
	return open
}

// prove waits until this machine's node is ready and has answered a prompt through the whole path. The caller closes the
// connection. Where nothing was started, it is one step.
func (opts *upOptions) prove(ctx context.Context, cfg *config.Config, began time.Time, isStarted bool, progress *iostreams.Progress) (clusterClient, *cluster.Snapshot, error) {
	step := func(what string) {
		if isStarted {
			progress.Step("%s", what)
		}
	}
	if !isStarted {
		progress.Step("seeing whether this machine answers")
	}
	step("waiting for the controller")
	readyCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := opts.awaitController(readyCtx, cfg, began)
	if err != nil {
		return nil, nil, err
	}
	step("waiting for the node")
	s, node, err := opts.awaitNode(readyCtx, cfg, c, began)
	if err == nil && node.State == cluster.NodeReady {
		step("answering a first prompt")
		testCtx, cancelTest := context.WithTimeout(ctx, selfTestTimeout)
		defer cancelTest()
		err = selfTest(testCtx, c, node.ID)
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, s, nil
}

func (opts *upOptions) awaitController(ctx context.Context, cfg *config.Config, began time.Time) (clusterClient, error) {
	var c clusterClient
	err := opts.await(ctx, cfg, began, "controller", func(ctx context.Context) (bool, error) {
		info, err := opts.readInfo(cfg.Dirs.Home)
		if err != nil || info == nil {
			return false, err
		}
		c, err = opts.connect(ctx, cfg)
		if cluster.CodeOf(err) == cluster.CodeUnreachable {
			return false, nil // it may be going down to come up with new settings
		}
		return err == nil, err
	})
	return c, err
}

// awaitNode waits for the node of this machine. One that was drained is as it should be.
func (opts *upOptions) awaitNode(ctx context.Context, cfg *config.Config, c clusterClient, began time.Time) (s *cluster.Snapshot, node cluster.Node, err error) {
	err = opts.await(ctx, cfg, began, "agent", func(ctx context.Context) (bool, error) {
		var err error
		if s, err = c.Snapshot(ctx); err != nil {
			return false, err
		}
		own := localNode(cfg.Dirs.Home)
		for _, n := range s.Nodes {
			if (own == "" || n.ID == own) && (n.State == cluster.NodeReady || n.State == cluster.NodeDraining) {
				node = n
				return true, nil
			}
		}
		return false, nil
	})
	return s, node, err
}

// await asks again and again until ready says yes; a service that cannot start, or that was stopped, ends it early.
func (opts *upOptions) await(ctx context.Context, cfg *config.Config, began time.Time, name string, ready func(context.Context) (bool, error)) error {
	home := cfg.Dirs.Home
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := ready(ctx)
		if ok || (err != nil && ctx.Err() == nil) {
			return err
		}
		if err := readFailure(home, name, began); err != nil {
			return err
		}
		status, err := service.Read(opts.services(home, "", nil))
		if err != nil {
			return err
		}
		if err := keepsEnding(home, name, status, began); err != nil {
			return err
		}
		if !status.Desired {
			return cluster.Errorf(cluster.CodeConflict, "the services were stopped while they started")
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return cluster.Errorf(cluster.CodeTimeout, "the %s was not ready after %v", name, startTimeout).
					WithHint("`mlxctl logs %s` says why", name)
			}
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// selfTest asks the embedded model on one node something that has one right answer.
func selfTest(ctx context.Context, c clusterClient, node cluster.NodeID) error {
	zero := 0.0
	most := 32
	req := &cluster.Request{
		Model: selfTestModel, Node: node, Temperature: &zero, MaxTokens: &most,
		Messages: []cluster.Message{{Role: "user", Content: selfTestPrompt}},
	}
	var text strings.Builder
	err := c.Generate(ctx, req, func(chunk cluster.Chunk) error {
		text.WriteString(chunk.Text)
		return nil
	})
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	if got := strings.TrimSpace(text.String()); got != selfTestAnswer {
		return cluster.Errorf(cluster.CodeInternal, "self-test: model %s answered %q instead of %q", selfTestModel, got, selfTestAnswer).
			WithHint("`mlxctl logs agent` and the worker's log may say why")
	}
	return nil
}

func (opts *upOptions) tell(out printer.Options, r upResult) error {
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, r)
	}
	var b strings.Builder
	verb := "is up"
	if !r.Changed {
		verb = "was up already; nothing changed"
	}
	fmt.Fprintf(&b, "cluster %s %s (%.1f s)\n\n", printer.Clean(r.Cluster), verb, float64(r.TookMS)/1000)
	b.WriteString(accessText(r.BaseURL, r.APIKey))
	fmt.Fprintf(&b, "  try      mlxctl run tiny \"Count from 1 to 20.\"\n")
	_, err := io.WriteString(opts.streams.Out, b.String())
	return err
}
