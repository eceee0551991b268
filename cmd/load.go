package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
)

type loadOptions struct {
	*deps
	output *outputFlags
	model  string
	node   string
	pin    bool
	force  bool
}

// loadResult is the shape of `load -o json` and `unload -o json`.
type loadResult struct {
	Model    string         `json:"model"`
	Node     cluster.NodeID `json:"node,omitempty"`
	NodeName string         `json:"node_name,omitempty"`
	Loaded   bool           `json:"loaded"`
	Pinned   bool           `json:"pinned,omitempty"`
}

func newLoad(d *deps, runF func(context.Context, *loadOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLoad
	}
	opts := &loadOptions{deps: d}
	cmd := loadCommand(d, opts, "load MODEL", "Bring a model into memory", runF)
	cmd.Flags().BoolVar(&opts.pin, "pin", false, "keep it there, idle or not; --pin=false lets it go again")
	return cmd
}

func newUnload(d *deps, runF func(context.Context, *loadOptions) error) *cobra.Command {
	if runF == nil {
		runF = runUnload
	}
	opts := &loadOptions{deps: d}
	cmd := loadCommand(d, opts, "unload MODEL", "Take a model out of memory", runF)
	cmd.Flags().BoolVar(&opts.force, "force", false, "even while it answers requests, which then fail")
	return cmd
}

func loadCommand(d *deps, opts *loadOptions, use, short string, runF func(context.Context, *loadOptions) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: exactly(1, "the model"),
		Annotations:       exits("0", "1", "2", "4", "5", "6", "7"),
		ValidArgsFunction: completeModels(d),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.model = args[0]
			return runF(cmd.Context(), opts)
		},
	}
	opts.output = addOutput(cmd, objectFormats()...)
	cmd.Flags().StringVar(&opts.node, "node", "", "only on this node")
	_ = cmd.RegisterFlagCompletionFunc("node", completeNodes(d)) // fails only for a flag that is not there
	return cmd
}

func runLoad(ctx context.Context, opts *loadOptions) error {
	return opts.act(ctx, func(ctx context.Context, c clusterClient, model string, node cluster.NodeID) error {
		if err := opts.say("loading %s…", model); err != nil {
			return err
		}
		return c.Load(ctx, model, node, opts.pin)
	}, loadResult{Loaded: true, Pinned: opts.pin}, "%s is loaded")
}

func runUnload(ctx context.Context, opts *loadOptions) error {
	return opts.act(ctx, func(ctx context.Context, c clusterClient, model string, node cluster.NodeID) error {
		return c.Unload(ctx, model, node, opts.force)
	}, loadResult{}, "%s is unloaded")
}

// act does something with one model and says that it was done.
func (opts *loadOptions) act(ctx context.Context, do func(context.Context, clusterClient, string, cluster.NodeID) error,
	result loadResult, done string,
) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	model, err := modelName(opts.model, opts.env)
	if err != nil {
		return err
	}
	cfg, err := opts.config(nil)
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx, cfg.Timeout)
	defer cancel()
	var node cluster.NodeID
	err = opts.patiently(ctx, cfg, func(c clusterClient) (bool, error) {
		if opts.node != "" {
			n, err := lookUpNode(ctx, c, opts.node)
			if err != nil {
				return false, err
			}
			node, result.NodeName = n.ID, n.Name
		}
		return false, do(ctx, c, model, node)
	})
	if err != nil {
		return err
	}
	if out.Format != printer.Table {
		result.Model, result.Node = model, node
		return printer.Object(opts.streams.Out, out.Format, result)
	}
	return opts.say(done, model)
}
