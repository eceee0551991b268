package cluster

import "time"

// Chunk is one ordered piece of an answer. Chunks of one stream come in order, without gaps; the last one has Finish
// set and carries Usage. A stream that fails ends with an error instead and has no last chunk.
//
// Within a chunk Reasoning comes before Text, and Text before ToolCalls; where the model has another order, it is that of
// several chunks.
type Chunk struct {
	// Text is the answer proper: no reasoning, no calls.
	Text      string          `json:"text,omitempty"`
	Reasoning string          `json:"reasoning,omitempty"`
	ToolCalls []ToolCallDelta `json:"tool_calls,omitempty"`
	// Tokens are the ids behind all that, so that another node can continue the stream. They may run ahead of it
	// while an incomplete character, a possible stop sequence or a possible tool call is held back.
	Tokens   []int          `json:"tokens,omitempty"`
	Logprobs []TokenLogprob `json:"logprobs,omitempty"`
	Finish   FinishReason   `json:"finish,omitempty"`
	// StopSequence is the one that ended the answer, if one did.
	StopSequence string `json:"stop_sequence,omitempty"`
	Usage        *Usage `json:"usage,omitempty"`
	// Node and its name are set on the first chunk of an attempt, and on the last.
	Node     NodeID `json:"node,omitempty"`
	NodeName string `json:"node_name,omitempty"`
	// Progress is set on chunks that carry no text: what is being waited for.
	Progress *Progress `json:"progress,omitempty"`
}

// Progress reports a phase before the first token: it keeps a long wait alive and visible.
type Progress struct {
	Phase Phase `json:"phase"`
	Done  int   `json:"done,omitempty"` // of Total, in the unit of the phase
	Total int   `json:"total,omitempty"`
}

// Phase is what a request waits for.
type Phase string

// Phases of a request before its first token.
const (
	PhaseQueued  Phase = "queued"
	PhaseLoading Phase = "loading" // the model
	PhasePrefill Phase = "prefill" // Done of Total prompt tokens
)

// FinishReason says why an answer ended.
type FinishReason string

// Reasons for the end of an answer.
const (
	FinishStop   FinishReason = "stop"   // the model ended it, or a stop sequence
	FinishLength FinishReason = "length" // max_tokens, or the end of the context
	// FinishToolCalls is FinishStop of an answer that calls tools.
	FinishToolCalls FinishReason = "tool_calls"
)

// TokenLogprob is one generated token with its log probability.
type TokenLogprob struct {
	Token   int            `json:"token"`
	Text    string         `json:"text"`
	Bytes   []byte         `json:"bytes,omitempty"`
	Logprob float64        `json:"logprob"`
	Top     []TokenLogprob `json:"top,omitempty"`
}

// Usage is the final account of one request.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CachedTokens     int `json:"cached_tokens"` // of PromptTokens, not computed again
	CompletionTokens int `json:"completion_tokens"`
	// Durations are measured where they happen: Queue in the controller, the rest in the worker.
	Queue   time.Duration `json:"queue_ns"`
	Prefill time.Duration `json:"prefill_ns"`
	Decode  time.Duration `json:"decode_ns"`
	// Shared says that an identical request's generation was read: the counts and durations are those of that one.
	Shared bool `json:"shared,omitempty"`
}
