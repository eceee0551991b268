package cmd

import (
	"github.com/spf13/cobra"
)

func newCompletion(d *deps) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print a completion script for bash, zsh, fish or powershell",
		Example: `  source <(mlxctl completion bash)
  mlxctl completion fish > ~/.config/fish/completions/mlxctl.fish`,
		Args: exactly(1, "the shell"), ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), d.streams.Out
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(out)
			default:
				return usagef("no completion for %q; there is bash, zsh, fish and powershell", args[0])
			}
		},
	}
}
