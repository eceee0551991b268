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
	// MaxRows bounds the requests that run at once; zero means the engine's default.
	MaxRows int
	// DraftDir holds the files of a smaller model of the same vocabulary, which guesses for a request that runs alone;
	// empty means none. Its memory counts as well.
	DraftDir string
	// KVBits are those of keys and values of running requests: 4 or 8, or zero for what the model computes in. With 4
	// or 8 requests share no batch: each takes less memory, and many are slower.
	KVBits int
	// NoSpeculation keeps the engine from guessing ahead when a request runs alone. Answers are the same either way.
	NoSpeculation bool
	// SessionTTL is how long the prefix store prefers what a session used; zero means the engine's default.
	SessionTTL time.Duration
	// StoredBits is 0 or what stored prefixes are quantised to, 4 or 8: smaller, and no longer exact.
	StoredBits int
	// SpillDir is where prefixes that memory has no room for are kept, at most SpillBytes. Empty or zero: nowhere.
	SpillDir   string
	SpillBytes int64
}

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
	Load            time.Duration     `json:"load_ns"`
	Warmup          time.Duration     `json:"warmup_ns"`
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
