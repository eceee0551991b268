package mlxbridge

import (
	"context"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Engine is one loaded model that answers requests. All methods are safe for concurrent use.
//
// The worker process behind a real model is an Engine; enginetest has one that needs no MLX. What holds for both is
// asserted by enginetest.Conformance.
type Engine interface {
	// Info describes the model as the engine loaded it.
	Info() Info
	// Generate answers req. It calls emit in order, from one goroutine, and returns after the chunk that has Finish
	// set, or with an error and no such chunk: then what was emitted is a true prefix of an answer. When ctx ends, the
	// row leaves the batch within one step and Generate returns cluster.CodeCancelled or CodeTimeout. A slow emit
	// never slows other requests: text of consecutive steps is merged while emit is busy.
	Generate(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk)) error
	// Embed returns vectors of length one of a model that gives its hidden states, else cluster.CodeUnsupported. They are
	// computed between the steps of answers, which it does not hold up.
	Embed(ctx context.Context, req *cluster.EmbedRequest) (cluster.Embeddings, error)
	// Tokenize returns the tokens of the prompt of req, through the chat template for messages. Only Messages, Prompt,
	// Tools and TemplateArgs count.
	Tokenize(ctx context.Context, req *cluster.Request) ([]int, error)
	// Detokenize returns the text of tokens, as many as the model's context at most.
	Detokenize(ctx context.Context, tokens []int) (string, error)
	// Stats returns the newest account of the engine, without asking it.
	Stats() Stats
	// Set changes what the engine may use, from its next step on. The channel is closed when it has given back what it
	// holds beyond that; never, for an engine that ends before. It does not wait.
	Set(Settings) <-chan struct{}
	// Done is closed when the engine can answer no more; Err then says why (nil after Close).
	Done() <-chan struct{}
	Err() error
	// Close ends the engine and everything that it started; running requests fail. It returns when nothing is left, or
	// when ctx ends, after killing what would not go.
	Close(ctx context.Context) error
}

// Launcher starts engines. Launch returns when the engine has produced a token, or fails with a *cluster.Error:
// CodeBadModel for a folder that cannot be loaded, CodeWorkerCrashed for a worker that died, CodeInternal for an
// environment that is broken.
type Launcher interface {
	Launch(ctx context.Context, spec LaunchSpec) (Engine, error)
}

// LaunchSpec says what to load and what it may use.
type LaunchSpec struct {
	Model cluster.Model
	Dir   string // holds the model's files
	// MemoryBytes is all that the worker may use: weights, live KV, prefix store, scratch. Zero means no limit.
	MemoryBytes int64
	// PrefixBytes is how much of that is for stored prefixes; zero leaves it to the engine.
	PrefixBytes int64
	// MaxRows bounds the requests that run at once; zero means the engine's default.
	MaxRows int
	Adapter string // folder of a LoRA adapter
	// Draft is the folder of a smaller model of the same vocabulary, which guesses for a request that runs alone. Its
	// memory counts as well.
	Draft string
	// KVBits are those of keys and values of running requests: 4 or 8, or zero for what the model computes in. With 4
	// or 8 requests share no batch: each takes less memory, and many are slower.
	KVBits  int
	Options LaunchOptions
}

// LaunchOptions are choices that an engine makes itself where they are zero.
type LaunchOptions struct {
	SessionSeconds float64 `json:"session_seconds,omitempty"`
	StoredBits     int     `json:"stored_bits,omitempty"` // quantisation of stored prefixes: 4, 8, or 0 for none
	SpillDir       string  `json:"spill_dir,omitempty"`   // where stored prefixes go that memory has no room for
	SpillBytes     int64   `json:"spill_bytes,omitempty"`
	Speculate      string  `json:"speculate,omitempty"` // "auto", "off"
	Wired          string  `json:"wired,omitempty"`     // "weights", "off"
	Context        int     `json:"context,omitempty"`   // tokens; at most what the model has
}

// Settings are changes to a running engine. A zero field leaves a thing as it is.
type Settings struct {
	MemoryBytes int64 // as in LaunchSpec; rows that no longer fit start again later
	PrefixBytes int64
	MaxRows     int // rows above it that run already finish
	// Pressure is the machine's: 1 normal, 2 warning, 4 critical. At 2 half of the stored prefixes go, at 4 all of them,
	// and no row starts.
	Pressure int
}

// OutOfMemoryError is the end of a worker that had no memory left.
type OutOfMemoryError struct{ Cause *cluster.Error }

func (e *OutOfMemoryError) Error() string { return e.Cause.Error() }

// Unwrap returns the cause, of CodeWorkerCrashed.
func (e *OutOfMemoryError) Unwrap() error { return e.Cause }

// Info describes a loaded model.
type Info struct {
	PID             int               `json:"pid"`
	Device          string            `json:"device"`   // "gpu", "cpu"
	Versions        map[string]string `json:"versions"` // mlx, mlx_lm, python, blas, …
	WeightBytes     int64             `json:"weight_bytes"`
	KVBytesPerToken int64             `json:"kv_bytes_per_token"`
	Context         int               `json:"context"` // tokens
	Vocabulary      int               `json:"vocabulary"`
	HasTools        bool              `json:"has_tools"`
	HasThinking     bool              `json:"has_thinking"`
	MaxRows         int               `json:"max_rows"`
	Features        Features          `json:"features"`
	Load            time.Duration     `json:"load_ns"`
	Warmup          time.Duration     `json:"warmup_ns"`
}

// Features are what a model can do beside plain text, where it was loaded.
type Features struct {
	Tools      string `json:"tools,omitempty"` // the notation of its tool calls; empty for a model that makes none
	Thinking   bool   `json:"thinking"`
	Grammar    bool   `json:"grammar"`    // answers can be forced into a form
	Embeddings bool   `json:"embeddings"` // it gives its hidden states
	Draft      bool   `json:"draft"`      // a smaller model guesses for it
}

// Stats is what an engine says of itself about once a second, and after every change in the number of rows.
type Stats struct {
	At            time.Time        `json:"at"`
	Running       int              `json:"running"` // rows in prefill or decode
	Waiting       int              `json:"waiting"`
	Counters      cluster.Counters `json:"counters"`
	ActiveBytes   int64            `json:"active_bytes"` // MLX memory in use
	CacheBytes    int64            `json:"cache_bytes"`  // MLX buffer pool
	PeakBytes     int64            `json:"peak_bytes"`
	PrefixBytes   int64            `json:"prefix_bytes"` // prefix store
	PrefixEntries int              `json:"prefix_entries"`
	// Prefixes are digests of what the prefix store holds, as cluster.PrefixChain computes them, most recently used first.
	Prefixes    []string       `json:"prefixes,omitempty"`
	Curve       *cluster.Curve `json:"curve,omitempty"` // nil before anything was measured
	Speculation Speculation    `json:"speculation"`
}

// Speculation counts the tokens that were guessed ahead since the model was loaded. Both only grow.
type Speculation struct {
	Proposed int64 `json:"proposed"`
	Accepted int64 `json:"accepted"` // guesses that were what the model drew
}
