package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/openai"
)

// Backend answers requests. All methods must be safe for concurrent use.
type Backend interface {
	// Dispatch answers req. It calls emit for each chunk in order, never twice at once and never after it returned; the
	// last chunk has Finish set. It returns soon after ctx ends or emit fails.
	Dispatch(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error
	// Ask asks a model for something that is no answer. It returns soon after ctx ends.
	Ask(ctx context.Context, q *cluster.Aside) (*cluster.AsideReply, error)
	// Snapshot is the state of the cluster; it is not changed.
	Snapshot() *cluster.Snapshot
	// Models are those that can be asked for by name.
	Models() []cluster.Model
}

// Options say what a Gateway needs. Backend and APIKeys are required.
type Options struct {
	Backend Backend
	// APIKeys returns the keys of which requests must bring one: more than one while a key is being replaced. It is
	// called for each request, so that a new key counts at once. Without a key nobody is let in.
	APIKeys func() ([]string, error)
	Version string // told by /health
	// MaxBodyBytes bounds a body: 7 MiB, which leaves room for the rest of a message of the bus.
	MaxBodyBytes int64
	// MaxConnections bounds the connections of one listener; more wait to be accepted: 4096.
	MaxConnections int
	Times          Times
	// Finish, when a value comes, has Serve end at the first moment at which no request is open: it holds new connections back
	// to find one, for Times.Pause at a time. When it is closed Serve answers what is open to its end, however long that takes,
	// and takes no more connections than those of Times.Round. Serve returns nil after either. Nil: never.
	Finish <-chan struct{}
	Log    *slog.Logger // nil: silent
}

// Times bound what clients may wait for or hold up. Zero means the value named.
type Times struct {
	// Hold is how long the status of a stream is held back while there is no text, so that early errors get theirs: 2 s.
	Hold      time.Duration
	KeepAlive time.Duration // between two signs of life of a silent stream: 10 s
	Header    time.Duration // for the head of a request, from its first byte: 10 s
	Body      time.Duration // for its body: 60 s
	Write     time.Duration // for a client to take what is written: 30 s
	Idle      time.Duration // of a connection before its first request and between two: 2 min
	// Round is what clients that keep their connections get to learn, with an answer, that theirs is closed after it, once
	// Options.Finish is closed. One that was idle throughout is closed, as any idle one may be: 1 s.
	Round time.Duration
	// Pause is how long new connections may be held back while Serve looks for an end: 5 s.
	Pause time.Duration
	// Grace is what requests under way get when Serve ends; a second later all connections are closed: 4 s.
	Grace time.Duration
}

func (t *Times) fill() {
	for _, f := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&t.Hold, 2 * time.Second},
		{&t.KeepAlive, 10 * time.Second},
		{&t.Header, 10 * time.Second},
		{&t.Body, time.Minute},
		{&t.Write, 30 * time.Second},
		{&t.Idle, 2 * time.Minute},
		{&t.Round, time.Second},
		{&t.Pause, 5 * time.Second},
		{&t.Grace, 4 * time.Second},
	} {
		if *f.value <= 0 {
			*f.value = f.usual
		}
	}
}

const (
	defaultBodyBytes   = 7 << 20
	defaultConnections = 4096
)

// Gateway speaks HTTP for a Backend. It is safe for concurrent use and may serve several listeners.
type Gateway struct {
	o      Options
	routes map[string]route
}

// New makes a Gateway.
func New(o Options) *Gateway {
	o.Times.fill()
	if o.MaxBodyBytes <= 0 {
		o.MaxBodyBytes = defaultBodyBytes
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = defaultConnections
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{o: o}
	g.routes = g.table()
	return g
}

// Handler answers requests for as long as it is called; Serve adds limits on connections and an orderly end.
func (g *Gateway) Handler() http.Handler { return http.HandlerFunc(g.serve) }

// dialect renders what belongs to no answer.
type dialect interface {
	AppendError(dst []byte, e *cluster.Error) []byte
}

// answer is one request as its dialect understood it, and the way to render what comes back.
type answer interface {
	Request() *cluster.Request
	// Choices is how many answers to Request are wanted; each chunk is of one of them.
	Choices() int
	Begin(id string, at time.Time)

	// A stream is AppendChunk for each chunk, with AppendAlive between, or AppendFailure instead of the last.
	Streams() bool
	ContentType() string
	AppendChunk(dst []byte, choice int, c *cluster.Chunk) []byte
	AppendAlive(dst []byte) []byte
	AppendFailure(dst []byte, e *cluster.Error) []byte

	// A whole answer is Collect for each chunk, then AppendWhole.
	Collect(choice int, c *cluster.Chunk)
	AppendWhole(dst []byte) []byte
}

// parser reads a body, which it may keep.
type parser func(body []byte) (answer, error)

func (g *Gateway) table() map[string]route {
	openAI := openai.Dialect{}
	chat := func(body []byte) (answer, error) { return openai.ParseChat(body) }
	completion := func(body []byte) (answer, error) { return openai.ParseCompletion(body) }
	return map[string]route{
		"/health":              {dialect: openAI, method: http.MethodGet, isOpen: true, do: g.health},
		"/v1/chat/completions": {dialect: openAI, method: http.MethodPost, do: g.generate(chat)},
		"/v1/completions":      {dialect: openAI, method: http.MethodPost, do: g.generate(completion)},
		"/v1/embeddings":       {dialect: openAI, method: http.MethodPost, do: g.embed},
		"/tokenize":            {dialect: openAI, method: http.MethodPost, do: g.tokenize},
		"/detokenize":          {dialect: openAI, method: http.MethodPost, do: g.detokenize},
		"/v1/models":           {dialect: openAI, method: http.MethodGet, do: g.listModels(openAI)},
		"/v1/models/":          {dialect: openAI, method: http.MethodGet, isPrefix: true, do: g.showModel(openAI)},
	}
}
