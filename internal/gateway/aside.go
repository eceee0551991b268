package gateway

import (
	"net/http"
	"slices"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/openai"
)

// ask reads the body of a request for something that is no answer, asks for it, and answers with what render makes of it.
func (v *visit) ask(parse func(body []byte) (*cluster.Aside, error), render func(*cluster.AsideReply) []byte) {
	body, err := v.body()
	if err != nil {
		v.fail(err)
		return
	}
	q, err := parse(body)
	var headers cluster.Request
	if err == nil {
		err = v.readHeaders(&headers)
	}
	if err != nil {
		v.fail(err)
		return
	}
	q.ID, q.Timeout = cluster.RequestID(v.requestID()), headers.Timeout
	reply, err := v.g.o.Backend.Ask(v.r.Context(), q)
	if err != nil {
		v.fail(err)
		return
	}
	v.reply(http.StatusOK, render(reply))
}

func (g *Gateway) embed(v *visit) {
	var e *openai.Embedding
	v.ask(func(body []byte) (q *cluster.Aside, err error) {
		if e, err = openai.ParseEmbedding(body); err != nil {
			return nil, err
		}
		return e.Aside(), nil
	}, func(r *cluster.AsideReply) []byte { return e.AppendReply(nil, r) })
}

func (g *Gateway) tokenize(v *visit) {
	context := 0
	v.ask(func(body []byte) (*cluster.Aside, error) {
		q, err := openai.ParseTokenize(body)
		if err != nil {
			return nil, err
		}
		models := g.o.Backend.Models()
		if i := slices.IndexFunc(models, func(m cluster.Model) bool { return m.Name == q.Model }); i >= 0 {
			context = models[i].Context
		}
		return q, nil
	}, func(r *cluster.AsideReply) []byte { return openai.Dialect{}.AppendTokens(nil, r.Tokens, context) })
}

func (g *Gateway) detokenize(v *visit) {
	v.ask(openai.ParseDetokenize, func(r *cluster.AsideReply) []byte { return openai.Dialect{}.AppendText(nil, r.Text) })
}
