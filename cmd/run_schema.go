package cmd

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// schemaGrammar makes of a file with a JSON schema the form that an answer has to have.
func schemaGrammar(ctx context.Context, file string) (*cluster.Grammar, error) {
	text, err := readFile(ctx, file)
	if err != nil {
		return nil, &usageError{fmt.Errorf("read schema: %w", err)}
	}
	var schema map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &schema); err != nil || schema == nil {
		if err == nil || json.Valid([]byte(text)) {
			return nil, usagef("%s is no JSON schema: it must hold an object", file)
		}
		return nil, usagef("%s is not valid JSON: %v", file, err)
	}
	if len(text) > cluster.MaxGrammarBytes {
		return nil, usagef("%s is too large: a schema may be at most %d KiB", file, cluster.MaxGrammarBytes>>10)
	}
	return &cluster.Grammar{Kind: cluster.GrammarJSONSchema, Value: json.RawMessage(text)}, nil
}
