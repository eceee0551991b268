package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/printer"
)

func newConfig(d *deps) *cobra.Command {
	return group("config", "Show and change settings",
		newConfigView(d, nil), newConfigGet(d, nil), newConfigSet(d, nil), newConfigPath(d, nil))
}

type configViewOptions struct {
	*deps
	output *outputFlags
	origin bool
}

func newConfigView(d *deps, runF func(context.Context, *configViewOptions) error) *cobra.Command {
	if runF == nil {
		runF = runConfigView
	}
	opts := &configViewOptions{deps: d}
	cmd := &cobra.Command{
		Use: "view", Short: "Show the settings in effect; secrets are taken out", Args: between(0, 0, ""),
		Annotations: exits("0", "1", "2", "6"),
		RunE:        func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, listFormats()...)
	cmd.Flags().BoolVar(&opts.origin, "origin", false, "say where each came from")
	return cmd
}

func runConfigView(_ context.Context, opts *configViewOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	c, err := opts.config(nil)
	if err != nil {
		return err
	}
	if opts.origin && out.Format == printer.Table {
		out.Format = printer.Wide
	}
	list := printer.List[config.Value]{
		Name: func(v config.Value) string { return v.Key },
		Columns: []printer.Column[config.Value]{
			{Header: "KEY", Value: func(v config.Value) string { return v.Key }},
			{Header: "VALUE", Value: func(v config.Value) string { return settingText(v) }},
			{Header: "ORIGIN", Wide: true, Value: func(v config.Value) string { return v.Origin.String() }},
		},
	}
	return list.Print(opts.streams, out, c.Values())
}

func settingText(v config.Value) string {
	switch list := v.Value.(type) {
	case []string:
		separator := ":"
		if v.Key == config.HostsKey {
			separator = ","
		}
		return strings.Join(list, separator)
	case []map[string]any:
		if len(list) == 0 {
			return ""
		}
		data, err := json.Marshal(list)
		if err == nil {
			return string(data)
		}
	}
	return fmt.Sprint(v.Value)
}

type configGetOptions struct {
	*deps
	key string
}

func newConfigGet(d *deps, runF func(context.Context, *configGetOptions) error) *cobra.Command {
	if runF == nil {
		runF = runConfigGet
	}
	opts := &configGetOptions{deps: d}
	return &cobra.Command{
		Use: "get KEY", Short: "Print one setting in effect", Args: exactly(1, "the key"),
		Annotations:       exits("0", "1", "2", "6"),
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.key = args[0]
			return runF(cmd.Context(), opts)
		},
	}
}

func runConfigGet(_ context.Context, opts *configGetOptions) error {
	c, err := opts.config(nil)
	if err != nil {
		return err
	}
	v, ok := c.Value(opts.key)
	if !ok {
		return &usageError{config.UnknownKey(opts.key)}
	}
	_, err = fmt.Fprintln(opts.streams.Out, settingText(v))
	return err
}

type configSetOptions struct {
	*deps
	key, value string
}

func newConfigSet(d *deps, runF func(context.Context, *configSetOptions) error) *cobra.Command {
	if runF == nil {
		runF = runConfigSet
	}
	opts := &configSetOptions{deps: d}
	return &cobra.Command{
		Use: "set KEY VALUE", Short: "Write one setting into the file", Args: exactly(2, "the key or its value"),
		Example:           "  mlxctl config set models.memory 24GiB",
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.key, opts.value = args[0], args[1]
			return runF(cmd.Context(), opts)
		},
	}
}

func runConfigSet(_ context.Context, opts *configSetOptions) error {
	dirs, err := opts.dirs()
	if err != nil {
		return err
	}
	value := opts.value
	if k, ok := config.Lookup(opts.key); ok && k.Kind == config.File && value != "" {
		if value, err = filepath.Abs(value); err != nil { // commands run in other folders
			return fmt.Errorf("resolve %s: %w", opts.value, err)
		}
	}
	if err := config.Set(dirs.File, opts.key, value); err != nil {
		return err
	}
	cfg, err := opts.config(nil)
	if err != nil {
		return nil //nolint:nilerr // it was written; another setting, or the environment, is what is wrong
	}
	if command := opts.takesOver(cfg); command != "" {
		return opts.say("the cluster runs with other settings until `%s`, which starts its services again", command)
	}
	return nil
}

type configPathOptions struct{ *deps }

func newConfigPath(d *deps, runF func(context.Context, *configPathOptions) error) *cobra.Command {
	if runF == nil {
		runF = runConfigPath
	}
	opts := &configPathOptions{deps: d}
	return &cobra.Command{
		Use: "path", Short: "Print where the file is", Args: between(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
}

func runConfigPath(_ context.Context, opts *configPathOptions) error {
	dirs, err := opts.dirs()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(opts.streams.Out, dirs.File)
	return err
}

func completeKeys(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, k := range config.Keys() {
		out = append(out, k.Name+"\t"+k.Doc)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
