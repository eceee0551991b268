// Package cmd holds the commands of mlxctl, one file each, and wires everything else together. Main runs one command
// line and returns its exit code; nothing here is global, so that tests run many of them in one process.
package cmd

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// Build says what this binary was made from.
type Build struct{ Version, Commit string }

// Main runs the command line of this process and returns its exit code.
func Main(b Build) int {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	d := &deps{
		streams: iostreams.System(),
		build:   b.orDefault(),
		env:     os.LookupEnv,
		exe:     exe,
		engine:  pythonEngine{},
	}
	d.installNode = d.installHere
	d.around = d.wiredSurroundings()
	return run(d, os.Args[1:])
}

// deps is what commands are given.
type deps struct {
	streams *iostreams.IOStreams
	build   Build
	env     config.Environ
	exe     string // this binary
	engine  engine
	// installNode has this machine run its node in the background, with those settings and its signed key, and says how; nil
	// leaves the start to the user.
	installNode func(ctx context.Context, home, jwt string, s plan.Settings, kind plan.UnitKind) (how string, err error)
	// dial, where it is set, takes the place of the way to a real cluster.
	dial func(context.Context, *config.Config) (clusterClient, error)
	// noHelp is why there was no help to show.
	noHelp error
	// around is where doctor learns of other Macs; the zero value has the network and the roster.
	around surroundings
	// parts, where they are set, take the place of discovery, SSH and the list of nodes.
	parts *parts

	// Settings of every command.
	flags *pflag.FlagSet // those that are also settings
	quiet bool
	// verbose counts -v.
	verbose int
}

// run executes one command line.
func run(d *deps, args []string) int { return runWith(context.Background(), d, args) }

// runWith executes one command line in a context of the caller's.
func runWith(parent context.Context, d *deps, args []string) int {
	ctx, stop := withSignals(parent)
	defer stop()
	root := newRoot(d)
	root.SetArgs(args)
	root.SetIn(d.streams.In)
	root.SetOut(d.streams.Out)
	root.SetErr(d.streams.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = d.noHelp
	}
	if err == nil {
		return exitDone
	}
	code := exitCode(ctx, err)
	if !errors.As(err, new(silentError)) && !isSignalled(ctx) {
		report(d, cmd, args, err)
	}
	return code
}

// report tells the user what went wrong.
func report(d *deps, cmd *cobra.Command, args []string, err error) {
	format := printer.Table
	if wantsJSON(args) {
		format = printer.JSON
	}
	name := ""
	if path := strings.Fields(cmd.CommandPath()); len(path) > 1 {
		name = strings.Join(path[1:], " ")
	}
	if errors.As(err, new(*usageError)) && cluster.AsError(err).Hint == "" {
		usage := cluster.Errorf(cluster.CodeInvalid, "%s", err.Error())
		if !errors.As(err, new(*fs.PathError)) { // of a file no help says more
			usage = usage.WithHint("see `%s --help`", strings.TrimSpace("mlxctl "+name))
		}
		err = &usageError{usage}
	}
	_ = printer.Error(d.streams.Err, format, name, err) // there is nobody left to tell
}

// wantsJSON looks for the output format in a command line that may not even parse.
func wantsJSON(args []string) bool {
	for i, a := range args {
		switch {
		case a == "--":
			return false
		case a == "--json", strings.HasPrefix(a, "--output=json"), strings.HasPrefix(a, "-ojson"), strings.HasPrefix(a, "-o=json"):
			return true
		case (a == "-o" || a == "--output") && i+1 < len(args):
			return strings.HasPrefix(args[i+1], "json")
		}
	}
	return false
}

// withSignals ends the context at the first SIGINT or SIGTERM, with the signal as its cause; the second one ends the
// process at once.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(signalError{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
		<-done
	}
}

func isSignalled(ctx context.Context) bool {
	var s signalError
	return errors.As(context.Cause(ctx), &s)
}

func newRoot(d *deps) *cobra.Command {
	root := &cobra.Command{
		Use:   "mlxctl",
		Short: "One inference service out of many Macs",
		Long: `mlxctl turns the Macs of a team into one inference service: models run where there is room, and every
program that speaks the OpenAI API can use them.`,
		Example: `  mlxctl up
  mlxctl run tiny "Count from 1 to 20."
  eval "$(mlxctl env)"`,
		Version:       d.build.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return d.applyColor()
		},
		RunE: unknownCommand,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(helpTemplate)
	refuseHelp(d, root)
	root.SetVersionTemplate("mlxctl {{.Version}}\n")
	f := root.PersistentFlags()
	f.String("context", "", "cluster to talk to")
	f.Duration("timeout", 0, "give up after this long; 0 leaves it to the command")
	f.String("color", "auto", "colour: auto, always or never")
	f.BoolVarP(&d.quiet, "quiet", "q", false, "say nothing but results and errors")
	f.CountVarP(&d.verbose, "verbose", "v", "say more; twice for debugging")
	d.flags = f
	for _, c := range commands(d) {
		root.AddCommand(c)
	}
	root.AddCommand(helpTopics()...)
	root.SetHelpCommand(newHelp(root))
	root.InitDefaultHelpCmd()
	return root
}

// commands lists every command; hidden ones last.
func commands(d *deps) []*cobra.Command {
	return []*cobra.Command{
		newUp(d, nil),
		newDown(d, nil),
		newRun(d, nil),
		newPs(d, nil),
		newNodes(d, nil),
		newUpgrade(d, nil),
		newModels(d, nil),
		newLoad(d, nil),
		newUnload(d, nil),
		newDrain(d, nil),
		newUndrain(d, nil),
		newTop(d, nil),
		newLogs(d, nil),
		newToken(d, nil),
		newKeys(d, nil),
		newDoctor(d, nil),
		newEnv(d, nil),
		newContext(d),
		newConfig(d),
		newCompletion(d),
		newVersion(d, nil),
		newController(d),
		newAgent(d),
		newKeep(d),
	}
}

// unknownCommand is what a command with subcommands does by itself.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var known []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			known = append(known, c.Name())
		}
	}
	if does := doneBy(cmd, args[0]); does != "" {
		return usageHint("did you mean `"+does+"`?", "unknown command %q", args[0])
	}
	if near := cluster.Nearest(args[0], known); len(near) > 0 {
		return usageHint("did you mean `"+cmd.CommandPath()+" "+near[0]+"`?", "unknown command %q", args[0])
	}
	return usageHint("see `"+cmd.CommandPath()+" --help`", "unknown command %q", args[0])
}

// group makes a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: unknownCommand}
	c.AddCommand(children...)
	return c
}

// dirs finds the folders of the home in use.
func (d *deps) dirs() (config.Dirs, error) {
	dirs, err := config.Locate(d.env, runtime.GOOS)
	if err != nil {
		return dirs, &usageError{err}
	}
	return dirs, nil
}

// config reads the settings; flags of the running command that are settings too are among them.
func (d *deps) config(local *pflag.FlagSet) (*config.Config, error) {
	dirs, err := d.dirs()
	if err != nil {
		return nil, err
	}
	given := map[string]string{}
	for _, set := range []*pflag.FlagSet{d.flags, local} {
		if set == nil {
			continue
		}
		set.VisitAll(func(f *pflag.Flag) {
			name := strings.ReplaceAll(f.Name, "-", "_")
			if _, ok := config.Lookup(name); ok && f.Changed {
				given[name] = f.Value.String()
			}
		})
	}
	return config.Load(config.Options{Dirs: dirs, Env: d.env, Flags: given})
}

// applyColor needs no valid file: an error in it is for the command to report.
func (d *deps) applyColor() error {
	when := d.flags.Lookup("color").Value.String()
	origin := "--color"
	if v, ok := d.env("MLXCTL_COLOR"); ok && v != "" && !d.flags.Changed("color") {
		when, origin = v, "MLXCTL_COLOR"
	}
	if c, err := d.config(nil); err == nil {
		when = c.Color
	}
	if !slices.Contains([]string{"auto", "always", "never"}, when) {
		return usagef("%s must be auto, always or never, not %q", origin, when)
	}
	d.streams.SetColor(when)
	return nil
}

// log is what commands say when they are asked to say more. Daemons have their own.
func (d *deps) log() *slog.Logger {
	var level slog.Level
	switch {
	case d.quiet:
		level = slog.LevelError
	case d.verbose == 1:
		level = slog.LevelInfo
	case d.verbose > 1:
		level = slog.LevelDebug
	default:
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(d.streams.Err, &slog.HandlerOptions{Level: level}))
}

// Args checks that say what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return between(n, n, what)
}

func between(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least && what != "":
			return usagef("%s is missing", what)
		case len(args) > most:
			return usagef("unexpected argument %q", args[most])
		}
		return nil
	}
}
