package mlxbridge

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// protocolVersion is the version of the frames; docs/worker-protocol.md describes them.
const protocolVersion = 1

// Frames to the worker.
type (
	helloFrame struct {
		Type  string `json:"type"` // "hello"
		Proto int    `json:"proto"`
	}
	loadFrame struct {
		Type        string `json:"type"` // "load"
		Dir         string `json:"dir"`
		Name        string `json:"name"`
		MemoryBytes int64  `json:"memory_bytes"`
		MaxRows     int    `json:"max_rows,omitempty"`
		PrefixBytes int64  `json:"prefix_bytes,omitempty"`
		Adapter     string `json:"adapter,omitempty"`
		Draft       string `json:"draft,omitempty"`
		KVBits      int    `json:"kv_bits,omitempty"`

		Options LaunchOptions `json:"options,omitzero"`
	}
	setFrame struct {
		Type        string `json:"type"` // "set"
		N           int64  `json:"n"`
		MemoryBytes int64  `json:"memory_bytes,omitempty"`
		PrefixBytes int64  `json:"prefix_bytes,omitempty"`
		MaxRows     int    `json:"max_rows,omitempty"`
		Pressure    int    `json:"pressure,omitempty"`
	}
	genFrame struct {
		Type              string                     `json:"type"` // "gen"
		ID                string                     `json:"id"`
		Messages          []cluster.Message          `json:"messages,omitempty"`
		Request           string                     `json:"request,omitempty"` // of all attempts at it
		Tools             []json.RawMessage          `json:"tools,omitempty"`
		ToolChoice        *cluster.ToolChoice        `json:"tool_choice,omitempty"`
		SingleToolCall    bool                       `json:"single_tool_call,omitempty"`
		TemplateArgs      map[string]json.RawMessage `json:"template_args,omitempty"`
		Prompt            *string                    `json:"prompt,omitempty"`
		Continue          []int                      `json:"continue,omitempty"`
		MaxTokens         *int                       `json:"max_tokens,omitempty"`
		Temperature       *float64                   `json:"temperature,omitempty"`
		TopP              *float64                   `json:"top_p,omitempty"`
		TopK              *int                       `json:"top_k,omitempty"`
		MinP              *float64                   `json:"min_p,omitempty"`
		RepetitionPenalty *float64                   `json:"repetition_penalty,omitempty"`
		PresencePenalty   *float64                   `json:"presence_penalty,omitempty"`
		FrequencyPenalty  *float64                   `json:"frequency_penalty,omitempty"`
		LogitBias         map[int]float64            `json:"logit_bias,omitempty"`
		Seed              *int64                     `json:"seed,omitempty"`
		Stop              []string                   `json:"stop,omitempty"`
		Logprobs          bool                       `json:"logprobs,omitempty"`
		TopLogprobs       int                        `json:"top_logprobs,omitempty"`
		Session           string                     `json:"session,omitempty"`
		Grammar           *cluster.Grammar           `json:"grammar,omitempty"`
	}
	idFrame struct {
		Type string `json:"type"` // "cancel"
		ID   string `json:"id"`
	}
	pingFrame struct {
		Type string `json:"type"` // "ping"
		N    int64  `json:"n"`
	}
	bareFrame struct {
		Type string `json:"type"` // "shutdown"
	}
)

func newLoadFrame(name string, spec *LaunchSpec) loadFrame {
	return loadFrame{
		Type: "load", Dir: spec.Dir, Name: name, MemoryBytes: spec.MemoryBytes, MaxRows: spec.MaxRows,
		PrefixBytes: spec.PrefixBytes, Adapter: spec.Adapter, Draft: spec.Draft, KVBits: spec.KVBits, Options: spec.Options,
	}
}

func newGenFrame(id string, r *cluster.Request) genFrame {
	return genFrame{
		Type: "gen", ID: id, Request: string(r.ID), ToolChoice: r.ToolChoice, SingleToolCall: r.SingleToolCall,
		Messages: r.Messages, Tools: r.Tools, TemplateArgs: r.TemplateArgs, Prompt: r.Prompt, Continue: r.Continue,
		MaxTokens: r.MaxTokens, Temperature: r.Temperature, TopP: r.TopP, TopK: r.TopK, MinP: r.MinP,
		RepetitionPenalty: r.RepetitionPenalty, PresencePenalty: r.PresencePenalty,
		FrequencyPenalty: r.FrequencyPenalty, LogitBias: r.LogitBias, Seed: r.Seed, Stop: r.Stop,
		Logprobs: r.Logprobs, TopLogprobs: r.TopLogprobs, Session: r.Session, Grammar: r.Grammar,
	}
}

// workerFrame is any frame from the worker; Type says which fields count.
type workerFrame struct {
	Type string `json:"type"`
	ID   string `json:"id"`

	// ready
	Proto    int               `json:"proto"`
	Versions map[string]string `json:"versions"`
	Device   string            `json:"device"`
	PID      int               `json:"pid"`

	// loaded
	WeightBytes     int64    `json:"weight_bytes"`
	KVBytesPerToken int64    `json:"kv_bytes_per_token"`
	Context         int      `json:"context"`
	Vocabulary      int      `json:"vocabulary"`
	HasTools        bool     `json:"has_tools"`
	HasThinking     bool     `json:"has_thinking"`
	MaxRows         int      `json:"max_rows"`
	LoadMS          float64  `json:"load_ms"`
	WarmMS          float64  `json:"warm_ms"`
	Features        Features `json:"features"`

	// load_error, error, log, fatal
	Code    cluster.Code `json:"code"`
	Message string       `json:"message"`
	Field   string       `json:"field"`
	Level   string       `json:"level"`

	// accepted, embedding; also inside usage
	frameUsage

	N           int64 `json:"n"` // obeyed
	frameAnswer       // embedding, tokens, text

	// progress
	Done  int `json:"done"`
	Total int `json:"total"`

	Rows []stepRow `json:"rows"` // step

	// done
	Reason string      `json:"reason"`
	Stop   string      `json:"stop"`
	Usage  frameUsage  `json:"usage"`
	Timing frameTiming `json:"timing"`

	// stats
	Running       int              `json:"running"`
	Waiting       int              `json:"waiting"`
	Counters      cluster.Counters `json:"counters"`
	ActiveBytes   int64            `json:"active_bytes"`
	CacheBytes    int64            `json:"cache_bytes"`
	PeakBytes     int64            `json:"peak_bytes"`
	PrefixBytes   int64            `json:"prefix_bytes"`
	PrefixEntries int              `json:"prefix_entries"`
	Speculation   Speculation      `json:"speculation"`
	Prefixes      []string         `json:"prefixes"`
	Curve         *cluster.Curve   `json:"curve"`
}

type frameUsage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CachedTokens     int `json:"cached_tokens"`
	CompletionTokens int `json:"completion_tokens"`
}

type frameTiming struct {
	QueueMS   float64 `json:"queue_ms"`
	PrefillMS float64 `json:"prefill_ms"`
	DecodeMS  float64 `json:"decode_ms"`
}

// stepRow is what one step adds to one request: [id, text, [token, …]] and, where they are needed, [logprob, …] or null,
// and what is no text.
type stepRow struct {
	ID       string
	Text     string
	Tokens   []int
	Logprobs []frameLogprob
	Extra    stepExtra
}

// stepExtra is what a row adds besides text.
type stepExtra struct {
	Reasoning string                  `json:"reasoning"`
	Calls     []cluster.ToolCallDelta `json:"calls"`
}

// UnmarshalJSON reads the array that a row is.
func (r *stepRow) UnmarshalJSON(data []byte) error {
	fields := make([]json.RawMessage, 0, 5)
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	into := []any{&r.ID, &r.Text, &r.Tokens, &r.Logprobs, &r.Extra}
	if len(fields) < 3 || len(fields) > len(into) {
		return fmt.Errorf("row of a step has %d fields", len(fields))
	}
	for i, field := range fields {
		if err := json.Unmarshal(field, into[i]); err != nil {
			return err
		}
	}
	return nil
}

type frameLogprob struct {
	Token   int            `json:"t"`
	Text    string         `json:"s"`
	Bytes   []int          `json:"b"`
	Logprob float64        `json:"l"`
	Top     []frameLogprob `json:"top"`
}

func (l *frameLogprob) value() cluster.TokenLogprob {
	v := cluster.TokenLogprob{Token: l.Token, Text: l.Text, Logprob: l.Logprob}
	for _, b := range l.Bytes {
		v.Bytes = append(v.Bytes, byte(b))
	}
	for i := range l.Top {
		v.Top = append(v.Top, l.Top[i].value())
	}
	return v
}

func (f *workerFrame) usage() *cluster.Usage {
	return &cluster.Usage{
		PromptTokens: f.Usage.PromptTokens, CachedTokens: f.Usage.CachedTokens,
		CompletionTokens: f.Usage.CompletionTokens,
		Queue:            milliseconds(f.Timing.QueueMS),
		Prefill:          milliseconds(f.Timing.PrefillMS), Decode: milliseconds(f.Timing.DecodeMS),
	}
}

func (f *workerFrame) info(ready *workerFrame) Info {
	return Info{
		PID: ready.PID, Device: ready.Device, Versions: ready.Versions,
		WeightBytes: f.WeightBytes, KVBytesPerToken: f.KVBytesPerToken, Context: f.Context, Vocabulary: f.Vocabulary,
		HasTools: f.HasTools, HasThinking: f.HasThinking, MaxRows: f.MaxRows, Features: f.Features,
		Load: milliseconds(f.LoadMS), Warmup: milliseconds(f.WarmMS),
	}
}

func (f *workerFrame) stats(at time.Time) Stats {
	curve := f.Curve
	if curve != nil && (!curve.Valid() || len(curve.Decode)+len(curve.Prefill) == 0) {
		curve = nil
	}
	return Stats{
		At: at, Running: f.Running, Waiting: f.Waiting, Counters: f.Counters,
		ActiveBytes: f.ActiveBytes, CacheBytes: f.CacheBytes, PeakBytes: f.PeakBytes,
		PrefixBytes: f.PrefixBytes, PrefixEntries: f.PrefixEntries, Prefixes: f.Prefixes,
		Curve: curve, Speculation: f.Speculation,
	}
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
