package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
)

type envOptions struct {
	*deps
	output *outputFlags
	shell  string
	unset  bool
}

// endpoint is where programs reach the cluster, and the shape of `env -o json`.
type endpoint struct {
	BaseURL string `json:"base_url"`
	APIKey  string `json:"api_key"`
}

func newEnv(d *deps, runF func(context.Context, *envOptions) error) *cobra.Command {
	if runF == nil {
		runF = runEnv
	}
	opts := &envOptions{deps: d}
	cmd := &cobra.Command{
		Use: "env", Short: "Print settings that let OpenAI clients use the cluster", Args: between(0, 0, ""),
		Long: "env prints commands for your shell that set OPENAI_BASE_URL and OPENAI_API_KEY.",
		Example: `  eval "$(mlxctl env)"            # sh, bash, zsh
  mlxctl env | source             # fish
  eval "$(mlxctl env --unset)"`,
		Annotations: exits("0", "1", "2", "6", "7"),
		RunE:        func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, printer.Table, printer.JSON)
	cmd.Flags().StringVar(&opts.shell, "shell", "", "sh or fish; the one in SHELL unless given")
	cmd.Flags().BoolVar(&opts.unset, "unset", false, "take the settings back")
	_ = cmd.RegisterFlagCompletionFunc("shell", cobra.FixedCompletions([]string{"sh", "fish"}, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that is not there
	return cmd
}

func runEnv(_ context.Context, opts *envOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	fish, err := opts.isFish()
	if err != nil {
		return err
	}
	if opts.unset {
		format := "unset %s\n"
		if fish {
			format = "set -e %s;\n"
		}
		_, err := fmt.Fprintf(opts.streams.Out, format+format, "OPENAI_BASE_URL", "OPENAI_API_KEY")
		return err
	}
	e, err := opts.endpoint()
	if err != nil {
		return err
	}
	if out.Format == printer.JSON {
		return printer.Object(opts.streams.Out, out.Format, e)
	}
	format, quote := "export %s=%s\n", quoteSh
	if fish {
		format, quote = "set -gx %s %s;\n", quoteFish
	}
	_, err = fmt.Fprintf(opts.streams.Out, format+format, "OPENAI_BASE_URL", quote(e.BaseURL), "OPENAI_API_KEY", quote(e.APIKey))
	return err
}

func (opts *envOptions) isFish() (bool, error) {
	switch opts.shell {
	case "":
		shell, _ := opts.env("SHELL")
		return filepath.Base(shell) == "fish", nil
	case "fish":
		return true, nil
	case "sh", "bash", "zsh":
		return false, nil
	default:
		return false, usagef("--shell must be sh or fish, not %q", opts.shell)
	}
}

// endpoint finds the gateway of the context in use.
func (d *deps) endpoint() (endpoint, error) {
	cfg, err := d.config(nil)
	if err != nil {
		return endpoint{}, err
	}
	if cfg.HTTPURL == "" && isLocal(cfg) {
		return d.localEndpoint(cfg)
	}
	if cfg.HTTPURL == "" {
		return endpoint{}, cluster.Errorf(cluster.CodeInvalid, "context %s does not say where its gateway is", cfg.Context).
			WithHint("set http_url and api_key_file in %s", cfg.Dirs.File)
	}
	e := endpoint{BaseURL: strings.TrimSuffix(cfg.HTTPURL, "/")}
	if !strings.HasSuffix(e.BaseURL, "/v1") {
		e.BaseURL += "/v1"
	}
	if cfg.APIKeyFile != "" {
		data, err := os.ReadFile(cfg.APIKeyFile)
		if err != nil {
			return endpoint{}, cluster.Errorf(cluster.CodeUnauthorized, "cannot read the API key: %v", err)
		}
		e.APIKey = strings.TrimSpace(string(data))
	}
	return e, nil
}

func quoteSh(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func quoteFish(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
