package cmd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// answer shows the chunks of one answer.
type answer struct {
	opts   *runOptions
	format printer.Format
	model  string
	began  time.Time
	*channels

	text       strings.Builder // of json only
	wrote      bool
	endsLine   bool
	told       bool // that the model is loading
	firstToken time.Time
	last       cluster.Chunk
	node       cluster.NodeID
	nodeName   string
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
	Shared           bool    `json:"shared,omitempty"` // read from an identical request's generation
}

// answerLine is one line of jsonl, and with the whole text the object of json.
type answerLine struct {
	Text         string               `json:"text"`
	Reasoning    string               `json:"reasoning,omitempty"`
	ToolCalls    any                  `json:"tool_calls,omitempty"` // pieces in a line, whole ones in the object
	Model        string               `json:"model,omitempty"`
	FinishReason cluster.FinishReason `json:"finish_reason,omitempty"`
	StopSequence string               `json:"stop_sequence,omitempty"`
	Node         cluster.NodeID       `json:"node,omitempty"`
	NodeName     string               `json:"node_name,omitempty"`
	Usage        *answerUsage         `json:"usage,omitempty"`
}

// take shows one chunk as soon as it comes.
func (a *answer) take(c cluster.Chunk) error {
	if c.Progress != nil {
		return a.progress(c)
	}
	if c.Node != "" {
		a.node, a.nodeName = c.Node, nameOrID(&c)
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
		a.reasoning.WriteString(c.Reasoning)
		a.calls.Add(c.ToolCalls...)
		return nil
	case formatLines:
		return a.writeLine(&c)
	default:
		return a.write(&c)
	}
}

func (a *answer) writeLine(c *cluster.Chunk) error {
	line := answerLine{Text: c.Text}
	if c.Finish != "" {
		line = a.line(c.Text)
	} else if c.Text == "" && c.Reasoning == "" && len(c.ToolCalls) == 0 {
		return nil
	}
	line.Reasoning = c.Reasoning
	if len(c.ToolCalls) > 0 {
		line.ToolCalls = c.ToolCalls
	}
	return printer.Line(a.opts.streams.Out, line)
}

func (a *answer) write(c *cluster.Chunk) error {
	a.calls.Add(c.ToolCalls...)
	if err := a.think(c.Reasoning); err != nil || c.Text == "" {
		return err
	}
	if err := a.stopThinking(); err != nil {
		return err
	}
	a.wrote, a.endsLine = true, strings.HasSuffix(c.Text, "\n")
	_, err := io.WriteString(a.opts.streams.Out, c.Text)
	return err
}

// writeCalls ends an answer in text with a line for each call.
func (a *answer) writeCalls() error {
	for _, call := range a.whole() {
		if a.wrote && !a.endsLine {
			if _, err := io.WriteString(a.opts.streams.Out, "\n"); err != nil {
				return err
			}
		}
		a.wrote, a.endsLine = true, true
		if err := printer.Line(a.opts.streams.Out, &call); err != nil {
			return err
		}
	}
	return nil
}

func (a *answer) progress(c cluster.Chunk) error {
	if c.Progress.Phase != cluster.PhaseLoading || a.told {
		return nil
	}
	a.told = true
	if c.Node == "" {
		return a.opts.say("loading %s…", a.model)
	}
	return a.opts.say("loading %s on %s…", a.model, nameOrID(&c))
}

// nameOrID is what people are told of the node of a chunk: a controller of an earlier version sends no name.
func nameOrID(c *cluster.Chunk) string { return cmp.Or(printer.Clean(c.NodeName), string(c.Node)) }

// finish ends the output and says how it went.
func (a *answer) finish(err error) error {
	if a.format == formatText {
		err = errors.Join(err, a.stopThinking(), a.writeCalls())
	}
	if a.format == formatText && a.opts.streams.OutTTY() && a.wrote && !a.endsLine {
		_, writeErr := io.WriteString(a.opts.streams.Out, "\n")
		err = errors.Join(err, writeErr)
	}
	if err != nil {
		return err
	}
	if a.format == printer.JSON {
		line := a.line(a.text.String())
		line.Reasoning = a.reasoning.String()
		if calls := a.whole(); len(calls) > 0 {
			line.ToolCalls = calls
		}
		if err := printer.Object(a.opts.streams.Out, printer.JSON, line); err != nil {
			return err
		}
	}
	return a.remarks()
}

// remarks says on stderr what the text alone does not show. A terminal that shows both begins a line for it.
func (a *answer) remarks() error {
	var lines []string
	u := a.usage()
	if a.format == formatText && a.last.Finish == cluster.FinishLength {
		lines = append(lines, fmt.Sprintf("the answer was cut after %d tokens, by --max-tokens or the model's context", u.CompletionTokens))
	}
	if a.opts.stats {
		line := fmt.Sprintf("%d prompt tokens (%d cached), %d generated, first after %.0f ms, %s tokens/s, on %s",
			u.PromptTokens, u.CachedTokens, u.CompletionTokens, u.FirstTokenMS, printer.Rate(u.TokensPerSecond), a.nodeName)
		if u.Shared {
			line += ", shared with an identical request"
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return nil
	}
	if a.format == formatText && a.wrote && !a.endsLine && !a.opts.streams.OutTTY() && a.opts.streams.ErrTTY() {
		lines[0] = "\n" + lines[0]
	}
	_, err := io.WriteString(a.opts.streams.Err, strings.Join(lines, "\n")+"\n")
	return err
}

func (a *answer) line(text string) answerLine {
	return answerLine{
		Text: text, Model: a.model, FinishReason: a.last.Finish, StopSequence: a.last.StopSequence,
		Node: a.node, NodeName: a.nodeName, Usage: a.usage(),
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
		out.Shared = u.Shared
		out.QueueMS, out.PrefillMS, out.DecodeMS = ms(u.Queue), ms(u.Prefill), ms(u.Decode)
		if u.Decode > 0 {
			out.TokensPerSecond = float64(u.CompletionTokens) / u.Decode.Seconds()
		}
	}
	return out
}
