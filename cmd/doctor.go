package cmd

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/doctor"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// hostTimeout bounds the look at one Mac: contact by SSH, which may have to wake it, and a worker's answer there.
const hostTimeout = 3 * time.Minute

// thisMac is what the operator's own machine is called.
func thisMac() string {
	if runtime.GOOS == "darwin" {
		return "this Mac"
	}
	return "this machine"
}

type doctorOptions struct {
	*deps
	output *outputFlags
	node   string
	strict bool
}

// doctorItem is the shape of one finding in JSON.
type doctorItem struct {
	Subject string `json:"subject"` // the Mac that it is about; "this Mac" for the operator's own
	plan.Finding
	TookMS int64 `json:"took_ms"` // of the check that found it, with others beside it
}

// doctorReport is the shape of `doctor -o json`.
type doctorReport struct {
	Items []doctorItem `json:"items"`
	OK    int          `json:"ok"`
	Warn  int          `json:"warn"`
	Fail  int          `json:"fail"`
	Skip  int          `json:"skip"`
}

func newDoctor(d *deps, runF func(context.Context, *doctorOptions) error) *cobra.Command {
	if runF == nil {
		runF = runDoctor
	}
	opts := &doctorOptions{deps: d}
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say why each Mac is or is not serving, and what mends it", Args: between(0, 0, ""),
		Long: `doctor looks at this Mac, at the network, and at every Mac that Bonjour, the configuration or the cluster knows of. It
changes nothing. Each line is one finding: ok, warn (it serves, but not as well as it could), fail (it does not serve because
of this) or skip (could not be looked at). What mends it follows in a line of its own. Of other Macs that serve only what is
not ok is shown; -v shows all.`,
		Example: `  mlxctl doctor
  mlxctl doctor --node studio-2
  mlxctl doctor --strict -o json`,
		Annotations: exits("0", "1", "2", "6", "130"),
		RunE:        func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, objectFormats()...)
	cmd.Flags().StringVar(&opts.node, "node", "", "look at this Mac alone, by name or id, and show all of it")
	cmd.Flags().BoolVar(&opts.strict, "strict", false, "count warnings as failures")
	return cmd
}

func runDoctor(ctx context.Context, opts *doctorOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	cfg, err := opts.config(nil)
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx, cfg.Timeout)
	defer cancel()
	progress := opts.streams.NewProgress(opts.quiet)
	defer progress.Close()
	progress.Step("looking at this machine and at the network")
	e := &examination{deps: opts.deps, cfg: cfg, home: homeOf(cfg)}
	results := doctor.Run(ctx, e.local(), 0)
	hosts := e.hosts()
	if opts.node == "" {
		results = append(results, e.network(hosts)...)
	} else if hosts, err = named(hosts, opts.node); err != nil {
		return err
	} else {
		results = nil
	}
	progress.Step("looking at %s", countOf(len(hosts), "host"))
	results = append(results, doctor.Run(ctx, e.each(hosts), 0)...)
	progress.Close()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	report := newReport(results)
	if err := opts.tell(out, report); err != nil {
		return err
	}
	if report.Fail > 0 || (opts.strict && report.Warn > 0) {
		return silentError{exitFailed}
	}
	return nil
}

// named finds the hosts that an operator means.
func named(hosts []doctor.Host, name string) ([]doctor.Host, error) {
	var known []string
	for _, h := range hosts {
		if string(h.Node) == name || isAny(name, h.Name, h.Host.Host, h.LocalName) || (h.Self && name == thisMac()) {
			return []doctor.Host{h}, nil
		}
		known = append(known, h.Label())
	}
	e := cluster.Errorf(cluster.CodeNoNode, "no Mac %q", name).WithHint("`mlxctl doctor` names those that are known")
	if near := cluster.Nearest(name, known); len(near) > 0 {
		e = e.WithHint("did you mean %q?", near[0])
	}
	return nil, &noSuchError{e}
}

// isAny says that a name is one of those, in whatever case.
func isAny(name string, of ...string) bool {
	return slices.ContainsFunc(of, func(s string) bool { return strings.EqualFold(s, name) })
}

func newReport(results []doctor.Result) doctorReport {
	r := doctorReport{Items: []doctorItem{}}
	for _, result := range results {
		for _, f := range result.Findings {
			subject := result.Subject
			if subject == "" {
				subject = thisMac()
			}
			r.Items = append(r.Items, doctorItem{Subject: subject, Finding: f, TookMS: result.Took.Milliseconds()})
			switch f.State {
			case plan.FindingOK:
				r.OK++
			case plan.FindingWarn:
				r.Warn++
			case plan.FindingFail:
				r.Fail++
			case plan.FindingSkip:
				r.Skip++
			}
		}
	}
	return r
}

func (opts *doctorOptions) tell(out printer.Options, r doctorReport) error {
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, r)
	}
	subjects, checks := 0, 0
	shown := slices.DeleteFunc(slices.Clone(r.Items), func(i doctorItem) bool {
		return i.State == plan.FindingOK && i.Subject != thisMac() && i.Check != checkServing && opts.node == "" && opts.verbose == 0
	})
	for i := range shown {
		shown[i].Subject, shown[i].Check = printer.Clean(shown[i].Subject), printer.Clean(shown[i].Check)
		subjects, checks = max(subjects, len([]rune(shown[i].Subject))), max(checks, len(shown[i].Check))
	}
	var b strings.Builder
	for _, i := range shown {
		fmt.Fprintf(&b, "%-4s  %-*s  %-*s  %s\n", i.State, subjects, i.Subject, checks, i.Check, printer.Clean(i.Message))
		if i.Fix != "" {
			fmt.Fprintf(&b, "      fix: %s\n", printer.Clean(i.Fix))
		}
	}
	fmt.Fprintf(&b, "\n%d ok, %d warn, %d fail, %d skip\n", r.OK, r.Warn, r.Fail, r.Skip)
	_, err := io.WriteString(opts.streams.Out, b.String())
	return err
}

// checksOfNode looks at the node of this machine. It is what the host's side of an installation is given to run.
func (d *deps) checksOfNode(ctx context.Context, home string) []plan.Finding {
	return doctor.Node(ctx, d.nodeOptions(home, config.Dirs{Home: home, Cache: filepath.Join(home, "cache")}))
}
