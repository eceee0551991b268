package cmd

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func hello() *fakeCluster {
	return &fakeCluster{state: twoMacs(), chunks: []cluster.Chunk{
		{Progress: &cluster.Progress{Phase: cluster.PhaseLoading}, Node: "n-studio", NodeName: "studio"},
		{Text: "hel", Tokens: []int{1}, Node: "n-studio", NodeName: "studio"},
		{Tokens: []int{2}},
		{Text: "lo", Tokens: []int{3}},
		{Finish: cluster.FinishStop, Node: "n-studio", NodeName: "studio", StopSequence: "!", Usage: &cluster.Usage{
			PromptTokens: 5, CachedTokens: 4, CompletionTokens: 3,
			Queue: time.Millisecond, Prefill: 20 * time.Millisecond, Decode: 100 * time.Millisecond,
		}},
	}}
}

func TestRunPrompt(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f.txt")
	if err := os.WriteFile(file, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"words", "", []string{"one", "two"}, "one two"},
		{"stdin", "a\nb\n", nil, "a\nb\n"},
		{"stdin, then words", "a\n", []string{"b"}, "a\n\nb"},
		{"stdin, file, words", "a\n", []string{"-f", file, "b"}, "a\n\nfrom file\n\nb"},
		{"file alone", "", []string{"-f", file}, "from file\n"},
		{"stdin left alone", "a\n", []string{"-n", "b"}, "b"},
		{"stdin forced", "a\n", []string{"-n", "-", "b"}, "a\n\nb"},
		{"words after --", "", []string{"--", "-n"}, "-n"},
	} {
		f := hello()
		r := invocation{cluster: f, stdin: c.stdin}.run(t, append([]string{"run", "tiny"}, c.args...)...)
		if r.code != 0 || f.asked == nil {
			t.Errorf("%s: %+v", c.name, r)
			continue
		}
		if diff := cmp.Diff([]cluster.Message{{Role: "user", Content: c.want}}, f.asked.Messages); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestRunRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		in   invocation
		args []string
		want string
	}{
		{"no model", invocation{}, nil, "mlxctl: run: the model is missing\n"},
		{"no prompt at a terminal", invocation{tty: true}, []string{"tiny"}, "mlxctl: run: there is no prompt\nhint: mlxctl run tiny \"Count from 1 to 20.\"\n"},
		{"empty stdin", invocation{stdin: " \n"}, []string{"tiny"}, "mlxctl: run: there is no prompt\n"},
		{"not text", invocation{stdin: "\xff\xfe"}, []string{"tiny"}, "mlxctl: run: the prompt is not UTF-8 text\n"},
		{"no such file", invocation{}, []string{"tiny", "-f", "/nonexistent"}, "mlxctl: run: read prompt: open /nonexistent: no such file or directory\n"},
		{"max_tokens 0", invocation{}, []string{"tiny", "x", "--max-tokens", "0"}, "mlxctl: run: max_tokens must be 1 or more, not 0\n"},
		{"temperature", invocation{}, []string{"tiny", "x", "--temperature", "3"}, "mlxctl: run: temperature must be from 0 to 2, not 3\n"},
		{"not a number", invocation{}, []string{"tiny", "x", "--seed", "x"}, "mlxctl: run: invalid argument \"x\" for \"--seed\" flag"},
		{"raw and system", invocation{}, []string{"tiny", "x", "--raw", "--system", "y"}, "mlxctl: run: --raw and --system exclude each other\n"},
		{"format", invocation{}, []string{"tiny", "x", "-o", "table"}, "mlxctl: run: --output must be one of text, json, jsonl, not \"table\"\n"},
	} {
		c.in.cluster = hello()
		r := c.in.run(t, append([]string{"run"}, c.args...)...)
		if r.code != exitUsage || r.out != "" || !strings.HasPrefix(r.err, c.want) || c.in.cluster.asked != nil {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestRunRequest(t *testing.T) {
	t.Parallel()
	f := hello()
	r := invocation{cluster: f}.run(t, "run", "tiny", "p", "--system", "s", "--max-tokens", "7", "--temperature", "0", "--top-p", "0.5",
		"--top-k", "3", "--seed", "-1", "--stop", "a,b", "--stop", "c", "--node", "Studio", "--session", "z", "--timeout", "9s")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	want := &cluster.Request{
		Model: "tiny", Messages: []cluster.Message{{Role: "system", Content: "s"}, {Role: "user", Content: "p"}},
		MaxTokens: new(7), Temperature: new(0.0), TopP: new(0.5), TopK: new(3), Seed: new(int64(-1)), Stop: []string{"a,b", "c"},
		Node: "n-studio", Session: "z", Timeout: 9 * time.Second,
	}
	if diff := cmp.Diff(want, f.asked); diff != "" {
		t.Error(diff)
	}
	f = hello()
	if r := (invocation{cluster: f}).run(t, "run", "tiny", "p", "--raw"); r.code != 0 || *f.asked.Prompt != "p" || f.asked.Messages != nil || f.asked.Temperature != nil {
		t.Errorf("raw: %+v, %+v", r, f.asked)
	}
	f = hello()
	if r := (invocation{cluster: f}).run(t, "run", "tiny", "p", "--node", "studo"); r.code != exitNoSuch || f.asked != nil ||
		r.err != "mlxctl: run: no node \"studo\"\nhint: did you mean \"studio\"?\n" {
		t.Errorf("unknown node: %+v", r)
	}
}

func TestRunOutput(t *testing.T) {
	t.Parallel()
	if r := (invocation{cluster: hello()}).run(t, "run", "tiny", "x"); r != (result{0, "hello", "loading tiny on studio…\n"}) {
		t.Errorf("pipe: %+v", r)
	}
	if r := (invocation{cluster: hello(), tty: true}).run(t, "run", "tiny", "x", "-q"); r != (result{0, "hello\n", ""}) {
		t.Errorf("terminal: %+v", r)
	}
	r := invocation{cluster: hello()}.run(t, "run", "tiny", "x", "-q", "--stats")
	if r.code != 0 || r.out != "hello" || !strings.HasPrefix(r.err, "5 prompt tokens (4 cached), 3 generated, first after ") || !strings.HasSuffix(r.err, "30.0 tokens/s, on studio\n") {
		t.Errorf("stats: %+v", r)
	}
}

func TestRunJSON(t *testing.T) {
	t.Parallel()
	clear := func(u *answerUsage) { u.FirstTokenMS, u.TotalMS = 0, 0 }
	want := answerLine{
		Text: "hello", Model: "tiny", FinishReason: "stop", StopSequence: "!", Node: "n-studio", NodeName: "studio",
		Usage: &answerUsage{PromptTokens: 5, CachedTokens: 4, CompletionTokens: 3, QueueMS: 1, PrefillMS: 20, DecodeMS: 100, TokensPerSecond: 30},
	}
	r := invocation{cluster: hello()}.run(t, "run", "tiny", "x", "-q", "-o", "json")
	var got answerLine
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 {
		t.Fatalf("%v: %+v", err, r)
	}
	clear(got.Usage)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("json: %s", diff)
	}
	r = invocation{cluster: hello()}.run(t, "run", "tiny", "x", "-q", "-o", "jsonl")
	lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	if len(lines) != 3 || lines[0] != `{"text":"hel"}` || lines[1] != `{"text":"lo"}` {
		t.Fatalf("jsonl: %+v", r)
	}
	got = answerLine{}
	if err := json.Unmarshal([]byte(lines[2]), &got); err != nil {
		t.Fatal(err)
	}
	clear(got.Usage)
	want.Text = ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("last line: %s", diff)
	}
}

// An answer that breaks off shows what came, then says why; only the exit code and stderr tell.
func TestRunBreaksOff(t *testing.T) {
	t.Parallel()
	f := hello()
	f.chunks, f.err = f.chunks[:2], cluster.Errorf(cluster.CodeWorkerCrashed, "the worker died").WithHint("try again")
	if r := (invocation{cluster: f, tty: true}).run(t, "run", "tiny", "x", "-q"); r != (result{1, "hel\n", "mlxctl: run: the worker died\nhint: try again\n"}) {
		t.Errorf("terminal: %+v", r)
	}
	if r := (invocation{cluster: f}).run(t, "run", "tiny", "x", "-q", "-o", "json"); r.code != 1 || r.out != "" ||
		r.err != `{"error":{"code":"worker_crashed","message":"the worker died","hint":"try again"}}`+"\n" {
		t.Errorf("json: %+v", r)
	}
}

func TestModelName(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.MkdirAll("models/small", 0o700); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	env := func(string) (string, bool) { return "/home/u", true }
	for in, want := range map[string]string{
		"tiny":                 "tiny",
		"mlx-community/x-4bit": "mlx-community/x-4bit",
		"models/small":         filepath.Join(here, "models/small"),
		"./no/such":            filepath.Join(here, "no/such"),
		"../x":                 filepath.Join(filepath.Dir(here), "x"),
		"/abs/":                "/abs",
		"~/m":                  "/home/u/m",
	} {
		if got, err := modelName(in, env); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestReadAllGivesUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := readAll(ctx, endless{}); err == nil {
		t.Error("no error")
	}
}

func TestRunSaysWhatItsTextDoesNot(t *testing.T) {
	t.Parallel()
	cut := hello()
	end := &cut.chunks[len(cut.chunks)-1]
	end.Finish, end.Usage.Shared = cluster.FinishLength, true
	const remark = "the answer was cut after 3 tokens, by --max-tokens or the model's context\n"
	if r := (invocation{cluster: cut}).run(t, "run", "tiny", "x", "-q"); r != (result{0, "hello", remark}) {
		t.Errorf("text: %+v", r)
	}
	r := invocation{cluster: cut}.run(t, "run", "tiny", "x", "-q", "--stats")
	if !strings.HasPrefix(r.err, remark) || !strings.HasSuffix(r.err, "on studio, shared with an identical request\n") {
		t.Errorf("stats: %+v", r)
	}
	if r := (invocation{cluster: cut}).run(t, "run", "tiny", "x", "-q", "-o", "json"); r.err != "" || !strings.Contains(r.out, `"shared": true`) {
		t.Errorf("json: %+v", r)
	}
}

func TestRunSpeaksOfFlagsNotOfFields(t *testing.T) {
	t.Parallel()
	schema := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(schema, []byte(`{"type":"object"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field string
		args  []string
		says  string
	}{
		{"template_args", []string{"--think"}, "mlxctl: run: model tiny has no switch for thinking\nhint: leave out --think\n"},
		{"grammar", []string{"--schema", schema}, "mlxctl: run: the schema in " + schema + " cannot be used: x\n"},
		{"top_k", nil, "mlxctl: run: x\n"},
	} {
		f := hello()
		f.chunks, f.err = nil, &cluster.Error{Code: cluster.CodeInvalid, Field: c.field, Message: "x"}
		if r := (invocation{cluster: f}).run(t, append([]string{"run", "tiny", "x", "-q"}, c.args...)...); r.err != c.says {
			t.Errorf("%s: %q", c.field, r.err)
		}
	}
}
