package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/printer"
)

func newContext(d *deps) *cobra.Command {
	return group("context", "Choose the cluster that commands talk to",
		newContextLs(d, nil), newContextUse(d, nil), newContextAdd(d, nil), newContextRm(d, nil), newContextShow(d, nil))
}

// contextItem is the shape of one context in JSON.
type contextItem struct {
	config.Context
	Current bool `json:"current"`
}

type contextLsOptions struct {
	*deps
	output *outputFlags
}

func newContextLs(d *deps, runF func(context.Context, *contextLsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContextLs
	}
	opts := &contextLsOptions{deps: d}
	cmd := &cobra.Command{
		Use: "ls", Short: "List contexts", Args: between(0, 0, ""), Annotations: exits("0", "1", "2", "6"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, listFormats()...)
	return cmd
}

func runContextLs(_ context.Context, opts *contextLsOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	c, err := opts.config(nil)
	if err != nil {
		return err
	}
	items := []contextItem{{config.Context{Name: config.LocalContext, Home: c.Dirs.Home}, c.Context == config.LocalContext}}
	for _, x := range c.Contexts {
		items = append(items, contextItem{x.Redacted(), x.Name == c.Context})
	}
	list := printer.List[contextItem]{
		Name: func(x contextItem) string { return x.Name },
		Columns: []printer.Column[contextItem]{
			{Header: "CURRENT", Value: func(x contextItem) string { return map[bool]string{true: "*"}[x.Current] }},
			{Header: "NAME", Value: func(x contextItem) string { return x.Name }},
			{Header: "CLUSTER", Value: func(x contextItem) string {
				if x.Home != "" {
					return x.Home
				}
				return x.NATSURL
			}},
			{Header: "API", Wide: true, Value: func(x contextItem) string { return x.HTTPURL }},
			{Header: "CREDENTIALS", Wide: true, Value: func(x contextItem) string { return x.NATSCreds }},
		},
	}
	return list.Print(opts.streams, out, items)
}

type contextNameOptions struct {
	*deps
	name string
}

func newContextUse(d *deps, runF func(context.Context, *contextNameOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContextUse
	}
	opts := &contextNameOptions{deps: d}
	return &cobra.Command{
		Use: "use NAME", Short: "Make one context the default; - is the one before", Args: exactly(1, "the context's name"),
		Annotations: exits("0", "1", "2", "6"), ValidArgsFunction: completeContexts(d),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.name = args[0]
			return runF(cmd.Context(), opts)
		},
	}
}

func runContextUse(_ context.Context, opts *contextNameOptions) error {
	dirs, err := opts.dirs()
	if err != nil {
		return err
	}
	former := filepath.Join(dirs.Home, "former-context")
	name := opts.name
	if name == "-" {
		data, err := os.ReadFile(former)
		if errors.Is(err, fs.ErrNotExist) {
			return usagef("there is no context before this one")
		}
		if err != nil {
			return fmt.Errorf("read former context: %w", err)
		}
		name = strings.TrimSpace(string(data))
	}
	// The file alone counts: --context and MLXCTL_CONTEXT are for one command.
	if err := config.CheckContext(dirs.File, name); err != nil {
		return err
	}
	before, _ := config.Load(config.Options{Dirs: dirs, Env: noEnv}) // none where the one in the file is gone
	if err := config.Set(dirs.File, "context", name); err != nil {
		return err
	}
	if before != nil && before.Context != name {
		if err := config.WriteFile(former, []byte(before.Context+"\n")); err != nil {
			return err
		}
	}
	return opts.say("context %s is in use", name)
}

func noEnv(string) (string, bool) { return "", false }

type contextAddOptions struct {
	*deps
	context config.Context
	use     bool
}

func newContextAdd(d *deps, runF func(context.Context, *contextAddOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContextAdd
	}
	opts := &contextAddOptions{deps: d}
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Add a cluster that is somewhere else", Args: exactly(1, "the context's name"),
		Example: `  mlxctl context add studio --home ~/clusters/studio
  mlxctl context add team --nats-url tls://10.0.0.5:4222 --nats-creds team.creds --nats-ca team.pem`,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.context.Name = args[0]
			return runF(cmd.Context(), opts)
		},
	}
	f, x := cmd.Flags(), &opts.context
	f.StringVar(&x.Home, "home", "", "home folder of a cluster on this machine")
	f.StringVar(&x.NATSURL, "nats-url", "", "its NATS")
	f.StringVar(&x.NATSCreds, "nats-creds", "", "credentials file")
	f.StringVar(&x.NATSCA, "nats-ca", "", "certificate authority, PEM")
	f.StringVar(&x.NATSServerName, "nats-server-name", "", "name in its certificate, where it is not the host")
	f.StringVar(&x.HTTPURL, "http-url", "", "its gateway")
	f.StringVar(&x.APIKeyFile, "api-key-file", "", "file that holds its API key")
	f.BoolVar(&opts.use, "use", false, "make it the default")
	return cmd
}

func runContextAdd(ctx context.Context, opts *contextAddOptions) error {
	dirs, err := opts.dirs()
	if err != nil {
		return err
	}
	x := opts.context
	if (x.Home == "") == (x.NATSURL == "") {
		return usageHint("give --nats-url, with --nats-creds and --nats-ca from that cluster; programs that use the API need no context, only its URL and key",
			"a context needs either --home or --nats-url: commands talk to a cluster over its NATS, which a gateway does not replace")
	}
	for _, p := range []*string{&x.Home, &x.NATSCreds, &x.NATSCA, &x.APIKeyFile} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("resolve %s: %w", *p, err)
		}
		if _, err := os.Stat(abs); err != nil {
			return cluster.Errorf(cluster.CodeInvalid, "%s is not there", abs)
		}
		*p = abs
	}
	if err := config.AddContext(dirs.File, x); err != nil {
		return err
	}
	if opts.use {
		return runContextUse(ctx, &contextNameOptions{deps: opts.deps, name: x.Name})
	}
	return opts.say("context %s added", x.Name)
}

func newContextRm(d *deps, runF func(context.Context, *contextNameOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContextRm
	}
	opts := &contextNameOptions{deps: d}
	return &cobra.Command{
		Use: "rm NAME", Short: "Forget a context; its cluster goes on", Args: exactly(1, "the context's name"),
		Annotations: exits("0", "1", "2", "6"), ValidArgsFunction: completeContexts(d),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.name = args[0]
			return runF(cmd.Context(), opts)
		},
	}
}

func runContextRm(_ context.Context, opts *contextNameOptions) error {
	dirs, err := opts.dirs()
	if err != nil {
		return err
	}
	if opts.name == config.LocalContext {
		return usagef("the context of this home cannot be removed")
	}
	if err := config.RemoveContext(dirs.File, opts.name); err != nil {
		return err
	}
	return opts.say("context %s removed", opts.name)
}

type contextShowOptions struct {
	*deps
	output *outputFlags
}

func newContextShow(d *deps, runF func(context.Context, *contextShowOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContextShow
	}
	opts := &contextShowOptions{deps: d}
	cmd := &cobra.Command{
		Use: "show", Short: "Show the context in use", Args: between(0, 0, ""), Annotations: exits("0", "1", "2", "6"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, printer.Table, printer.JSON, printer.YAML, printer.Name)
	return cmd
}

func runContextShow(_ context.Context, opts *contextShowOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	c, err := opts.config(nil)
	if err != nil {
		return err
	}
	x := c.Current().Redacted()
	switch out.Format {
	case printer.JSON, printer.YAML:
		return printer.Object(opts.streams.Out, out.Format, contextItem{x, true})
	case printer.Name:
		_, err := fmt.Fprintln(opts.streams.Out, x.Name)
		return err
	case printer.Table, printer.Wide:
	}
	var pairs [][2]string
	for _, p := range [][2]string{
		{"name", x.Name},
		{"home", x.Home},
		{"nats_url", x.NATSURL},
		{"nats_creds", x.NATSCreds},
		{"nats_ca", x.NATSCA},
		{"nats_server_name", x.NATSServerName},
		{"http_url", x.HTTPURL},
		{"api_key_file", x.APIKeyFile},
		{"timeout", x.Timeout},
	} {
		if p[1] != "" {
			pairs = append(pairs, p)
		}
	}
	return printer.Pairs(opts.streams.Out, pairs)
}

func completeContexts(d *deps) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := d.config(nil)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := []string{config.LocalContext}
		for _, x := range c.Contexts {
			names = append(names, x.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// say tells the user on stderr what was done, unless it was asked to be quiet.
func (d *deps) say(format string, args ...any) error {
	if d.quiet {
		return nil
	}
	_, err := fmt.Fprintf(d.streams.Err, format+"\n", args...)
	return err
}
