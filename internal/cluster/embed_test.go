package cluster_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestGrammarIsChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind         cluster.GrammarKind
		value        string
		field, claim string // empty: it is right
	}{
		{cluster.GrammarJSONObject, "", "", ""},
		{cluster.GrammarJSONSchema, ` {"type":"object"}`, "", ""},
		{cluster.GrammarRegex, `"a+"`, "", ""},
		{cluster.GrammarLark, `"start: \"a\""`, "", ""},
		{cluster.GrammarJSONSchema, "", "grammar.value", "which is an object"},
		{cluster.GrammarJSONSchema, "[]", "grammar.value", "which is an object"},
		{cluster.GrammarJSONSchema, "{", "grammar.value", "not valid JSON"},
		{cluster.GrammarRegex, `""`, "grammar.value", "not empty"},
		{cluster.GrammarRegex, `{}`, "grammar.value", "a string"},
		{cluster.GrammarLark, ``, "grammar.value", "a string"},
		{cluster.GrammarRegex, `"` + strings.Repeat("a", cluster.MaxGrammarBytes) + `"`, "grammar.value", "at most 65536"},
		{"xml", `"a"`, "grammar.kind", `not "xml"`},
	} {
		prompt := "hi"
		r := cluster.Request{Model: "m", Prompt: &prompt, Grammar: &cluster.Grammar{Kind: c.kind, Value: json.RawMessage(c.value)}}
		err := r.Validate()
		if (err == nil) != (c.claim == "") || err != nil && !strings.Contains(err.Error(), c.claim) {
			t.Errorf("%s %.20s: %v, want %q", c.kind, c.value, err, c.claim)
		}
		if err != nil && cluster.AsError(err).Field != c.field {
			t.Errorf("%s %.20s: field %q", c.kind, c.value, cluster.AsError(err).Field)
		}
	}
}

func TestEmbedRequestIsChecked(t *testing.T) {
	t.Parallel()
	one := []cluster.EmbedInput{{Prompt: "a"}, {Tokens: []int{1}}}
	for _, c := range []struct {
		req   cluster.EmbedRequest
		field string // empty: it is right
	}{
		{cluster.EmbedRequest{Model: "m", Inputs: one}, ""},
		{cluster.EmbedRequest{Model: "m", Inputs: one, Pooling: cluster.PoolingMean}, ""},
		{cluster.EmbedRequest{Inputs: one}, "model"},
		{cluster.EmbedRequest{Model: "m"}, "inputs"},
		{cluster.EmbedRequest{Model: "m", Inputs: make([]cluster.EmbedInput, cluster.MaxEmbedInputs+1)}, "inputs"},
		{cluster.EmbedRequest{Model: "m", Inputs: one, Pooling: "max"}, "pooling"},
		{cluster.EmbedRequest{Model: "m", Inputs: []cluster.EmbedInput{{Prompt: "a"}, {}}}, "inputs[1]"},
		{cluster.EmbedRequest{Model: "m", Inputs: []cluster.EmbedInput{{Prompt: "a", Tokens: []int{1}}}}, "inputs[0]"},
	} {
		err := c.req.Validate()
		if (err == nil) != (c.field == "") || err != nil && cluster.AsError(err).Field != c.field {
			t.Errorf("%+v: %v, want %q", c.req, err, c.field)
		}
	}
}
