package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// defaultKeyGrace is how long an API key that was replaced is accepted.
const defaultKeyGrace = 10 * time.Minute

type keysOptions struct {
	*deps
	output *outputFlags
	grace  time.Duration
	force  bool
}

// apiKeyResult is the shape of `keys rotate api -o json`.
type apiKeyResult struct {
	APIKey string `json:"api_key"`
	// FormerUntil is when the key before ends; nil where it has ended.
	FormerUntil *time.Time `json:"former_until,omitempty"`
}

func newKeys(d *deps, runF func(context.Context, *keysOptions) error) *cobra.Command {
	rotate := group("rotate", "Replace keys while everything runs",
		newRotateAPI(d, runF), newRotateSigning(d, runF), newRotateNodes(d, runF))
	return group("keys", "Replace the cluster's keys", rotate)
}

func keysCommand(d *deps, opts *keysOptions, cmd *cobra.Command, runF, usual func(context.Context, *keysOptions) error) *cobra.Command {
	if runF == nil {
		runF = usual
	}
	opts.deps = d
	cmd.Args = between(0, 0, "")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) }
	return cmd
}

func newRotateAPI(d *deps, runF func(context.Context, *keysOptions) error) *cobra.Command {
	opts := &keysOptions{}
	cmd := keysCommand(d, opts, &cobra.Command{
		Use: "api", Short: "Replace the key of the HTTP API",
		Long:        "api makes another API key. The one before is accepted for the time of --grace, in which clients can be given the new\none: `mlxctl env` prints it.",
		Annotations: exits("0", "1", "2", "6", "7"),
	}, runF, runRotateAPI)
	opts.output = addOutput(cmd, objectFormats()...)
	cmd.Flags().DurationVar(&opts.grace, "grace", defaultKeyGrace, "how long the key before is accepted; 0 ends it at once, and all before it")
	return cmd
}

func runRotateAPI(_ context.Context, opts *keysOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	if opts.grace < 0 {
		return usagef("--grace must not be negative")
	}
	c, err := opts.ownCluster()
	if err != nil {
		return err
	}
	now := time.Now()
	key, err := c.authority.RotateAPIKey(now, opts.grace)
	if err != nil {
		return err
	}
	r := apiKeyResult{APIKey: key}
	if opts.grace > 0 {
		until := now.Add(opts.grace).UTC().Truncate(time.Second)
		r.FormerUntil = &until
	}
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, r)
	}
	if opts.grace > 0 {
		err = opts.say("the key before is accepted for another %s", opts.grace)
	} else {
		err = opts.say("the key before is accepted no more")
	}
	if err != nil {
		return err
	}
	if _, err := io.WriteString(opts.streams.Out, key+"\n"); err != nil {
		return fmt.Errorf("print key: %w", err)
	}
	return nil
}

func newRotateSigning(d *deps, runF func(context.Context, *keysOptions) error) *cobra.Command {
	opts := &keysOptions{}
	cmd := keysCommand(d, opts, &cobra.Command{
		Use: "signing", Short: "Replace the key that signs nodes and clients",
		Long: `signing makes another signing key, has every node take a token signed with it, and then ends the one before. While a node
cannot be reached the key before stays good; run it again when the node is back, or let it go with --force.`,
		Annotations: exits("0", "1", "2", "3", "6", "7"),
	}, runF, runRotateSigning)
	opts.output = addOutput(cmd, listFormats()...)
	cmd.Flags().BoolVar(&opts.force, "force", false, "end the key before though some nodes cannot be reached; they have to be added anew")
	return cmd
}

func newRotateNodes(d *deps, runF func(context.Context, *keysOptions) error) *cobra.Command {
	opts := &keysOptions{}
	cmd := keysCommand(d, opts, &cobra.Command{
		Use: "nodes", Short: "Replace the keys of the nodes",
		Long: `nodes has each node, one after the other, make another key and use that; the one before is revoked. Nodes that cannot be
reached keep theirs.`,
		Annotations: exits("0", "1", "2", "3", "6", "7"),
	}, runF, runRotateNodes)
	opts.output = addOutput(cmd, listFormats()...)
	return cmd
}

func runRotateSigning(ctx context.Context, opts *keysOptions) error {
	return opts.rotate(ctx, func(ctx context.Context, r *rotation) ([]rotated, error) { return r.signing(ctx, opts.force) })
}

func runRotateNodes(ctx context.Context, opts *keysOptions) error {
	return opts.rotate(ctx, func(ctx context.Context, r *rotation) ([]rotated, error) { return r.nodeKeys(ctx) })
}

// rotate does something with every node and tells what came of it.
func (opts *keysOptions) rotate(ctx context.Context, do func(context.Context, *rotation) ([]rotated, error)) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	c, info, err := opts.runningCluster()
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx, c.cfg.Timeout)
	defer cancel()
	release, err := opts.acquireNodes(ctx, c.home)
	if err != nil {
		return err
	}
	defer release()
	list := roster.Open(rosterPath(c.home))
	if err := settlePending(c.home, list, c.authority); err != nil {
		return err
	}
	r := &rotation{
		authority: c.authority, roster: list, own: localNode(c.home),
		bus: func() bus.Options { return embeddedBus(c.authority, info.NATS) },
		live: func(ctx context.Context) ([]cluster.Node, error) {
			s, err := opts.snapshot(ctx)
			if err != nil {
				return nil, err
			}
			return s.Nodes, nil
		},
		log: opts.log(),
	}
	results, err := do(ctx, r)
	if printErr := opts.tellRotated(out, results); printErr != nil {
		return errors.Join(err, printErr)
	}
	return err
}

func (opts *keysOptions) tellRotated(out printer.Options, results []rotated) error {
	list := printer.List[rotated]{
		Name:  wordOf(results, func(r rotated) (string, cluster.NodeID) { return r.Name, r.Node }),
		Empty: "no nodes",
		Columns: []printer.Column[rotated]{
			{Header: "NAME", Value: func(r rotated) string { return r.Name }},
			{Header: "STATE", Value: func(r rotated) string { return r.State }},
			{Header: "ID", Wide: true, Value: func(r rotated) string { return string(r.Node) }},
			{Header: "REASON", Value: func(r rotated) string {
				if r.Error == nil {
					return ""
				}
				return r.Error.Message
			}},
		},
	}
	return list.Print(opts.streams, out, results)
}
