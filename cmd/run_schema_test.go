package cmd

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestRunSchemaFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f, good := hello(), write("good.json", `{"type":"object"}`+"\n")
	if r := (invocation{cluster: f}).run(t, "run", "tiny", "x", "--schema", good); r.code != 0 || f.asked == nil {
		t.Fatalf("%+v", r)
	}
	if g := f.asked.Grammar; g == nil || g.Kind != cluster.GrammarJSONSchema || strings.TrimSpace(string(g.Value)) != `{"type":"object"}` {
		t.Errorf("asked for %+v", g)
	}
	for _, c := range []struct{ file, want string }{
		{filepath.Join(dir, "none"), "read schema: open "},
		{write("broken", "{"), "broken is not valid JSON: "},
		{write("list", "[]"), "list is no JSON schema: it must hold an object"},
		{write("null", "null"), "null is no JSON schema: it must hold an object"},
		{write("large", `{"a":"`+strings.Repeat("a", 64<<10)+`"}`), "large is too large: a schema may be at most 64 KiB"},
	} {
		f := hello()
		r := invocation{cluster: f}.run(t, "run", "tiny", "x", "--schema", c.file)
		if r.code != exitUsage || !strings.Contains(r.err, c.want) || f.asked != nil {
			t.Errorf("%s: %+v", c.want, r)
		}
	}
}

// demand is a schema with little room, and what follows it.
func demand(rng *rand.Rand) (schema string, follows func(map[string]any) bool) {
	words := []string{fmt.Sprintf("w%d", rng.IntN(1000)), fmt.Sprintf("v%d", rng.IntN(1000))}
	from, mark := rng.IntN(900), rng.IntN(100)
	schema = fmt.Sprintf(`{"type":"object","properties":{"word":{"enum":[%q,%q]},"count":{"type":"integer","minimum":%d,"maximum":%d},`+
		`"mark":{"const":"m%d"}},"required":["word","count","mark"],"additionalProperties":false}`,
		words[0], words[1], from, from+5, mark)
	return schema, func(v map[string]any) bool {
		word, _ := v["word"].(string)
		count, _ := v["count"].(float64)
		return len(v) == 3 && slices.Contains(words, word) && count >= float64(from) && count <= float64(from+5) &&
			count == float64(int(count)) && v["mark"] == fmt.Sprintf("m%d", mark)
	}
}

func TestAnswersFollowTheirSchemas(t *testing.T) {
	t.Parallel()
	h := running(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 32 {
		schema, follows := demand(rng)
		question := `What is the capital of Norway?`
		ask := body("tiny", question, `,"response_format":{"type":"json_schema","json_schema":{"name":"a","strict":true,"schema":`+schema+`}}`)
		resp, err := h.post(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Choices []struct {
				Message struct {
					Content string `json:"content"`
				} `json:"message"`
				FinishReason string `json:"finish_reason"`
			} `json:"choices"`
		}
		err = json.NewDecoder(resp.Body).Decode(&got)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || len(got.Choices) != 1 {
			t.Fatalf("%s: status %d, %v", schema, resp.StatusCode, err)
		}
		var value map[string]any
		text := got.Choices[0].Message.Content
		if err := json.Unmarshal([]byte(text), &value); err != nil || !follows(value) || got.Choices[0].FinishReason != "stop" {
			t.Errorf("%d: %q does not follow %s: %v", i, text, schema, err)
		}
	}
	resp, err := h.post(t.Context(), body("tiny", "x", `,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"objekt"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	var refused struct {
		Error struct{ Message, Param string } `json:"error"`
	}
	err = json.NewDecoder(resp.Body).Decode(&refused)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusBadRequest || refused.Error.Param != "response_format" ||
		!strings.Contains(refused.Error.Message, "objekt") {
		t.Errorf("a wrong schema: status %d, %+v, %v", resp.StatusCode, refused, err)
	}
	schema, follows := demand(rng)
	var value map[string]any
	r := h.run("run", "tiny", "What is the capital of Norway?", "--schema", h.write("schema.json", schema))
	if err := json.Unmarshal([]byte(r.out), &value); err != nil || !follows(value) {
		t.Errorf("%+v does not follow %s: %v", r, schema, err)
	}
}
