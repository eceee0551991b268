package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/service"
)

// drainLimit is how long drain waits for what runs, unless --timeout says otherwise.
const drainLimit = 10 * time.Minute

type drainOptions struct {
	*deps
	output *outputFlags
	nodes  []string
	on     bool
	noWait bool
}

// drainResult is the shape of one node in `drain -o json` and `undrain -o json`.
type drainResult struct {
	Node     cluster.NodeID `json:"node"`
	Name     string         `json:"name"`
	Drained  bool           `json:"drained"` // it takes nothing new
	Requests int            `json:"requests"`
	Error    *cluster.Error `json:"error,omitempty"`
}

func newDrain(d *deps, runF func(context.Context, *drainOptions) error) *cobra.Command {
	opts := &drainOptions{deps: d, on: true}
	cmd := drainCommand(d, opts, &cobra.Command{
		Use: "drain NODE…", Short: "Have nodes finish what they have and take nothing new",
		Long: `drain takes nodes out of service without breaking an answer: new requests go to other nodes, those that run there
finish. It waits until nothing runs, for 10 minutes or --timeout. A node stays drained, also when its agent or its Mac
starts again, until undrain.`,
		Example: `  mlxctl drain studio-2
  mlxctl drain studio-2 mini-1 --timeout 1h
  mlxctl drain studio-2 --no-wait`,
	}, runF)
	cmd.Flags().BoolVar(&opts.noWait, "no-wait", false, "do not wait for what runs there")
	return cmd
}

func newUndrain(d *deps, runF func(context.Context, *drainOptions) error) *cobra.Command {
	return drainCommand(d, &drainOptions{deps: d, noWait: true}, &cobra.Command{
		Use: "undrain NODE…", Short: "Have drained nodes take requests again",
	}, runF)
}

func drainCommand(d *deps, opts *drainOptions, cmd *cobra.Command, runF func(context.Context, *drainOptions) error) *cobra.Command {
	if runF == nil {
		runF = runDrain
	}
	cmd.Args = atLeastOne("the node")
	cmd.Annotations = exits("0", "1", "2", "3", "4", "6", "7")
	cmd.ValidArgsFunction = completeNodes(d)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opts.nodes = args
		return runF(cmd.Context(), opts)
	}
	opts.output = addOutput(cmd, objectFormats()...)
	return cmd
}

// atLeastOne wants one argument or more.
func atLeastOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s is missing", what)
		}
		return nil
	}
}

func runDrain(ctx context.Context, opts *drainOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	cfg, err := opts.config(nil)
	if err != nil {
		return err
	}
	c, err := opts.connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	results, err := findNodes(ctx, c, opts.nodes)
	if err != nil {
		return err
	}
	for i := range results {
		results[i].switchTo(ctx, c, opts.on)
	}
	if err := opts.own(ctx, cfg, results); err != nil {
		return err
	}
	if !opts.noWait {
		ctx, cancel := context.WithTimeout(ctx, cmp.Or(cfg.Timeout, drainLimit))
		defer cancel()
		if err := opts.await(ctx, c, results); err != nil {
			return err
		}
	}
	return opts.tell(out, results)
}

// own has the drain of nodes be a person's from now on, where a command that was killed had begun it. While one is at work,
// what it has drained is its own to undo.
func (opts *drainOptions) own(ctx context.Context, cfg *config.Config, results []drainResult) error {
	if cfg.Context != config.LocalContext {
		return nil
	}
	soon, cancel := context.WithTimeout(ctx, lockSoon)
	defer cancel()
	release, err := service.Lock(soon, cfg.Dirs.Home, nodesLock)
	if err != nil {
		return nil //nolint:nilerr // somebody else has it
	}
	defer release()
	r := opts.lanParts().roster(rosterPath(cfg.Dirs.Home))
	for i := range results {
		if n, err := r.Find(string(results[i].Node)); err == nil && n.Drained != "" {
			if err := setDrained(r, n.ID, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// findNodes turns names into nodes, all of them before anything is done.
func findNodes(ctx context.Context, c clusterClient, names []string) ([]drainResult, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := c.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var out []drainResult
	for _, name := range names {
		n, err := nodeNamed(s, name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(r drainResult) bool { return r.Node == n.ID }) {
			out = append(out, drainResult{Node: n.ID, Name: cmp.Or(n.Name, string(n.ID))})
		}
	}
	return out, nil
}

func (r *drainResult) switchTo(ctx context.Context, c clusterClient, on bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := c.Drain(ctx, r.Node, on); err != nil {
		r.Error = cluster.AsError(err)
		return
	}
	r.Drained = on
}

// await waits until nothing runs on the drained nodes, and says what it waits for. The end of the time is no error of
// its own: the results say what is left.
func (opts *drainOptions) await(ctx context.Context, c clusterClient, results []drainResult) error {
	if !slices.ContainsFunc(results, func(r drainResult) bool { return r.Drained }) {
		return nil
	}
	feed, err := c.Watch(ctx)
	if err != nil {
		return err
	}
	progress := opts.streams.NewProgress(opts.quiet)
	defer progress.Close()
	for {
		s, _, err := feed.Next(ctx)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if s == nil {
			continue
		}
		waits := countWork(s, results)
		if len(waits) == 0 {
			return nil
		}
		progress.Step("waiting for what runs: %s", strings.Join(waits, ", "))
	}
}

// countWork notes what the drained nodes still have, and returns it in words.
func countWork(s *cluster.Snapshot, results []drainResult) []string {
	var waits []string
	for i := range results {
		r := &results[i]
		if r.Drained {
			r.Requests = s.Open(r.Node)
		}
		if r.Requests > 0 {
			waits = append(waits, fmt.Sprintf("%s on %s", countOf(r.Requests, "request"), r.Name))
		}
	}
	return waits
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// tell shows what came of it. Where only some nodes did what they should, or work is left, the command is partly done.
func (opts *drainOptions) tell(out printer.Options, results []drainResult) error {
	failed, left := 0, 0
	for i := range results {
		if results[i].Error != nil {
			failed++
		}
		if results[i].Requests > 0 {
			left++
		}
	}
	if failed == len(results) && failed == 1 {
		return results[0].Error
	}
	if out.Format != printer.Table {
		err := printer.Object(opts.streams.Out, out.Format, struct {
			Items []drainResult `json:"items"`
		}{results})
		if err != nil {
			return err
		}
	} else if err := opts.sayEach(results); err != nil {
		return err
	}
	switch {
	case failed == len(results):
		return silentError{exitOfCode(results[0].Error.Code)}
	case failed+left > 0:
		return silentError{exitPartial}
	}
	return nil
}

func (opts *drainOptions) sayEach(results []drainResult) error {
	for i := range results {
		r := &results[i]
		var err error
		switch {
		case r.Error != nil:
			_, err = fmt.Fprintf(opts.streams.Err, "%s: %s\n", r.Name, r.Error.Message) // also when quiet
		case r.Requests > 0:
			_, err = fmt.Fprintf(opts.streams.Err, "%s drains, but still has %s\n", r.Name, countOf(r.Requests, "request"))
		case !opts.on:
			err = opts.say("%s takes requests again", r.Name)
		case opts.noWait:
			err = opts.say("%s drains", r.Name)
		default:
			err = opts.say("%s is drained", r.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
