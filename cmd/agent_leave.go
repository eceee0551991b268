package cmd

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
)

type leaveOptions struct {
	*deps
	output *outputFlags
	purge  bool
}

// leaveResult is the shape of `agent leave -o json`.
type leaveResult struct {
	Home    string `json:"home"`
	Stopped bool   `json:"stopped"` // false when nothing ran
	Purged  bool   `json:"purged"`
}

func newAgentLeave(d *deps, runF func(context.Context, *leaveOptions) error) *cobra.Command {
	if runF == nil {
		runF = runAgentLeave
	}
	opts := &leaveOptions{deps: d}
	cmd := &cobra.Command{
		Use: "leave", Short: "Have this Mac be no node any more", Args: between(0, 0, ""),
		Long: `leave stops the agent of this Mac and takes away what starts it, whoever installed it: a token or an operator's
mlxctl up. Its cluster lists it as down until mlxctl nodes rm there.`,
		Example: `  mlxctl agent leave
  mlxctl agent leave --purge`,
		Annotations: exits("0", "1", "2"),
		RunE:        func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, objectFormats()...)
	cmd.Flags().BoolVar(&opts.purge, "purge", false, "also remove the node's key, binaries, Python packages and logs")
	return cmd
}

func runAgentLeave(ctx context.Context, opts *leaveOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	home, err := opts.nodeHome()
	if err != nil {
		return err
	}
	r := leaveResult{Home: home, Purged: opts.purge}
	if _, err := os.Stat(filepath.Join(home, "agent", "node.json")); err != nil {
		return cluster.Errorf(cluster.CodeConflict, "this Mac is no node: there is none in %s", home).
			WithHint("MLXCTL_HOME names another folder")
	}
	if local, _, err := readLocal(home); err != nil || local != nil {
		if err == nil {
			err = cluster.Errorf(cluster.CodeConflict, "%s is the home of a controller", home).WithHint("`mlxctl down --purge` ends it")
		}
		return err
	}
	done, err := opts.hostHere(ctx, opts.exe, "", plan.Order{
		Action: plan.Uninstall, Operator: operatorName(), Home: home, Purge: opts.purge,
	})
	if err != nil {
		return err
	}
	r.Stopped = done.Changed
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, r)
	}
	if !r.Stopped {
		return opts.say("nothing ran")
	}
	return opts.say("this Mac is no node any more")
}
