package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/durable"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/service"
)

type downOptions struct {
	fleetOptions
	local bool // this machine alone
	purge bool
}

// downResult is the shape of `down -o json`.
type downResult struct {
	Stopped bool `json:"stopped"` // false when nothing ran
	Purged  bool `json:"purged"`
	// Kept are the folders and files that --purge leaves on this machine.
	Kept []string `json:"kept,omitempty"`
	// Hosts are the other machines of the cluster, and what came of each.
	Hosts  []hostResult `json:"hosts,omitempty"`
	Failed int          `json:"failed,omitempty"`
}

func newDown(d *deps, runF func(context.Context, *downOptions) error) *cobra.Command {
	if runF == nil {
		runF = runDown
	}
	opts := &downOptions{fleetOptions: fleetOptions{deps: d}}
	cmd := &cobra.Command{
		Use: "down", Short: "Stop the cluster: agents on other machines, then the services of this one", Args: between(0, 0, ""),
		Long: `down stops the agents of all nodes over SSH, whether the cluster answers or not, and then ends the background services of
this home, whatever state they are in. It leaves no process, port or lock. Nodes that cannot be reached are named, and the exit
code is 3; a host that is a node of another cluster by now is left as it is. Models and Python environments in the cache of this
machine stay. Where nobody is there to agree, a cluster with other machines takes --yes; a cluster of this machine alone is never
asked for.

With --purge what was installed on the nodes is removed, and then the cluster's identity, keys, settings and logs here. These
are kept while a node could not be reached, so that it can be tried again; --force removes them all the same. The cache stays,
and so does a configuration file that is not in the home: down says at its end what is left, and where.`,
		Annotations: exits("0", "1", "2", "3", "6", "130"),
		RunE:        func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, objectFormats()...)
	opts.cmd = cmd
	f := cmd.Flags()
	f.BoolVar(&opts.local, "local", false, "this machine alone; agents on others go on and wait for it")
	f.BoolVar(&opts.purge, "purge", false, "also remove the cluster's identity, keys, settings and logs, on every node")
	f.BoolVar(&opts.force, "force", false, "with --purge: also while a node cannot be reached")
	f.BoolVarP(&opts.cluster.yes, "yes", "y", false, "do not ask")
	opts.cluster.add(f)
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
		return opts.tell(out, downResult{}, nil, nil)
	}
	items, release, err := opts.stopOthers(ctx, dirs)
	if err != nil {
		return err
	}
	defer release()
	failures := failuresOf(items)
	if len(failures) > 0 && !opts.force {
		opts.purge = false // it would take away what is needed to try again
	}
	stopped, err := opts.stop(ctx, dirs, !opts.local && len(failures) == 0)
	if err != nil {
		return err
	}
	r := downResult{Stopped: stopped, Purged: opts.purge, Failed: len(failures)}
	if r.Purged {
		r.Kept = keptBy(dirs)
	}
	for _, p := range items {
		r.Hosts = append(r.Hosts, resultOf(p))
	}
	if err := opts.tell(out, r, items, failures); err != nil || len(failures) == 0 {
		return err
	}
	return silentError{exitPartial}
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

// allStoppedPath is there while the agents of all other machines are stopped, and the services here were not started since.
func allStoppedPath(home string) string { return filepath.Join(home, "run", "all-stopped") }

// isAllStopped says that a `down` before stopped every machine, and that nothing was started since.
func (opts *downOptions) isAllStopped(home string) bool {
	status, err := service.Read(opts.services(home, "", nil))
	if err != nil || status.Running || status.Desired {
		return false
	}
	_, err = os.Stat(allStoppedPath(home))
	return err == nil
}

// noteStopped writes down whether a `down` stopped every machine.
func noteStopped(home string, all bool) error {
	if all {
		return config.WriteFile(allStoppedPath(home), nil)
	}
	if err := os.Remove(allStoppedPath(home)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// stop ends the services of this machine; all says that those of the others are stopped.
func (opts *downOptions) stop(ctx context.Context, dirs config.Dirs, all bool) (bool, error) {
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
	if status.Running || status.Desired { // what an earlier `down` wrote down ended with that start
		if err := noteStopped(home, false); err != nil {
			return false, err
		}
	}
	if status.Running {
		progress.Step("stopping controller and agent")
	}
	if err := service.Stop(ctx, o); err != nil {
		return false, err
	}
	for _, path := range []string{infoPath(home), service.FailurePath(home, "controller"), service.FailurePath(home, "agent")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("remove: %w", err)
		}
	}
	switch {
	case opts.purge:
		err = purge(dirs)
	case all:
		err = noteStopped(home, true)
	}
	return status.Running || status.Desired, err
}

// purge removes what a home holds of ours, and the home and the folder of settings where nothing else is in them. The lock,
// in the folder that goes last, is held.
func purge(dirs config.Dirs) error {
	home := dirs.Home
	names := []string{"trust", "agent", serviceVersions, "log", "nats", "local.json", "former-context", "completion.json", bootstrap.KnownHostsFile, "roster.json", "pending.json", begunFile}
	if filepath.Dir(dirs.File) == home {
		names = append(names, filepath.Base(dirs.File))
	}
	entries, _ := os.ReadDir(home) // a home that is not there has nothing to be removed
	for _, e := range entries {
		if of, ok := durable.PartOf(e.Name()); ok && slices.Contains(names, of) { // its writer was killed
			names = append(names, e.Name())
		}
	}
	for _, name := range append(names, "run") {
		if err := os.RemoveAll(filepath.Join(home, name)); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	for _, dir := range []string{home, filepath.Dir(dirs.File)} {
		if left, err := os.ReadDir(dir); err == nil && len(left) == 0 {
			if err := os.Remove(dir); err != nil {
				return fmt.Errorf("purge: %w", err)
			}
		}
	}
	return nil
}

// keptBy lists what is left on this machine after a purge: the cache, which can be made again, the user's own settings where
// they are not in the home, and a home that holds something else.
func keptBy(dirs config.Dirs) []string {
	var kept []string
	for _, path := range []string{dirs.Cache, dirs.File, dirs.Home} {
		if _, err := os.Stat(path); err == nil {
			kept = append(kept, path)
		}
	}
	return kept
}

func (opts *downOptions) tell(out printer.Options, r downResult, items, failures []*planItem) error {
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, r)
	}
	if len(failures) > 0 {
		if _, err := io.WriteString(opts.streams.Err, failureLines(failures)); err != nil {
			return fmt.Errorf("tell: %w", err)
		}
	}
	left := leftLines(items)
	if _, err := io.WriteString(opts.streams.Err, left); err != nil {
		return fmt.Errorf("tell: %w", err)
	}
	if n := len(r.Hosts) - r.Failed - strings.Count(left, "\n"); n > 0 {
		if err := opts.say("%d other machines stopped", n); err != nil {
			return err
		}
	}
	if !r.Stopped && !r.Purged {
		return opts.say("nothing was running")
	}
	if r.Purged {
		if len(r.Kept) == 0 {
			return opts.say("stopped and purged")
		}
		return opts.say("stopped and purged; kept: %s", strings.Join(r.Kept, ", "))
	}
	return opts.say("stopped")
}
