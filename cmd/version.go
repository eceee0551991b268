package cmd

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/printer"
)

type versionOptions struct {
	*deps
	output *outputFlags
}

// versionInfo is the shape of `version -o json`.
type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion(d *deps, runF func(context.Context, *versionOptions) error) *cobra.Command {
	if runF == nil {
		runF = runVersion
	}
	opts := &versionOptions{deps: d}
	cmd := &cobra.Command{
		Use: "version", Short: "Show the version", Args: between(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, objectFormats()...)
	return cmd
}

func runVersion(_ context.Context, opts *versionOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	v := versionInfo{opts.build.Version, opts.build.Commit, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, v)
	}
	_, err = fmt.Fprintf(opts.streams.Out, "mlxctl %s (%.12s, %s, %s)\n", v.Version, v.Commit, v.Go, v.Platform)
	return err
}

// orDefault fills what the linker was not told from what the Go tool knows.
func (b Build) orDefault() Build {
	info, ok := debug.ReadBuildInfo()
	if b.Version == "" && ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	if b.Version == "" {
		b.Version = "dev"
	}
	if b.Commit == "" && ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Commit = s.Value
			}
		}
	}
	if b.Commit == "" {
		b.Commit = "unknown"
	}
	return b
}
