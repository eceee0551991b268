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
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/logtail"
	"github.com/mlxctl/mlxctl/internal/printer"
)

type logsOptions struct {
	*deps
	what   string
	source string
	follow bool
	tail   int
	since  time.Duration
}

func newLogs(d *deps, runF func(context.Context, *logsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLogs
	}
	opts := &logsOptions{deps: d}
	cmd := &cobra.Command{
		Use:   "logs [SERVICE | NODE | REQUEST]",
		Short: "Show what services and nodes log",
		Long: `logs shows the end of a log. SERVICE is keeper, controller, agent or worker-MODEL of this machine; without one,
controller and agent are shown together. A node's name shows its agent's log, asked for over the cluster's own bus. Anything
else is taken for a request's id: it shows a line for each answer to it, of the last 1,024 that ended and of those under way,
and the lines of this machine's services that name it.`,
		Example: `  mlxctl logs -f
  mlxctl logs controller --since 10m
  mlxctl logs studio-2 --source worker-small`,
		Args: between(0, 1, ""), Annotations: exits("0", "1", "2", "4", "6", "7", "130"),
		ValidArgsFunction: completeLogs(d),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				opts.what = args[0]
			}
			return runF(cmd.Context(), opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.follow, "follow", "f", false, "go on as the log grows")
	f.IntVarP(&opts.tail, "tail", "n", 50, "lines from the end; 0 for all")
	f.DurationVar(&opts.since, "since", 0, "only lines of this long ago or less")
	f.StringVar(&opts.source, "source", "agent", "of a NODE: agent, or worker-MODEL")
	return cmd
}

func runLogs(ctx context.Context, opts *logsOptions) error {
	if opts.tail < 0 || opts.since < 0 {
		return usagef("--tail and --since must not be negative")
	}
	home, err := opts.logHome()
	if err != nil {
		return err
	}
	sources, err := localLogs(home)
	if err != nil {
		return err
	}
	p := opts.newPrinter()
	switch {
	case opts.what == "":
		var files []string
		for _, s := range []string{"controller", "agent"} {
			if slices.Contains(sources, s) {
				files = append(files, s)
			}
		}
		if len(files) == 0 {
			return notRunning(home)
		}
		return opts.showLocal(ctx, home, files, true, p)
	case slices.Contains(sources, opts.what):
		return opts.showLocal(ctx, home, []string{opts.what}, false, p)
	}
	return opts.showRemote(ctx, home, sources, p)
}

// logHome is the home of the context in use. A cluster elsewhere has no files here; its nodes are asked by name.
func (opts *logsOptions) logHome() (string, error) {
	cfg, err := opts.config(nil)
	if err != nil && !opts.flags.Changed("context") {
		dirs, dirsErr := opts.dirs() // what is logged helps to mend a configuration
		return dirs.Home, dirsErr
	}
	if err != nil {
		return "", err
	}
	if !isLocal(cfg) && opts.what == "" {
		return "", usageHint("`mlxctl nodes` lists them", "context %s is not of this machine; name one of its nodes", cfg.Context)
	}
	return homeOf(cfg), nil
}

// showRemote asks a node for its log; a name that no node has may be a request's, which the controller is asked about. Where
// the cluster cannot be asked, the lines of this machine's logs that name it are shown all the same.
func (opts *logsOptions) showRemote(ctx context.Context, home string, sources []string, p *linePrinter) error {
	cfg, err := opts.config(nil)
	if err != nil {
		return err
	}
	c, err := opts.connect(ctx, cfg)
	if err == nil {
		defer c.Close()
		var node cluster.NodeID
		if node, err = findNode(ctx, c, opts.what); err == nil {
			return c.Logs(ctx, logQuery{Node: node, Source: opts.source, Follow: opts.follow, Tail: opts.tail}, p.line)
		}
	}
	if _, isAmbiguous := errors.AsType[*usageError](err); isAmbiguous {
		return err
	}
	p.only = opts.what
	_, isNoNode := errors.AsType[*noSuchError](err)
	isKnown := false
	if isNoNode {
		if isKnown, err = opts.account(ctx, c, p); err != nil {
			return err
		}
	}
	found, searchErr := opts.search(ctx, home, sources, isKnown, p)
	switch {
	case searchErr != nil || found || isKnown:
		return searchErr
	case !isNoNode:
		return fmt.Errorf("ask the cluster about %q, which is no service here: %w", opts.what, err)
	}
	return &noSuchError{cluster.Errorf(cluster.CodeNoNode, "no service, node or request %q", opts.what).
		WithHint("services here: %s", strings.Join(sources, ", "))}
}

// account shows what the controller knows of a request.
func (opts *logsOptions) account(ctx context.Context, c clusterClient, p *linePrinter) (isKnown bool, err error) {
	err = c.Logs(ctx, logQuery{Request: cluster.RequestID(opts.what)}, func(line string) error {
		isKnown = true
		return p.line(fmt.Sprintf(logPrefix, "controller") + line)
	})
	return isKnown, err
}

// logPrefix sets off whose line it is where several are shown together.
const logPrefix = "%-10s | "

// search shows the lines of all local logs that name one request. found says that there were some before it followed. A
// request that isKnown is followed without any.
func (opts *logsOptions) search(ctx context.Context, home string, sources []string, isKnown bool, p *linePrinter) (found bool, err error) {
	var kept []string
	show := p.out
	p.out = func(line string) error { kept = append(kept, line); return nil }
	logs := tailsOf(home, sources, true, p)
	defer closeTails(logs)
	if err := lastOf(logs, 0, opts.follow); err != nil || len(kept) == 0 && !isKnown {
		return false, err
	}
	if opts.tail > 0 {
		kept = kept[max(0, len(kept)-opts.tail):]
	}
	for _, line := range kept {
		if err := show(line); err != nil {
			return true, err
		}
	}
	switch {
	case !opts.follow:
		return true, nil
	case len(logs) == 0:
		return true, usagef("this machine has no logs to follow")
	}
	p.out = show
	return true, logtail.Follow(ctx, logs...)
}

// localLogs names the logs of this home.
func localLogs(home string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(home, "log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list logs: %w", err)
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".log"); ok {
			out = append(out, name)
		}
	}
	return out, nil
}

// showLocal prints files of this home and, when following, what is added to them.
func (opts *logsOptions) showLocal(ctx context.Context, home string, names []string, named bool, p *linePrinter) error {
	logs := tailsOf(home, names, named, p)
	defer closeTails(logs)
	if err := lastOf(logs, opts.tail, opts.follow); err != nil || !opts.follow {
		return err
	}
	return logtail.Follow(ctx, logs...)
}

// tailsOf makes readers of logs of a home. named puts the name of its log before each line.
func tailsOf(home string, names []string, named bool, p *linePrinter) []*logtail.Tail {
	var logs []*logtail.Tail
	for _, name := range names {
		prefix := ""
		if named {
			prefix = fmt.Sprintf(logPrefix, name)
		}
		line := func(text string) error { return p.line(prefix + text) }
		logs = append(logs, logtail.New(logtail.Dir(filepath.Join(home, "log")), name+".log", line))
	}
	return logs
}

func closeTails(logs []*logtail.Tail) {
	for _, t := range logs {
		t.Close()
	}
}

// lastOf prints the last lines of each log, all for 0.
func lastOf(logs []*logtail.Tail, tail int, follows bool) error {
	for _, t := range logs {
		if err := t.Last(tail, follows); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have been removed since it was listed
			return err
		}
	}
	return nil
}

// linePrinter prints the lines that are wanted.
type linePrinter struct {
	out   func(string) error
	after time.Time // zero for all
	only  string    // lines that hold this
	// keep is what was decided for the last line that had a time: lines without one belong to it.
	keep bool
}

func (opts *logsOptions) newPrinter() *linePrinter {
	p := &linePrinter{keep: true, out: func(line string) error {
		_, err := io.WriteString(opts.streams.Out, printer.Clean(strings.ReplaceAll(line, "\t", "    "))+"\n")
		return err
	}}
	if opts.since > 0 {
		p.after, p.keep = time.Now().Add(-opts.since), false
	}
	return p
}

func (p *linePrinter) line(s string) error {
	if !p.after.IsZero() {
		if at, ok := lineTime(s); ok {
			p.keep = !at.Before(p.after)
		}
		if !p.keep {
			return nil
		}
	}
	if p.only != "" && !strings.Contains(s, p.only) {
		return nil
	}
	return p.out(s)
}

// lineTime finds the time that slog writes into a line.
func lineTime(s string) (time.Time, bool) {
	_, rest, ok := strings.Cut(s, "time=")
	if !ok {
		return time.Time{}, false
	}
	word, _, _ := strings.Cut(rest, " ")
	at, err := time.Parse(time.RFC3339Nano, word)
	return at, err == nil
}

func completeLogs(d *deps) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		dirs, err := d.dirs()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, _ := localLogs(dirs.Home)
		return append(names, d.seen().Nodes...), cobra.ShellCompDirectiveNoFileComp
	}
}
