package cluster

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// RequestID names one generation.
type RequestID string

// Choice names the generation of another answer to the same request; 0 is the first one, whose name is the request's.
func (id RequestID) Choice(i int) RequestID {
	if i == 0 {
		return id
	}
	return id + RequestID("-"+strconv.Itoa(i))
}

// Split undoes Choice. An id that a client chose may end like that of a choice.
func (id RequestID) Split() (request RequestID, choice int) {
	i := strings.LastIndexByte(string(id), '-')
	if i <= 0 || len(id)-i > 4 {
		return id, 0
	}
	n, err := strconv.ParseUint(string(id[i+1:]), 10, 16)
	if err != nil || n == 0 || id[i+1] == '0' {
		return id, 0
	}
	return id[:i], int(n)
}

// AttemptID names one try of a request on one node.
type AttemptID string

// Request is one generation asked for, in no dialect: the gateway and the CLI make it, the worker answers it.
// A nil pointer means "the model's default". Validate says what is wrong with it.
type Request struct {
	ID    RequestID `json:"id"`
	Model string    `json:"model"`

	// Exactly one of Messages and Prompt is set. Prompt is raw text without a chat template.
	Messages []Message `json:"messages,omitempty"`
	Prompt   *string   `json:"prompt,omitempty"`
	// Tools are JSON schemas in the shape that chat templates expect; TemplateArgs are passed to the template.
	Tools        []json.RawMessage          `json:"tools,omitempty"`
	TemplateArgs map[string]json.RawMessage `json:"template_args,omitempty"`
	// ToolChoice says whether tools are called; nil is as ToolAuto.
	ToolChoice *ToolChoice `json:"tool_choice,omitempty"`
	// SingleToolCall ends the answer with its first call.
	SingleToolCall bool `json:"single_tool_call,omitempty"`

	// MaxTokens bounds the answer; nil means up to the end of the model's context.
	MaxTokens         *int            `json:"max_tokens,omitempty"`
	Temperature       *float64        `json:"temperature,omitempty"`
	TopP              *float64        `json:"top_p,omitempty"`
	TopK              *int            `json:"top_k,omitempty"`
	MinP              *float64        `json:"min_p,omitempty"`
	RepetitionPenalty *float64        `json:"repetition_penalty,omitempty"`
	PresencePenalty   *float64        `json:"presence_penalty,omitempty"`
	FrequencyPenalty  *float64        `json:"frequency_penalty,omitempty"`
	LogitBias         map[int]float64 `json:"logit_bias,omitempty"`
	Seed              *int64          `json:"seed,omitempty"`
	// Stop are text sequences; the answer ends before the first of them.
	Stop []string `json:"stop,omitempty"`
	// Logprobs asks for the chosen token's log probability, TopLogprobs for that many alternatives as well.
	Logprobs    bool `json:"logprobs,omitempty"`
	TopLogprobs int  `json:"top_logprobs,omitempty"`

	// Session groups requests that share a growing prefix; empty means that it is derived from the body.
	Session string `json:"session,omitempty"`
	// Grammar is the form that the answer has to have; nil leaves it free.
	Grammar *Grammar `json:"grammar,omitempty"`
	// Node pins the request to one node; empty lets the scheduler choose.
	Node NodeID `json:"node,omitempty"`
	// Timeout bounds the whole request; zero means the controller's setting.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Continue holds the tokens that an earlier attempt already produced: the answer goes on after them.
	Continue []int `json:"continue,omitempty"`
}

// Message is one turn of a chat.
type Message struct {
	Role       string          `json:"role"` // system, user, assistant, tool
	Content    string          `json:"content"`
	Name       string          `json:"name,omitempty"`
	ToolCallID string          `json:"tool_call_id,omitempty"`
	ToolCalls  json.RawMessage `json:"tool_calls,omitempty"`        // in OpenAI's shape, as templates expect it
	Reasoning  string          `json:"reasoning_content,omitempty"` // of an earlier answer, under the name that templates use
}

// Limits of a request that hold for every model. Larger values are refused, never clipped.
const (
	MaxStopSequences = 16
	MaxStopBytes     = 1024
	MaxTopLogprobs   = 20
	MaxSessionBytes  = 256
	// MaxModelBytes is the longest path on macOS: a model may be named by its folder.
	MaxModelBytes = 1024
)

// Validate checks what can be checked without the model and returns an *Error with CodeInvalid that names the field.
func (r *Request) Validate() error {
	if err := r.validatePrompt(); err != nil {
		return err
	}
	if err := r.validateTools(); err != nil {
		return err
	}
	if err := r.validateSampling(); err != nil {
		return err
	}
	if err := r.validateGrammar(); err != nil {
		return err
	}
	return r.validateLimits()
}

// ValidateModel checks the name of a model that is asked for and returns an *Error with CodeInvalid of the field model.
func ValidateModel(name string) error {
	switch {
	case name == "":
		return Invalid("model", "is missing")
	case len(name) > MaxModelBytes:
		return Invalid("model", "may be at most "+number(MaxModelBytes)+" bytes long")
	}
	return nil
}

func (r *Request) validatePrompt() error {
	if err := ValidateModel(r.Model); err != nil {
		return err
	}
	switch {
	case r.Prompt == nil && len(r.Messages) == 0:
		return Invalid("messages", "must hold at least one message")
	case r.Prompt != nil && len(r.Messages) > 0:
		return Invalid("prompt", "and messages exclude each other")
	case r.Prompt != nil && *r.Prompt == "":
		return Invalid("prompt", "is empty")
	}
	for i, m := range r.Messages {
		switch m.Role {
		case "system", "user", "assistant", "tool":
		case "":
			return Invalid(indexed("messages", i, "role"), "is missing")
		default:
			return Invalid(indexed("messages", i, "role"), "must be system, user, assistant or tool, not "+quote(m.Role))
		}
	}
	return nil
}

func (r *Request) validateSampling() error {
	ranges := []struct {
		field    string
		value    *float64
		from, to float64
	}{
		{"temperature", r.Temperature, 0, 2},
		{"top_p", r.TopP, 0, 1},
		{"min_p", r.MinP, 0, 1},
		{"repetition_penalty", r.RepetitionPenalty, 0.01, 10},
		{"presence_penalty", r.PresencePenalty, -2, 2},
		{"frequency_penalty", r.FrequencyPenalty, -2, 2},
	}
	for _, c := range ranges {
		if c.value != nil && !(*c.value >= c.from && *c.value <= c.to) {
			return Invalid(c.field, "must be from "+number(c.from)+" to "+number(c.to)+", not "+number(*c.value))
		}
	}
	for token, bias := range r.LogitBias {
		if !(bias >= -100 && bias <= 100) || token < 0 {
			return Invalid("logit_bias", "must map token ids to numbers from -100 to 100")
		}
	}
	if r.TopK != nil && *r.TopK < 0 {
		return Invalid("top_k", "must be 0 or more, not "+number(float64(*r.TopK)))
	}
	return nil
}

func (r *Request) validateLimits() error {
	if r.MaxTokens != nil && *r.MaxTokens < 1 {
		return Invalid("max_tokens", "must be 1 or more, not "+number(float64(*r.MaxTokens)))
	}
	if len(r.Stop) > MaxStopSequences {
		return Invalid("stop", "may hold at most "+number(MaxStopSequences)+" sequences")
	}
	for i, s := range r.Stop {
		if s == "" || len(s) > MaxStopBytes {
			return Invalid(indexed("stop", i, ""), "must be 1 to "+number(MaxStopBytes)+" bytes long")
		}
	}
	if r.TopLogprobs < 0 || r.TopLogprobs > MaxTopLogprobs {
		return Invalid("top_logprobs", "must be from 0 to "+number(MaxTopLogprobs))
	}
	if len(r.Session) > MaxSessionBytes {
		return Invalid("session", "may be at most "+number(MaxSessionBytes)+" bytes long")
	}
	if r.Timeout < 0 {
		return Invalid("timeout", "must not be negative")
	}
	return nil
}
