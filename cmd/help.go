package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
)

const helpTemplate = `{{with or .Long .Short}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

const usageTemplate = `USAGE
  {{if .HasAvailableSubCommands}}{{.CommandPath}} <command> [flags]{{else}}{{.UseLine}}{{end}}
{{if gt (len .Aliases) 0}}
ALIASES
  {{.NameAndAliases}}
{{end}}{{if .HasExample}}
EXAMPLES
{{.Example}}
{{end}}{{if .HasAvailableSubCommands}}
COMMANDS{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
FLAGS
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableInheritedFlags}}
GLOBAL FLAGS
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasHelpSubCommands}}
HELP TOPICS{{range .Commands}}{{if .IsAdditionalHelpTopicCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}
EXIT STATUS
{{with index .Annotations "exit"}}{{.}}{{else}}  0    done, or nothing to do
  1    failed
  2    usage: a wrong flag, argument or setting, or a request that cannot be right{{end}}
  All of them: mlxctl help exit-codes
`

// exits notes which exit codes a command's help explains.
func exits(codes ...string) map[string]string {
	return map[string]string{"exit": exitText(codes...)}
}

// newHelp shows the help of a command or a topic; a name that is neither is an error, as anywhere else.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Show the help of a command or a topic",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			at, _, err := root.Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return helpNames(at), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			at := root
			for _, name := range args {
				i := slices.IndexFunc(at.Commands(), func(c *cobra.Command) bool { return c.Name() == name || c.HasAlias(name) })
				if i >= 0 {
					at = at.Commands()[i]
					continue
				}
				if near := cluster.Nearest(name, helpNames(at)); len(near) > 0 {
					return usageHint("did you mean `mlxctl help"+strings.TrimPrefix(at.CommandPath(), "mlxctl")+" "+near[0]+"`?", "no help for %q", name)
				}
				return usageHint("`mlxctl help` lists commands and topics", "no help for %q", name)
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}

// doneBy is the command line that does what other programs call by that name; empty where there is none.
func doneBy(cmd *cobra.Command, name string) string {
	if cmd.HasParent() {
		return ""
	}
	switch name {
	case "list", "ls":
		return "mlxctl models"
	case "pin":
		return "mlxctl load --pin"
	case "unpin":
		return "mlxctl load --pin=false"
	case "stop":
		return "mlxctl down"
	case "start", "serve":
		return "mlxctl up"
	}
	return ""
}

// refuseHelp has --help after a command that is not there be the error that the command is without it.
func refuseHelp(d *deps, root *cobra.Command) {
	show := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
			d.noHelp = unknownCommand(cmd, words)
			return
		}
		show(cmd, args)
	})
}

func helpNames(of *cobra.Command) []string {
	var out []string
	for _, c := range of.Commands() {
		if !c.Hidden {
			out = append(out, c.Name())
		}
	}
	return out
}

// helpTopics are pages of help that are no commands.
func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "what the exit codes mean", Long: "Exit codes of every command:\n\n" + exitText()},
		{Use: "environment", Short: "environment variables and settings", Long: environmentText()},
	}
}

func environmentText() string {
	var b strings.Builder
	b.WriteString(`A setting comes from the first of: a flag, an environment variable, the context in use, the configuration file, its
default. ` + "`mlxctl config view --origin`" + ` shows them all with where each came from.

  MLXCTL_HOME      holds all state of one cluster and its agent, and then config.yaml too
  MLXCTL_CACHE     holds what can be made again: Python environments, models that came with mlxctl
  MLXCTL_PYTHON    a Python that has mlx-lm already; nothing is installed then
  MLXCTL_WHEELS    a folder of wheels to install from, where there is no network
  HF_HOME          where models of the Hugging Face cache are found
  NO_COLOR         no colour

Settings, as the environment and as the file call them:

`)
	width := 0
	for _, k := range config.Keys() {
		width = max(width, len(k.Env()))
	}
	for _, k := range config.Keys() {
		doc := k.Doc
		if len(k.Choices) > 0 {
			doc += ": " + strings.Join(k.Choices, ", ")
		}
		if k.Default != "" && k.Default != "0" && k.Default != "0s" {
			doc += " (" + k.Default + ")"
		}
		fmt.Fprintf(&b, "  %-*s  %-22s %s\n", width, k.Env(), k.Name, doc)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
