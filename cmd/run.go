package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// Formats of run alone.
const (
	formatText  printer.Format = "text"
	formatLines printer.Format = "jsonl"
)

type runOptions struct {
	*deps
	output *outputFlags
	cmd    *cobra.Command // for which flags were given

	model       string
	args        []string
	file        string
	noStdin     bool
	raw         bool
	stats       bool
	system      string
	node        string
	session     string
	stop        []string
	maxTokens   int
	topK        int
	temperature float64
	topP        float64
	seed        int64
	schema      string
	channels    channelFlags
}

func newRun(d *deps, runF func(context.Context, *runOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRun
	}
	opts := &runOptions{deps: d}
	cmd := &cobra.Command{
		Use:   "run MODEL [PROMPT…]",
		Short: "Answer a prompt",
		Long: `run answers one prompt and prints the answer as it is generated.

MODEL is a name that ` + "`mlxctl models`" + ` lists, a name in the Hugging Face cache, or a folder that mlx-lm can load.
The prompt is what stdin holds, if it is a pipe or a file, then what -f names, then the arguments.`,
		Example: `  mlxctl run tiny "Count from 1 to 20."
  git diff | mlxctl run small "Explain this change."
  mlxctl run ./models/small -f question.txt -o json`,
		Annotations:       exits("0", "1", "2", "4", "5", "6", "7", "130"),
		Args:              between(1, 1<<20, "the model"),
		ValidArgsFunction: completeModels(d),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.model, opts.args = args[0], args[1:]
			return runF(cmd.Context(), opts)
		},
	}
	opts.cmd = cmd
	opts.output = addOutput(cmd, formatText, printer.JSON, formatLines)
	f := cmd.Flags()
	f.StringVarP(&opts.file, "file", "f", "", "read the prompt from a file")
	f.BoolVarP(&opts.noStdin, "no-stdin", "n", false, "leave stdin alone")
	f.BoolVar(&opts.raw, "raw", false, "no chat template: continue the text")
	f.BoolVar(&opts.stats, "stats", false, "say on stderr how fast it was")
	f.StringVar(&opts.system, "system", "", "system message")
	f.StringVar(&opts.node, "node", "", "run it on this node")
	f.StringVar(&opts.session, "session", "", "name that requests with a growing prefix share")
	f.StringArrayVar(&opts.stop, "stop", nil, "end the answer before this text; may be repeated")
	f.IntVar(&opts.maxTokens, "max-tokens", 0, "most tokens of the answer")
	f.Float64Var(&opts.temperature, "temperature", 0, "0 to 2; the model's default unless given")
	f.Float64Var(&opts.topP, "top-p", 0, "0 to 1; the model's default unless given")
	f.IntVar(&opts.topK, "top-k", 0, "0 for all; the model's default unless given")
	f.Int64Var(&opts.seed, "seed", 0, "make sampling repeatable")
	f.StringVar(&opts.schema, "schema", "", "file with a JSON schema that the answer has to follow")
	f.BoolVar(&opts.channels.think, "think", false, "let the model think first, or not: --think=false; its default unless given")
	f.StringVar(&opts.channels.tools, "tools", "", "JSON file with an array of tools that the model may call")
	_ = cmd.RegisterFlagCompletionFunc("node", completeNodes(d)) // fails only for a flag that is not there
	return cmd
}

func runRun(ctx context.Context, opts *runOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	cfg, err := opts.config(opts.cmd.Flags())
	if err != nil {
		return err
	}
	asking, cancel := bounded(ctx, cfg.Timeout)
	defer cancel()
	req, err := opts.request(asking)
	if err != nil {
		return err
	}
	req.Timeout = cfg.Timeout
	if err := req.Validate(); err != nil {
		return err
	}
	a := &answer{opts: opts, format: out.Format, model: req.Model, began: time.Now(), channels: newChannels(opts.deps)}
	err = opts.patiently(asking, cfg, func(c clusterClient) (begun bool, err error) {
		if opts.node != "" {
			if req.Node, err = findNode(asking, c, opts.node); err != nil {
				return false, err
			}
		}
		err = c.Generate(ctx, req, func(chunk cluster.Chunk) error {
			begun = begun || chunk.Progress == nil
			return a.take(chunk)
		})
		return begun, err
	})
	return a.finish(opts.inFlags(err))
}

// request makes a request of the flags and the prompt.
func (opts *runOptions) request(ctx context.Context) (*cluster.Request, error) {
	model, err := modelName(opts.model, opts.env)
	if err != nil {
		return nil, err
	}
	prompt, err := opts.prompt(ctx)
	if err != nil {
		return nil, err
	}
	req := &cluster.Request{Model: model, Stop: opts.stop, Session: opts.session}
	if opts.raw {
		if opts.system != "" {
			return nil, usagef("--raw and --system exclude each other")
		}
		req.Prompt = &prompt
	} else {
		if opts.system != "" {
			req.Messages = append(req.Messages, cluster.Message{Role: "system", Content: opts.system})
		}
		req.Messages = append(req.Messages, cluster.Message{Role: "user", Content: prompt})
	}
	given := opts.cmd.Flags().Changed
	if err := opts.channels.apply(ctx, req, given); err != nil {
		return nil, err
	}
	if given("max-tokens") {
		req.MaxTokens = &opts.maxTokens
	}
	if given("temperature") {
		req.Temperature = &opts.temperature
	}
	if given("top-p") {
		req.TopP = &opts.topP
	}
	if given("top-k") {
		req.TopK = &opts.topK
	}
	if given("seed") {
		req.Seed = &opts.seed
	}
	if given("schema") {
		if req.Grammar, err = schemaGrammar(ctx, opts.schema); err != nil {
			return nil, err
		}
	}
	return req, nil
}

// prompt joins stdin, the file and the arguments.
func (opts *runOptions) prompt(ctx context.Context) (string, error) {
	var words []string
	forced := false
	for _, a := range opts.args {
		if a == "-" {
			forced = true
		} else {
			words = append(words, a)
		}
	}
	var parts []string
	if forced || (opts.streams.InReadable() && !opts.noStdin) {
		text, err := readAll(ctx, opts.streams.In)
		if err != nil {
			return "", fmt.Errorf("read stdin: %w", err)
		}
		parts = append(parts, text)
	}
	if opts.file != "" {
		text, err := readFile(ctx, opts.file)
		if err != nil {
			return "", &usageError{fmt.Errorf("read prompt: %w", err)}
		}
		parts = append(parts, text)
	}
	parts = append(parts, strings.Join(words, " "))
	var kept []string
	for _, p := range parts {
		if strings.TrimSpace(p) == "" {
			continue
		}
		if !utf8.ValidString(p) {
			return "", usagef("the prompt is not UTF-8 text")
		}
		kept = append(kept, p)
	}
	if len(kept) == 0 {
		return "", usageHint(fmt.Sprintf("mlxctl run %s \"Count from 1 to 20.\"", opts.model), "there is no prompt")
	}
	if len(kept) == 1 {
		return kept[0], nil
	}
	for i := range kept[:len(kept)-1] {
		kept[i] = strings.TrimRight(kept[i], "\n")
	}
	return strings.Join(kept, "\n\n"), nil
}

// mostPrompt is where reading a prompt stops: a message that long does not fit on the bus.
const mostPrompt = 8 << 20

func readFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	return readAll(ctx, f)
}

// readAll reads r to its end, or until ctx ends: a person at a terminal may give up.
func readAll(ctx context.Context, r io.Reader) (string, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // cannot be interrupted; it ends with the input or the process
		data, err := io.ReadAll(io.LimitReader(r, mostPrompt+1))
		if err == nil && len(data) > mostPrompt {
			err = usagef("the prompt is larger than 8 MiB")
		}
		done <- result{data, err}
	}()
	select {
	case res := <-done:
		return string(res.data), res.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// modelName makes a folder's path absolute, since the node that loads it has another working folder.
func modelName(name string, env func(string) (string, bool)) (string, error) {
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		home, _ := env("HOME")
		return filepath.Join(home, rest), nil
	}
	isPath := strings.HasPrefix(name, ".") || strings.HasPrefix(name, "/")
	if !isPath {
		info, err := os.Stat(name)
		isPath = err == nil && info.IsDir()
	}
	if !isPath {
		return name, nil
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", name, err)
	}
	return abs, nil
}
