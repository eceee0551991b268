package cluster

import (
	"bytes"
	"encoding/json"
)

// MaxGrammarBytes bounds the value of a Grammar: a longer one takes longer to compile than a request may take from others.
const MaxGrammarBytes = 64 << 10

// GrammarKind is the language that a Grammar is written in.
type GrammarKind string

// Kinds of a Grammar.
const (
	GrammarJSONObject GrammarKind = "json_object" // any JSON object; there is no value
	GrammarJSONSchema GrammarKind = "json_schema" // the value is the schema
	GrammarRegex      GrammarKind = "regex"       // the value is a string
	GrammarLark       GrammarKind = "lark"        // the value is a string, in llguidance's variant of Lark
)

// Grammar is a form that the text of an answer has to have. An answer that max_tokens cuts is the beginning of such a
// text. Whether a schema can be followed in all its parts says the worker, with CodeInvalid or CodeUnsupported.
type Grammar struct {
	Kind  GrammarKind     `json:"kind"`
	Value json.RawMessage `json:"value,omitempty"`
}

func (r *Request) validateGrammar() error {
	g := r.Grammar
	if g == nil {
		return nil
	}
	const field = "grammar.value"
	value := bytes.TrimSpace(g.Value)
	switch {
	case len(value) > MaxGrammarBytes:
		return Invalid(field, "may be at most "+number(MaxGrammarBytes)+" bytes long")
	case len(value) > 0 && !json.Valid(value):
		return Invalid(field, "is not valid JSON")
	}
	switch g.Kind {
	case GrammarJSONObject:
		return nil
	case GrammarJSONSchema:
		if !bytes.HasPrefix(value, []byte("{")) {
			return Invalid(field, "must be a JSON schema, which is an object")
		}
		return nil
	case GrammarRegex, GrammarLark:
		var source string
		if json.Unmarshal(value, &source) != nil || source == "" {
			return Invalid(field, "must be a string that is not empty")
		}
		return nil
	default:
		return Invalid("grammar.kind", "must be json_object, json_schema, regex or lark, not "+quote(string(g.Kind)))
	}
}
