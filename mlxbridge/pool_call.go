package mlxbridge

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Embed returns a vector for each input of req, from the model, which it loads first if need be. Its errors are those of
// Generate.
func (p *Pool) Embed(
	ctx context.Context, m cluster.Model, dir string, req *cluster.EmbedRequest,
) (out cluster.Embeddings, err error) {
	err = p.serve(ctx, m, dir, nil, func(_ *replica, e Engine) error {
		out, err = e.Embed(ctx, req)
		return err
	})
	return out, err
}

// Tokenize returns the tokens of the prompt of req, as Embed does vectors.
func (p *Pool) Tokenize(ctx context.Context, m cluster.Model, dir string, req *cluster.Request) (tokens []int, err error) {
	err = p.serve(ctx, m, dir, nil, func(_ *replica, e Engine) error {
		tokens, err = e.Tokenize(ctx, req)
		return err
	})
	return tokens, err
}

// Detokenize returns the text of tokens, as Embed does vectors.
func (p *Pool) Detokenize(ctx context.Context, m cluster.Model, dir string, tokens []int) (text string, err error) {
	err = p.serve(ctx, m, dir, nil, func(_ *replica, e Engine) error {
		text, err = e.Detokenize(ctx, tokens)
		return err
	})
	return text, err
}

// serve has the engine of a model, which it loads first if need be, do something as one of its users. emit may be nil.
func (p *Pool) serve(
	ctx context.Context, m cluster.Model, dir string, emit func(cluster.Chunk), do func(*replica, Engine) error,
) error {
	r, l, engine, err := p.join(ctx, m, dir, emit)
	if err != nil {
		return err
	}
	defer p.leave(r)
	if engine == nil {
		if engine, err = l.await(ctx, emit); err != nil {
			return err
		}
	}
	err = do(r, engine)
	if cluster.CodeOf(err) == cluster.CodeWorkerCrashed {
		// Whoever hears of the crash finds it in the replica's state, too, and may ask again.
		select {
		case <-engine.Done():
			p.died(r, engine)
		case <-ctx.Done():
		}
	}
	return err
}
