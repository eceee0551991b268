package cmd

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/printer"
)

// outputFlags are what every command that prints a result has.
type outputFlags struct {
	format    string
	asJSON    bool
	noHeaders bool
	allowed   []string
}

// addOutput gives a command its output flags; formats are those that it knows, the first is the default.
func addOutput(cmd *cobra.Command, formats ...printer.Format) *outputFlags {
	o := &outputFlags{}
	for _, f := range formats {
		o.allowed = append(o.allowed, string(f))
	}
	f := cmd.Flags()
	f.StringVarP(&o.format, "output", "o", o.allowed[0], "output: "+strings.Join(o.allowed, ", "))
	f.BoolVar(&o.asJSON, "json", false, "the same as -o json")
	if slices.Contains(formats, printer.Wide) {
		f.BoolVar(&o.noHeaders, "no-headers", false, "no header line in tables")
	}
	_ = cmd.RegisterFlagCompletionFunc("output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return o.allowed, cobra.ShellCompDirectiveNoFileComp
	}) // fails only for a flag that is not there
	return o
}

// listFormats are those of every listing.
func listFormats() []printer.Format {
	return []printer.Format{printer.Table, printer.Wide, printer.JSON, printer.YAML, printer.Name}
}

// objectFormats are those of a command that shows one thing.
func objectFormats() []printer.Format {
	return []printer.Format{printer.Table, printer.JSON, printer.YAML}
}

// options checks the flags.
func (o *outputFlags) options() (printer.Options, error) {
	if o.asJSON {
		o.format = string(printer.JSON)
	}
	if !slices.Contains(o.allowed, o.format) {
		return printer.Options{}, usagef("--output must be one of %s, not %q", strings.Join(o.allowed, ", "), o.format)
	}
	return printer.Options{Format: printer.Format(o.format), NoHeaders: o.noHeaders}, nil
}
