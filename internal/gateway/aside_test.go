package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway"
)

func TestVectorsAndTokens(t *testing.T) {
	t.Parallel()
	var got *cluster.Aside
	b := &backend{
		models: []cluster.Model{{Name: "m", Context: 64}},
		reply: func(q *cluster.Aside) (*cluster.AsideReply, error) {
			got = q
			if q.Model == "none" {
				return nil, cluster.Invalid("inputs[1]", "inputs[1] is too long")
			}
			return &cluster.AsideReply{Vectors: []cluster.Vector{{1, -0.5}}, PromptTokens: 3, Tokens: []int{7, 8}, Text: "a\"b"}, nil
		},
	}
	s := start(t, gateway.Options{Backend: b})
	text := "fox"
	one := []cluster.EmbedInput{{Prompt: text}}
	vectors := func(embedding string) string {
		return `{"object":"list","data":[{"object":"embedding","index":0,"embedding":` + embedding +
			`}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}` + "\n"
	}
	for name, c := range map[string]struct {
		path, body string
		want       cluster.Aside
		answer     string
	}{
		"text":   {"/v1/embeddings", `{"model":"m","input":"fox"}`, cluster.Aside{Embed: &cluster.EmbedRequest{Inputs: one}}, vectors("[1,-0.5]")},
		"base64": {"/v1/embeddings", `{"model":"m","input":["fox"],"encoding_format":"base64"}`, cluster.Aside{Embed: &cluster.EmbedRequest{Inputs: one}}, vectors(`"AACAPwAAAL8="`)},
		"mean": {
			"/v1/embeddings", `{"model":"m","input":["fox","ox"],"pooling":"mean","encoding_format":"float"}`,
			cluster.Aside{Embed: &cluster.EmbedRequest{Inputs: append(one, cluster.EmbedInput{Prompt: "ox"}), Pooling: cluster.PoolingMean}},
			vectors("[1,-0.5]"),
		},
		"ids": {
			"/v1/embeddings", `{"model":"m","input":[5,6]}`,
			cluster.Aside{Embed: &cluster.EmbedRequest{Inputs: []cluster.EmbedInput{{Tokens: []int{5, 6}}}}},
			vectors("[1,-0.5]"),
		},
		"lists of ids": {
			"/v1/embeddings", `{"model":"m","input":[[5,6],[7]]}`,
			cluster.Aside{Embed: &cluster.EmbedRequest{Inputs: []cluster.EmbedInput{{Tokens: []int{5, 6}}, {Tokens: []int{7}}}}},
			vectors("[1,-0.5]"),
		},
		"tokens": {
			"/tokenize", `{"model":"m","prompt":"fox"}`,
			cluster.Aside{Tokenize: &cluster.Request{Model: "m", Prompt: &text}},
			`{"count":2,"max_model_len":64,"tokens":[7,8]}` + "\n",
		},
		"tokens of a chat": {
			"/tokenize", `{"model":"m","messages":[{"role":"user","content":"fox"}]}`,
			cluster.Aside{Tokenize: &cluster.Request{Model: "m", Messages: []cluster.Message{{Role: "user", Content: text}}}},
			`{"count":2,"max_model_len":64,"tokens":[7,8]}` + "\n",
		},
		"text of tokens": {"/detokenize", `{"model":"m","tokens":[7,8]}`, cluster.Aside{Detokenize: []int{7, 8}}, `{"prompt":"a\"b"}` + "\n"},
	} {
		resp := s.ask(t.Context(), t, http.MethodPost, c.path, c.body, "X-Request-Timeout", "2")
		if answer := read(t, resp); resp.StatusCode != http.StatusOK || answer != c.answer {
			t.Errorf("%s: %d %s", name, resp.StatusCode, answer)
			continue
		}
		c.want.ID, c.want.Model, c.want.Timeout = got.ID, "m", 2e9
		if diff := cmp.Diff(c.want, *got); diff != "" || !strings.HasPrefix(string(got.ID), "r-") {
			t.Errorf("%s: %s", name, diff)
		}
	}
	many := `["a"` + strings.Repeat(`,"a"`, cluster.MaxEmbedInputs) + `]`
	for name, c := range map[string]struct{ path, body, says string }{
		"dimensions":   {"/v1/embeddings", `{"model":"m","input":"fox","dimensions":4}`, `"param":"dimensions"`},
		"format":       {"/v1/embeddings", `{"model":"m","input":"fox","encoding_format":"int8"}`, `must be float or base64, not \"int8\"`},
		"no model":     {"/v1/embeddings", `{"input":"fox"}`, `"param":"model"`},
		"no input":     {"/v1/embeddings", `{"model":"m"}`, `input is missing`},
		"empty":        {"/v1/embeddings", `{"model":"m","input":["a",""]}`, `"param":"input[1]"`},
		"empty list":   {"/v1/embeddings", `{"model":"m","input":[]}`, `"param":"input"`},
		"mixed":        {"/v1/embeddings", `{"model":"m","input":[[5],"a"]}`, `"param":"input[1]"`},
		"other mixed":  {"/v1/embeddings", `{"model":"m","input":["a",[5]]}`, `"param":"input`},
		"no ids":       {"/v1/embeddings", `{"model":"m","input":[1,-2]}`, `must hold token ids`},
		"an object":    {"/v1/embeddings", `{"model":"m","input":{}}`, `"param":"input"`},
		"too many":     {"/v1/embeddings", `{"model":"m","input":` + many + `}`, `at most 256 texts`},
		"pooling":      {"/v1/embeddings", `{"model":"m","input":"fox","pooling":"max"}`, `"param":"pooling"`},
		"no JSON":      {"/v1/embeddings", `{"model"`, `invalid_request_error`},
		"from inside":  {"/v1/embeddings", `{"model":"none","input":["a","b"]}`, `"param":"input"`},
		"no prompt":    {"/tokenize", `{"model":"m"}`, `"param":"prompt"`},
		"no tokens":    {"/detokenize", `{"model":"m","tokens":[]}`, `"param":"tokens"`},
		"ids as texts": {"/detokenize", `{"model":"m","tokens":["7"]}`, `"param":"tokens"`},
	} {
		resp := s.ask(t.Context(), t, http.MethodPost, c.path, c.body)
		if answer := read(t, resp); resp.StatusCode != http.StatusBadRequest || !strings.Contains(answer, c.says) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, answer)
		}
	}
	resp := s.ask(t.Context(), t, http.MethodGet, "/v1/embeddings", "")
	if read(t, resp); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET gives %d", resp.StatusCode)
	}
}
