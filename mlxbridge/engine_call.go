package mlxbridge

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Frames to the worker that are answered by one frame.
type (
	embedFrame struct {
		Type    string               `json:"type"` // "embed"
		ID      string               `json:"id"`
		Inputs  []cluster.EmbedInput `json:"inputs"`
		Pooling cluster.Pooling      `json:"pooling,omitempty"`
	}
	detokenizeFrame struct {
		Type   string `json:"type"` // "detokenize"
		ID     string `json:"id"`
		Tokens []int  `json:"tokens"`
	}
)

// frameAnswer is what workerFrame holds of such an answer.
type frameAnswer struct {
	Vectors []string `json:"vectors"` // embedding: little-endian float32 in base64
	Tokens  []int    `json:"tokens"`  // tokens
	Text    string   `json:"text"`    // text
}

// call waits for one frame.
type call struct {
	done  chan struct{} // closed when frame or err is there
	frame *workerFrame
	err   error
}

// Embed returns a vector for each input; see Engine.
func (e *workerEngine) Embed(ctx context.Context, req *cluster.EmbedRequest) (cluster.Embeddings, error) {
	if !e.info.Features.Embeddings { // before its inputs are tokenised
		return cluster.Embeddings{}, cluster.Errorf(cluster.CodeUnsupported,
			"model %s gives no vectors: its architecture does not give its hidden states", e.name)
	}
	f, err := e.ask(ctx, func(id string) any {
		return embedFrame{Type: "embed", ID: id, Inputs: req.Inputs, Pooling: req.Pooling}
	})
	if err != nil {
		return cluster.Embeddings{}, err
	}
	out := cluster.Embeddings{PromptTokens: f.PromptTokens, Vectors: make([][]float32, len(f.Vectors))}
	if len(f.Vectors) != len(req.Inputs) {
		return cluster.Embeddings{}, cluster.Errorf(cluster.CodeInternal,
			"worker of %s gave %d vectors for %d inputs", e.name, len(f.Vectors), len(req.Inputs))
	}
	for i, v := range f.Vectors {
		if out.Vectors[i], err = vector(v); err != nil {
			return cluster.Embeddings{}, cluster.Errorf(cluster.CodeInternal, "worker of %s gave a vector that cannot be read: %v", e.name, err)
		}
	}
	return out, nil
}

func vector(text string) ([]float32, error) {
	const size = 4
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 || len(raw)%size != 0 {
		return nil, errors.New("its length is no multiple of four bytes")
	}
	out := make([]float32, len(raw)/size)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[i*size:]))
	}
	return out, nil
}

// Tokenize returns the tokens of the prompt of req; see Engine.
func (e *workerEngine) Tokenize(ctx context.Context, req *cluster.Request) ([]int, error) {
	f, err := e.ask(ctx, func(id string) any {
		frame := newGenFrame(id, &cluster.Request{
			Messages: req.Messages, Prompt: req.Prompt, Tools: req.Tools, TemplateArgs: req.TemplateArgs,
		})
		frame.Type = "tokenize"
		return frame
	})
	if err != nil {
		return nil, err
	}
	return f.Tokens, nil
}

// Detokenize returns the text of tokens; see Engine.
func (e *workerEngine) Detokenize(ctx context.Context, tokens []int) (string, error) {
	f, err := e.ask(ctx, func(id string) any {
		return detokenizeFrame{Type: "detokenize", ID: id, Tokens: append([]int{}, tokens...)}
	})
	if err != nil {
		return "", err
	}
	return f.Text, nil
}

// ask sends a frame and waits for the one that answers it.
func (e *workerEngine) ask(ctx context.Context, frame func(id string) any) (*workerFrame, error) {
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	c, id, err := e.beginCall(frame)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.done:
		return c.frame, c.err
	case <-ctx.Done():
	}
	e.send(idFrame{Type: "cancel", ID: id})
	waitFor(context.WithoutCancel(ctx), c.done, cancelWait)
	e.mu.Lock()
	delete(e.calls, id)
	e.mu.Unlock()
	return nil, contextError(ctx)
}

func (e *workerEngine) beginCall(frame func(id string) any) (*call, string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, data, err := e.prepare("q", frame)
	if err != nil {
		return nil, "", err
	}
	c := &call{done: make(chan struct{})}
	e.calls[id] = c
	e.out.put(data)
	return c, id, nil
}

// busy says whether the worker owes somebody an answer. Called with mu held.
func (e *workerEngine) busy() bool { return len(e.streams) > 0 || len(e.calls) > 0 }

// endCall gives a frame to the call that waits for it, and says whether there was one.
func (e *workerEngine) endCall(f *workerFrame) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.calls[f.ID]
	if c == nil {
		return false
	}
	delete(e.calls, f.ID)
	switch f.Type {
	case "error":
		err := cluster.Errorf(knownCode(f.Code), "%s", f.Message)
		err.Field = f.Field
		c.err = err
	case "done":
		c.err = cluster.Errorf(cluster.CodeCancelled, "the request was cancelled")
	default:
		c.frame = f
	}
	close(c.done)
	return true
}

// failCalls ends all calls. Called with mu held.
func (e *workerEngine) failCalls(err error) {
	for id, c := range e.calls {
		c.err = err
		close(c.done)
		delete(e.calls, id)
	}
}
