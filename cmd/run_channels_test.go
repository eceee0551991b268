package cmd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func thoughtful(chunks ...cluster.Chunk) *fakeCluster {
	end := cluster.Chunk{Finish: cluster.FinishStop, Usage: &cluster.Usage{}}
	return &fakeCluster{state: twoMacs(), chunks: append(chunks, end)}
}

func TestRunShowsReasoningApart(t *testing.T) {
	t.Parallel()
	chunks := []cluster.Chunk{{Reasoning: "H"}, {Reasoning: "m", Text: "ye"}, {Text: "s"}}
	for _, c := range []struct {
		in   invocation
		args []string
		want result
	}{
		{invocation{}, nil, result{0, "yes", "Hm\n"}},
		{invocation{tty: true}, []string{"--color", "never"}, result{0, "Hm\n\nyes\n", ""}},
		{invocation{tty: true}, []string{"--color", "always"}, result{0, "\x1b[2mH\x1b[22m\x1b[2mm\x1b[22m\n\nyes\n", ""}},
		{invocation{}, []string{"-o", "json"}, result{0, `{"text":"yes","reasoning":"Hm","model":"tiny","finish_reason":"stop","usage":`, ""}},
		{invocation{}, []string{"-o", "jsonl"}, result{0, `{"text":"","reasoning":"H"}` + "\n" + `{"text":"ye","reasoning":"m"}` + "\n" + `{"text":"s"}` + "\n", ""}},
	} {
		c.in.cluster = thoughtful(chunks...)
		r := c.in.run(t, append([]string{"run", "tiny", "x", "-q"}, c.args...)...)
		if len(c.args) > 1 && c.args[0] == "-o" {
			r.out = strings.NewReplacer("\n  ", "", `": `, `":`).Replace(r.out)[:min(len(c.want.out), len(r.out))]
		}
		if r != c.want {
			t.Errorf("%v: got %+v, want %+v", c.args, r, c.want)
		}
	}
	only := invocation{cluster: thoughtful(cluster.Chunk{Reasoning: "Hm"})}.run(t, "run", "tiny", "x", "-q")
	if want := (result{0, "", "Hm\n"}); only != want {
		t.Errorf("without an answer: %+v", only)
	}
}

func TestRunWithTools(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tools.json")
	tool := `{"type":"function","function":{"name":"f"}}`
	if err := os.WriteFile(file, []byte("["+tool+"]"), 0o600); err != nil {
		t.Fatal(err)
	}
	calls := []cluster.Chunk{
		{Text: "so", ToolCalls: []cluster.ToolCallDelta{{ID: "c", Name: "f", Arguments: "{"}}},
		{ToolCalls: []cluster.ToolCallDelta{{Arguments: "}"}, {Index: 1, ID: "d", Name: "g", Arguments: "{}"}}},
	}
	f := thoughtful(calls...)
	r := invocation{cluster: f}.run(t, "run", "tiny", "x", "-q", "--tools", file, "--think=false")
	first, second := `{"id":"c","name":"f","arguments":"{}"}`, `{"id":"d","name":"g","arguments":"{}"}`
	if want := (result{0, "so\n" + first + "\n" + second + "\n", ""}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	want := &cluster.Request{
		Model: "tiny", Messages: []cluster.Message{{Role: "user", Content: "x"}}, Tools: []json.RawMessage{json.RawMessage(tool)},
		TemplateArgs: map[string]json.RawMessage{"enable_thinking": json.RawMessage("false")},
	}
	if diff := cmp.Diff(want, f.asked); diff != "" {
		t.Error(diff)
	}
	r = invocation{cluster: thoughtful(calls...)}.run(t, "run", "tiny", "x", "-q", "-o", "json")
	var got struct {
		Calls []json.RawMessage `json:"tool_calls"`
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got.Calls) != 2 {
		t.Errorf("json: %v, %+v", err, r)
	}
	r = invocation{cluster: thoughtful(calls...)}.run(t, "run", "tiny", "x", "-q", "-o", "jsonl")
	if want := `{"text":"so","tool_calls":[{"index":0,"id":"c","name":"f","arguments":"{"}]}` + "\n"; !strings.HasPrefix(r.out, want) {
		t.Errorf("jsonl: %+v", r)
	}
}

func TestRunRefusesToolsThatAreNone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tools.json")
	if err := os.WriteFile(file, []byte(`{"name":"f"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--tools", file}, "mlxctl: run: " + file + " does not hold a JSON array of tools: "},
		{[]string{"--tools", "/nonexistent"}, "mlxctl: run: read tools: open /nonexistent: no such file or directory\n"},
		{[]string{"--raw", "--think"}, "mlxctl: run: --raw excludes --think and --tools"},
	} {
		f := hello()
		r := invocation{cluster: f}.run(t, append([]string{"run", "tiny", "x"}, c.args...)...)
		if r.code != exitUsage || r.out != "" || !strings.HasPrefix(r.err, c.want) || f.asked != nil {
			t.Errorf("%v: %+v", c.args, r)
		}
	}
}
