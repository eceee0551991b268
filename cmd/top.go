package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/tui"
)

type topOptions struct {
	*deps
	output   *outputFlags
	once     bool
	samples  int
	interval time.Duration
}

func newTop(d *deps, runF func(context.Context, *topOptions) error) *cobra.Command {
	if runF == nil {
		runF = runTop
	}
	opts := &topOptions{deps: d}
	cmd := &cobra.Command{
		Use: "top", Short: "Watch the cluster", Args: between(0, 0, ""),
		Long: `top shows nodes, models and requests as they change. Where stdout is no terminal it prints the state once, as
text or as one line of JSON a sample.`,
		Example: `  mlxctl top
  mlxctl top --once
  mlxctl top -n 10 --interval 500ms -o json`,
		Annotations: exits("0", "1", "2", "4", "6", "7"),
		RunE:        func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, printer.Table, printer.JSON)
	f := cmd.Flags()
	f.BoolVar(&opts.once, "once", false, "print the state once")
	f.IntVarP(&opts.samples, "samples", "n", 0, "print the state so many times")
	f.DurationVar(&opts.interval, "interval", time.Second, "between samples")
	return cmd
}

func runTop(ctx context.Context, opts *topOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	if opts.samples < 0 || (opts.once && opts.samples > 1) {
		return usagef("--samples must be 1 or more, and --once means 1")
	}
	if opts.interval < 100*time.Millisecond {
		return usagef("--interval must be 100ms or more")
	}
	cfg, err := opts.config(nil)
	if err != nil {
		return err
	}
	isDashboard := opts.streams.OutTTY() && opts.streams.InTTY() && out.Format == printer.Table && !opts.once && opts.samples == 0
	if !isDashboard {
		c, err := opts.connect(ctx, cfg)
		if err != nil {
			return err
		}
		defer c.Close()
		return opts.sample(ctx, c, out)
	}
	f := &lastingFeed{connect: func(ctx context.Context) (clusterClient, error) { return opts.connect(ctx, cfg) }}
	defer f.Close()
	if err := f.open(ctx); err != nil { // a cluster that is not there is an error, one that goes away is not
		return err
	}
	return tui.Run(ctx, tui.Options{Feed: f, Env: opts.screenEnv(os.Environ())})
}

// screenEnv is the environment by which the dashboard decides about colours, after what flag and settings say.
func (d *deps) screenEnv(env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "NO_COLOR=") })
	if !d.streams.OutColor() {
		env = append(env, "NO_COLOR=1")
	}
	return env
}

// sample prints the state again and again.
func (opts *topOptions) sample(ctx context.Context, c clusterClient, out printer.Options) error {
	// A stream of JSON goes on until it is stopped; text is for one look, unless more are asked for.
	samples := opts.samples
	if opts.once || (samples == 0 && (out.Format == printer.Table || !opts.streams.OutTTY())) {
		samples = max(samples, 1)
	}
	tick := time.NewTicker(opts.interval)
	defer tick.Stop()
	for i := 0; samples == 0 || i < samples; i++ {
		if i > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
		}
		askCtx, cancel := context.WithTimeout(ctx, askTimeout)
		s, err := c.Snapshot(askCtx)
		cancel()
		if err != nil {
			return err
		}
		if out.Format == printer.JSON {
			err = printer.Line(opts.streams.Out, s)
		} else {
			err = opts.text(s, i > 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// text prints one snapshot as tables: the whole, the nodes, the loaded models, the requests.
func (opts *topOptions) text(s *cluster.Snapshot, again bool) error {
	var b strings.Builder
	if again {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%s   %s   %d requests now   %d done   %d failed   %s tokens/s\n",
		printer.Clean(s.Cluster), s.At.UTC().Format(time.RFC3339), len(s.Requests), s.Totals.Finished, s.Totals.Failed,
		printer.Rate(s.Totals.TokensPerSecond))
	if _, err := io.WriteString(opts.streams.Out, b.String()); err != nil {
		return err
	}
	lists := &listOptions{deps: opts.deps}
	table := printer.Options{Format: printer.Table}
	for _, part := range []struct {
		rows int
		show func() error
	}{
		{1, func() error { return showNodes(lists, table, s) }},
		{replicas(s), func() error { return showReplicas(lists, table, s) }},
		{len(s.Requests), func() error { return showRequests(lists, table, s) }},
	} {
		if part.rows == 0 {
			continue
		}
		if _, err := io.WriteString(opts.streams.Out, "\n"); err != nil {
			return err
		}
		if err := part.show(); err != nil {
			return err
		}
	}
	return nil
}

func replicas(s *cluster.Snapshot) int {
	n := 0
	for i := range s.Nodes {
		n += len(s.Nodes[i].Replicas)
	}
	return n
}

func showRequests(opts *listOptions, out printer.Options, s *cluster.Snapshot) error {
	names := map[cluster.NodeID]string{}
	for _, n := range s.Nodes {
		names[n.ID] = n.Name
	}
	list := printer.List[cluster.RequestStatus]{
		Name: func(r cluster.RequestStatus) string { return string(r.ID) },
		Columns: []printer.Column[cluster.RequestStatus]{
			{Header: "REQUEST", Value: func(r cluster.RequestStatus) string { return string(r.ID) }},
			{Header: "MODEL", Value: func(r cluster.RequestStatus) string { return r.Model }},
			{Header: "NODE", Value: func(r cluster.RequestStatus) string { return names[r.Node] }},
			{Header: "STATE", Value: func(r cluster.RequestStatus) string { return string(r.State) }},
			{Header: "TOKENS", Right: true, Value: func(r cluster.RequestStatus) string { return strconv.Itoa(r.Tokens) }},
			{Header: "AGE", Right: true, Value: func(r cluster.RequestStatus) string { return printer.Age(s.At.Sub(r.Since)) }},
		},
	}
	return list.Print(opts.streams, out, s.Requests)
}
