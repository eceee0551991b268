package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// channels shows what a model says besides its answer. Scripts get only the answer: reasoning goes to stderr where
// stdout is no terminal.
type channels struct {
	out      io.Writer
	isDim    bool
	ends     string // between reasoning and what follows it
	thinking bool   // some was shown, and nothing since

	reasoning strings.Builder   // of json only
	calls     cluster.ToolCalls // of json and text
}

// toolCall is a whole call in JSON.
type toolCall struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // as the model wrote them: JSON, mostly
}

func newChannels(d *deps) *channels {
	s := d.streams
	if s.OutTTY() {
		return &channels{out: s.Out, isDim: s.OutColor(), ends: "\n\n"}
	}
	return &channels{out: s.Err, isDim: s.ErrColor(), ends: "\n"}
}

// think shows a piece of reasoning.
func (c *channels) think(text string) error {
	if text == "" {
		return nil
	}
	c.thinking = true
	if c.isDim {
		text = "\x1b[2m" + text + "\x1b[22m"
	}
	_, err := io.WriteString(c.out, text)
	return err
}

// stopThinking sets off what follows.
func (c *channels) stopThinking() error {
	if !c.thinking {
		return nil
	}
	c.thinking = false
	_, err := io.WriteString(c.out, c.ends)
	return err
}

// whole returns the calls that came.
func (c *channels) whole() []toolCall {
	var out []toolCall
	for _, d := range c.calls.Joined() {
		out = append(out, toolCall{d.ID, d.Name, d.Arguments})
	}
	return out
}

// channelFlags are the flags of run that ask for more than an answer.
type channelFlags struct {
	think bool
	tools string
}

// apply makes the request ask for it.
func (f *channelFlags) apply(ctx context.Context, req *cluster.Request, given func(string) bool) error {
	if req.Prompt != nil && (given("think") || given("tools")) {
		return usagef("--raw excludes --think and --tools, which go through the chat template")
	}
	if given("think") {
		value, err := json.Marshal(f.think)
		if err != nil {
			return fmt.Errorf("write --think: %w", err)
		}
		req.TemplateArgs = map[string]json.RawMessage{"enable_thinking": value}
	}
	if !given("tools") {
		return nil
	}
	text, err := readFile(ctx, f.tools)
	if err != nil {
		return &usageError{fmt.Errorf("read tools: %w", err)}
	}
	if err := json.Unmarshal([]byte(text), &req.Tools); err != nil {
		return usagef("%s does not hold a JSON array of tools: %s", f.tools, err)
	}
	return nil
}

// inFlags says what a flag caused in the words of the flag.
func (opts *runOptions) inFlags(err error) error {
	e := cluster.AsError(err)
	if e == nil || e.Code != cluster.CodeInvalid {
		return err
	}
	own := *e
	switch field, _, _ := strings.Cut(e.Field, "."); field {
	case "template_args":
		own.Message, own.Hint = "model "+opts.model+" has no switch for thinking", "leave out --think"
	case "grammar":
		own.Message = "the schema in " + opts.schema + " cannot be used: " + strings.TrimPrefix(e.Message, "grammar cannot be used: ")
	default:
		return err
	}
	return &own
}
