package openai

import (
	"strconv"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// formatField is where a client asks for a form of the answer.
const formatField = "response_format"

// useFormat is the claim about other fields for the same.
const useFormat = "is not supported: use " + formatField

// readFormat reads what form the answer has to have; nil is any. A schema is followed whether it is called strict or not.
func readFormat(o *wire.Object) *cluster.Grammar {
	format := o.Object(formatField)
	if format == nil {
		return nil
	}
	var grammar *cluster.Grammar
	switch kind := format.String("type"); kind {
	case "text":
	case "json_object":
		grammar = &cluster.Grammar{Kind: cluster.GrammarJSONObject}
	case "json_schema":
		grammar = readSchema(format)
	case "":
		format.Fail("type", "is missing")
	default:
		unsupported(format, "type", quote(kind)+" is not supported: it must be text, json_object or json_schema")
	}
	o.Take(format)
	return grammar
}

func readSchema(format *wire.Object) *cluster.Grammar {
	outer := format.Object("json_schema")
	if outer == nil {
		format.Fail("json_schema", "is missing")
		return nil
	}
	outer.String("name")
	outer.String("description")
	outer.Bool("strict")
	schema := outer.Raw("schema")
	switch {
	case schema == nil:
		outer.Fail("schema", "is missing")
	case outer.Kind("schema") != "an object":
		outer.Fail("schema", "must be an object, not "+outer.Kind("schema"))
	case len(schema) > cluster.MaxGrammarBytes:
		outer.Fail("schema", "may be at most "+strconv.Itoa(cluster.MaxGrammarBytes)+" bytes long")
	}
	format.Take(outer)
	return &cluster.Grammar{Kind: cluster.GrammarJSONSchema, Value: schema}
}
