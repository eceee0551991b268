package cmd

import (
	"context"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bootstrap/host"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/hwmon"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// newAgentHost is the host's side of an installation, which an operator's `mlxctl up` runs over SSH.
func newAgentHost(d *deps) *cobra.Command {
	return &cobra.Command{
		Use: "host", Short: "Do what an operator's order on standard input says", Hidden: true, Args: between(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgentHost(cmd.Context(), d) },
	}
}

func runAgentHost(ctx context.Context, d *deps) error {
	// A connection that breaks must not end this process before it has undone what it did.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	o := d.hostOptions()
	o.In, o.Out, o.Exe = d.streams.In, d.streams.Out, d.exe
	return host.Serve(ctx, o)
}

// hostOptions are those of the host's side, but for the conversation and the binary.
func (d *deps) hostOptions() host.Options {
	return host.Options{
		Log: d.log(),
		Identity: func(ctx context.Context, home string) (host.Identity, error) {
			id, err := d.hostIdentity(ctx, home)
			if err != nil {
				return host.Identity{}, err
			}
			return host.Identity{Node: id.ID, Key: id.PublicKey, Hardware: id.Hardware}, nil
		},
		Join: func(ctx context.Context, home, jwt string) error {
			id, err := d.hostIdentity(ctx, home)
			if err != nil {
				return err
			}
			return id.Join(func(string, cluster.NodeID) (string, error) { return jwt, nil })
		},
		Python: hostPython,
		Checks: d.checksOfNode,
	}
}

func (d *deps) hostIdentity(ctx context.Context, home string) (*agent.Identity, error) {
	monitor := hwmon.New(hwmon.Options{Log: d.log()})
	defer monitor.Close()
	hardwareID, err := monitor.HardwareID(ctx)
	if err != nil { // as in many containers; then the identity is bound to its home alone
		d.log().Warn("this machine does not say who it is", "err", err)
	}
	return agent.LoadIdentity(filepath.Join(home, "agent"), hardwareID, trust.NewUserKey)
}

// hostPython makes sure of the environment of workers of a node.
func hostPython(ctx context.Context, r host.PythonRequest) (changed bool, err error) {
	cache := filepath.Join(r.Home, "cache")
	if r.Offline && r.Wheels == "" {
		r.Wheels = filepath.Join(cache, "wheels") // what is not there is not fetched
	}
	environment := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache, Python: r.Interpreter, Wheels: r.Wheels})
	_, err = environment.Ensure(ctx, func(line string) {
		changed = true // an environment that is there is used without a word
		r.Progress(line)
	})
	if err == nil && r.Interpreter != "" { // what others made is not known to work
		_, _, err = environment.Repair(ctx, r.Progress)
	}
	return changed, err
}

// serveUnit runs models until ctx ends. On a node it ends as well when its installation turns out to be given up.
func serveUnit(ctx context.Context, h *daemonHome) error {
	if h.node == nil {
		return serveAgent(ctx, h)
	}
	group, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	group.Go(func() error { return host.Watch(ctx, h.home) })
	group.Go(func() error {
		defer stop()
		return serveAgent(ctx, h)
	})
	return group.Wait()
}
