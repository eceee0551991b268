package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/service"
)

type downOptions struct {
	*deps
	output *outputFlags
	purge  bool
}

// downResult is the shape of `down -o json`.
type downResult struct {
	Stopped bool `json:"stopped"` // false when nothing ran
	Purged  bool `json:"purged"`
}

func newDown(d *deps, runF func(context.Context, *downOptions) error) *cobra.Command {
	if runF == nil {
		runF = runDown
	}
	opts := &downOptions{deps: d}
	cmd := &cobra.Command{
		Use: "down", Short: "Stop the services of this machine", Args: between(0, 0, ""),
		Long: `down ends the background services of this home, whatever state they are in, and leaves no process, port or lock.
Models and Python environments in the cache stay.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, objectFormats()...)
	cmd.Flags().BoolVar(&opts.purge, "purge", false, "also remove the cluster's identity, keys, settings and logs")
	return cmd
}

// runDown needs neither a readable configuration nor a living cluster.
func runDown(ctx context.Context, opts *downOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	dirs, err := opts.dirs()
	if err != nil {
		return err
	}
	if err := opts.checkContext(); err != nil {
		return err
	}
	if _, err := os.Stat(dirs.Home); errors.Is(err, fs.ErrNotExist) {
		return opts.tell(out, downResult{})
	}
	stopped, err := opts.stop(ctx, dirs)
	if err != nil {
		return err
	}
	return opts.tell(out, downResult{Stopped: stopped, Purged: opts.purge})
}

// checkContext refuses to stop this home's cluster when another one is in use. A configuration that cannot be read is no
// reason to leave services running, unless it may be the one that names the other cluster.
func (opts *downOptions) checkContext() error {
	cfg, err := opts.config(nil)
	if err != nil {
		if opts.flags.Changed("context") {
			return err
		}
		return nil
	}
	if cfg.Context != config.LocalContext {
		return usageHint("add `--context local`, or set MLXCTL_HOME to the other cluster's home",
			"down stops the cluster of this home, not that of context %q", cfg.Context)
	}
	return nil
}

func (opts *downOptions) stop(ctx context.Context, dirs config.Dirs) (bool, error) {
	home := dirs.Home
	o := opts.services(home, "", opts.log())
	progress := opts.streams.NewProgress(opts.quiet)
	defer progress.Close()
	release, err := opts.acquire(ctx, home, progress)
	if err != nil {
		return false, err
	}
	defer release()
	status, err := service.Read(o)
	if err != nil {
		return false, err
	}
	if status.Running {
		progress.Step("stopping controller and agent")
	}
	if err := service.Stop(ctx, o); err != nil {
		return false, err
	}
	for _, path := range []string{infoPath(home), failurePath(home, "controller"), failurePath(home, "agent")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("remove: %w", err)
		}
	}
	if opts.purge {
		err = purge(dirs)
	}
	return status.Running || status.Desired, err
}

// purge removes what a home holds of ours, and the home itself where nothing else is in it. The lock, in the folder that
// goes last, is held.
func purge(dirs config.Dirs) error {
	home := dirs.Home
	names := []string{"trust", "agent", "log", "nats", "local.json", "former-context", "completion.json"}
	if filepath.Dir(dirs.File) == home {
		names = append(names, filepath.Base(dirs.File))
	}
	for _, name := range append(names, "run") {
		if err := os.RemoveAll(filepath.Join(home, name)); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	if left, err := os.ReadDir(home); err == nil && len(left) == 0 {
		if err := os.Remove(home); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	return nil
}

func (opts *downOptions) tell(out printer.Options, r downResult) error {
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, r)
	}
	if !r.Stopped && !r.Purged {
		return opts.say("nothing was running")
	}
	if r.Purged {
		return opts.say("stopped and purged")
	}
	return opts.say("stopped")
}
