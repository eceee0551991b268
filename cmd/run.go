package cmd

import (
	"context"
	"errors"
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
	c, err := opts.connect(asking, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	if opts.node != "" {
		if req.Node, err = findNode(asking, c, opts.node); err != nil {
			return err
		}
	}
	a := &answer{opts: opts, format: out.Format, model: req.Model, began: time.Now()}
	err = c.Generate(ctx, req, a.take)
	return a.finish(err)
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

// answer shows the chunks of one answer.
type answer struct {
	opts   *runOptions
	format printer.Format
	model  string
	began  time.Time

	text       strings.Builder // of json only
	wrote      bool
	endsLine   bool
	told       bool // that the model is loading
	firstToken time.Time
	last       cluster.Chunk
	node       cluster.NodeID
}

// answerUsage is the account of an answer in JSON.
type answerUsage struct {
	PromptTokens     int     `json:"prompt_tokens"`
	CachedTokens     int     `json:"cached_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	QueueMS          float64 `json:"queue_ms"`
	PrefillMS        float64 `json:"prefill_ms"`
	DecodeMS         float64 `json:"decode_ms"`
	FirstTokenMS     float64 `json:"first_token_ms"` // as this command saw it
	TotalMS          float64 `json:"total_ms"`
	TokensPerSecond  float64 `json:"tokens_per_second"`
}

// answerLine is one line of jsonl, and with the whole text the object of json.
type answerLine struct {
	Text         string               `json:"text"`
	Model        string               `json:"model,omitempty"`
	FinishReason cluster.FinishReason `json:"finish_reason,omitempty"`
	StopSequence string               `json:"stop_sequence,omitempty"`
	Node         cluster.NodeID       `json:"node,omitempty"`
	Usage        *answerUsage         `json:"usage,omitempty"`
}

// take shows one chunk as soon as it comes.
func (a *answer) take(c cluster.Chunk) error {
	if c.Progress != nil {
		return a.progress(c)
	}
	if c.Node != "" {
		a.node = c.Node
	}
	if a.firstToken.IsZero() && (c.Text != "" || len(c.Tokens) > 0) {
		a.firstToken = time.Now()
	}
	if c.Finish != "" {
		a.last = c
	}
	switch a.format {
	case printer.JSON:
		a.text.WriteString(c.Text)
		return nil
	case formatLines:
		if c.Finish != "" {
			return printer.Line(a.opts.streams.Out, a.line(c.Text))
		}
		if c.Text == "" {
			return nil
		}
		return printer.Line(a.opts.streams.Out, answerLine{Text: c.Text})
	default:
	}
	if c.Text == "" {
		return nil
	}
	a.wrote, a.endsLine = true, strings.HasSuffix(c.Text, "\n")
	_, err := io.WriteString(a.opts.streams.Out, c.Text)
	return err
}

func (a *answer) progress(c cluster.Chunk) error {
	if c.Progress.Phase != cluster.PhaseLoading || a.told {
		return nil
	}
	a.told = true
	if c.Node == "" {
		return a.opts.say("loading %s…", a.model)
	}
	return a.opts.say("loading %s on %s…", a.model, c.Node)
}

// finish ends the output and says how it went.
func (a *answer) finish(err error) error {
	if a.format == formatText && a.opts.streams.OutTTY() && a.wrote && !a.endsLine {
		_, writeErr := io.WriteString(a.opts.streams.Out, "\n")
		err = errors.Join(err, writeErr)
	}
	if err != nil {
		return err
	}
	if a.format == printer.JSON {
		line := a.line(a.text.String())
		if err := printer.Object(a.opts.streams.Out, printer.JSON, line); err != nil {
			return err
		}
	}
	if !a.opts.stats {
		return nil
	}
	u := a.usage()
	_, err = fmt.Fprintf(a.opts.streams.Err, "%d prompt tokens (%d cached), %d generated, first after %.0f ms, %s tokens/s, on %s\n",
		u.PromptTokens, u.CachedTokens, u.CompletionTokens, u.FirstTokenMS, printer.Rate(u.TokensPerSecond), a.node)
	return err
}

func (a *answer) line(text string) answerLine {
	return answerLine{
		Text: text, Model: a.model, FinishReason: a.last.Finish, StopSequence: a.last.StopSequence,
		Node: a.node, Usage: a.usage(),
	}
}

func (a *answer) usage() *answerUsage {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	out := &answerUsage{TotalMS: ms(time.Since(a.began))}
	if !a.firstToken.IsZero() {
		out.FirstTokenMS = ms(a.firstToken.Sub(a.began))
	}
	if u := a.last.Usage; u != nil {
		out.PromptTokens, out.CachedTokens, out.CompletionTokens = u.PromptTokens, u.CachedTokens, u.CompletionTokens
		out.QueueMS, out.PrefillMS, out.DecodeMS = ms(u.Queue), ms(u.Prefill), ms(u.Decode)
		if u.Decode > 0 {
			out.TokensPerSecond = float64(u.CompletionTokens) / u.Decode.Seconds()
		}
	}
	return out
}
