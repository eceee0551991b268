package openai_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/openai"
)

// chat is the smallest body with more fields.
func chat(fields string) string {
	body := `{"model":"m","messages":[{"role":"user","content":"hi"}]`
	if fields != "" {
		body += "," + fields
	}
	return body + "}"
}

func completion(fields string) string {
	body := `{"model":"m","prompt":"hi"`
	if fields != "" {
		body += "," + fields
	}
	return body + "}"
}

func messages(list string) string { return `{"model":"m","messages":` + list + `}` }

func plain(change func(r *cluster.Request)) *cluster.Request {
	r := &cluster.Request{Model: "m", Messages: []cluster.Message{{Role: "user", Content: "hi"}}}
	if change != nil {
		change(r)
	}
	return r
}

func text(change func(r *cluster.Request)) *cluster.Request {
	r := &cluster.Request{Model: "m", Prompt: new("hi")}
	if change != nil {
		change(r)
	}
	return r
}

func turns(list ...cluster.Message) *cluster.Request {
	return &cluster.Request{Model: "m", Messages: list}
}

func schema(members string) string {
	return `"response_format":{"type":"json_schema","json_schema":{` + members + `}}`
}

func TestParseChat(t *testing.T) {
	t.Parallel()
	const tool = `{"type":"function","function":{"name":"f","parameters":{"z":1,"a":2}}}`
	const call = `[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]`
	for _, c := range []struct {
		name, body string
		want       *cluster.Request
	}{
		{"smallest", chat(""), plain(nil)},
		{"sampling", chat(`"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"repetition_penalty":1.1,` +
			`"presence_penalty":-1,"frequency_penalty":2,"seed":-5`), plain(func(r *cluster.Request) {
			r.Temperature, r.TopP, r.TopK, r.MinP = new(0.5), new(0.9), new(40), new(0.05)
			r.RepetitionPenalty, r.PresencePenalty, r.FrequencyPenalty = new(1.1), new(-1.0), new(2.0)
			r.Seed = new(int64(-5))
		})},
		{"nulls are absent", chat(`"temperature":null,"stop":null,"tools":null,"max_tokens":null,"n":null,"stream":null,` +
			`"response_format":null,"tool_choice":null,"logit_bias":null,"user":null,"stream_options":null`), plain(nil)},
		{"max_tokens", chat(`"max_tokens":5`), plain(func(r *cluster.Request) { r.MaxTokens = new(5) })},
		{"max_completion_tokens wins", chat(`"max_tokens":5,"max_completion_tokens":6`), plain(func(r *cluster.Request) {
			r.MaxTokens = new(6)
		})},
		{"huge max_tokens", chat(`"max_tokens":9000000000000000000`), plain(func(r *cluster.Request) {
			r.MaxTokens = new(9000000000000000000)
		})},
		{"one stop", chat(`"stop":"END"`), plain(func(r *cluster.Request) { r.Stop = []string{"END"} })},
		{"stops", chat(`"stop":["a","b"]`), plain(func(r *cluster.Request) { r.Stop = []string{"a", "b"} })},
		{"logit_bias", chat(`"logit_bias":{"50256":-100,"7":1.5}`), plain(func(r *cluster.Request) {
			r.LogitBias = map[int]float64{50256: -100, 7: 1.5}
		})},
		{"logprobs", chat(`"logprobs":true,"top_logprobs":20`), plain(func(r *cluster.Request) {
			r.Logprobs, r.TopLogprobs = true, 20
		})},
		{"user", chat(`"user":"u1"`), plain(func(r *cluster.Request) { r.Session = "u1" })},
		{"cache key before user", chat(`"prompt_cache_key":"k","user":"u1"`), plain(func(r *cluster.Request) {
			r.Session = "k"
		})},
		{"tools", chat(`"tools":[` + tool + `],"tool_choice":"auto"`), plain(func(r *cluster.Request) {
			r.Tools = []json.RawMessage{json.RawMessage(tool)}
		})},
		{"tools to be used", chat(`"tools":[` + tool + `],"tool_choice":"required","parallel_tool_calls":true`), plain(func(r *cluster.Request) {
			r.Tools = []json.RawMessage{json.RawMessage(tool)}
			r.ToolChoice = &cluster.ToolChoice{Mode: cluster.ToolRequired}
		})},
		{"one tool to be used", chat(`"tools":[` + tool + `],"tool_choice":{"type":"function","function":{"name":"f"}}`), plain(func(r *cluster.Request) {
			r.Tools = []json.RawMessage{json.RawMessage(tool)}
			r.ToolChoice = &cluster.ToolChoice{Name: "f"}
		})},
		{"one call", chat(`"parallel_tool_calls":false,"tools":[` + tool + `]`), plain(func(r *cluster.Request) {
			r.Tools, r.SingleToolCall = []json.RawMessage{json.RawMessage(tool)}, true
		})},
		{"effort", chat(`"reasoning_effort":"low","chat_template_kwargs":{"x":1}`), plain(func(r *cluster.Request) {
			r.TemplateArgs = map[string]json.RawMessage{"reasoning_effort": json.RawMessage(`"low"`), "x": json.RawMessage(`1`)}
		})},
		{"earlier reasoning", messages(`[{"role":"assistant","content":"a","reasoning_content":"r"}]`), turns(
			cluster.Message{Role: "assistant", Content: "a", Reasoning: "r"})},
		{"tools not to be used", chat(`"tools":[` + tool + `],"tool_choice":"none"`), plain(nil)},
		{"template", chat(`"chat_template_kwargs":{"enable_thinking":false}`), plain(func(r *cluster.Request) {
			r.TemplateArgs = map[string]json.RawMessage{"enable_thinking": json.RawMessage("false")}
		})},
		{"n 1, text", chat(`"n":1,"response_format":{"type":"text"},"modalities":["text"]`), plain(nil)},
		{"json_object", chat(`"response_format":{"type":"json_object"}`), plain(func(r *cluster.Request) {
			r.Grammar = &cluster.Grammar{Kind: cluster.GrammarJSONObject}
		})},
		{"json_schema", chat(schema(`"name":"a","strict":true,"schema":{"type": "object"}`)), plain(func(r *cluster.Request) {
			r.Grammar = &cluster.Grammar{Kind: cluster.GrammarJSONSchema, Value: json.RawMessage(`{"type": "object"}`)}
		})},
		{"unknown fields", chat(`"store":true,"metadata":{"a":"b"},"service_tier":"auto","whatever":[1]`), plain(nil)},
		{"developer", messages(`[{"role":"developer","content":"be brief"},{"role":"user","content":"x"}]`), turns(
			cluster.Message{Role: "system", Content: "be brief"}, cluster.Message{Role: "user", Content: "x"})},
		{"parts", messages(`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b\n"}]}]`), turns(
			cluster.Message{Role: "user", Content: "ab\n"})},
		{"empty text", messages(`[{"role":"user","content":""}]`), turns(cluster.Message{Role: "user"})},
		{"tool turn", messages(`[{"role":"user","content":"q","name":"ann"},{"role":"assistant","content":null,"tool_calls":` +
			call + `},{"role":"tool","tool_call_id":"c1","content":"42"}]`), turns(
			cluster.Message{Role: "user", Content: "q", Name: "ann"},
			cluster.Message{Role: "assistant", ToolCalls: json.RawMessage(call)},
			cluster.Message{Role: "tool", ToolCallID: "c1", Content: "42"})},
		{"refusal in the history", messages(`[{"role":"assistant","content":[{"type":"refusal","refusal":"no"}]}]`), turns(
			cluster.Message{Role: "assistant", Content: "no"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x, err := openai.ParseChat([]byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if got := x.Request(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", show(got), show(c.want))
			}
			if x.Streams() {
				t.Error("it streams, but was not asked to")
			}
		})
	}
}

func TestParseCompletion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		want       *cluster.Request
	}{
		{"smallest", completion(""), text(nil)},
		{"list of one", `{"model":"m","prompt":["hi"]}`, text(nil)},
		{"max_tokens", completion(`"max_tokens":5`), text(func(r *cluster.Request) { r.MaxTokens = new(5) })},
		{"logprobs", completion(`"logprobs":3`), text(func(r *cluster.Request) { r.Logprobs, r.TopLogprobs = true, 3 })},
		{"logprobs 0", completion(`"logprobs":0`), text(func(r *cluster.Request) { r.Logprobs = true })},
		{"usual values", completion(`"echo":false,"best_of":1,"suffix":"","n":1`), text(nil)},
		{"no suffix", completion(`"suffix":null`), text(nil)},
		{"sampling", completion(`"temperature":0,"stop":["x"]`), text(func(r *cluster.Request) {
			r.Temperature, r.Stop = new(0.0), []string{"x"}
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x, err := openai.ParseCompletion([]byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if got := x.Request(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", show(got), show(c.want))
			}
		})
	}
}

func show(v any) string {
	b, _ := json.MarshalIndent(v, "", " ")
	return string(b)
}

type refusal struct {
	name, body string
	code       cluster.Code
	field      string
	claim      string // in the message
}

func (c *refusal) check(t *testing.T, err error) {
	t.Helper()
	e := cluster.AsError(err)
	if e == nil {
		t.Fatalf("accepted, want %s of %s", c.code, c.field)
	}
	if e.Code != c.code || e.Field != c.field || !strings.Contains(e.Message, c.claim) {
		t.Errorf("got %s of %q: %q\nwant %s of %q: %q", e.Code, e.Field, e.Message, c.code, c.field, c.claim)
	}
}

func TestParseChatRefuses(t *testing.T) {
	t.Parallel()
	const invalid, unsupported = cluster.CodeInvalid, cluster.CodeUnsupported
	long := strings.Repeat("x", 257)
	for _, c := range []refusal{
		{"no model", `{"messages":[{"role":"user","content":"x"}]}`, invalid, "model", "is missing"},
		{"model", `{"model":1}`, invalid, "model", "must be a string"},
		{"no messages", `{"model":"m"}`, invalid, "messages", "is missing"},
		{"empty messages", messages(`[]`), invalid, "messages", "at least one"},
		{"messages", messages(`"hi"`), invalid, "messages", "must be an array"},
		{"message", messages(`["hi"]`), invalid, "messages[0]", "must be an object"},
		{"no role", messages(`[{"content":"x"}]`), invalid, "messages[0].role", "is missing"},
		{"role", messages(`[{"role":"user","content":"x"},{"role":"boss","content":"x"}]`), invalid, "messages[1].role", `"boss"`},
		{"function role", messages(`[{"role":"function","content":"x"}]`), unsupported, "messages[0].role", "use tool"},
		{"no content", messages(`[{"role":"user"}]`), invalid, "messages[0].content", "is missing"},
		{"null content", messages(`[{"role":"assistant","content":null}]`), invalid, "messages[0].content", "is missing"},
		{"content", messages(`[{"role":"user","content":{}}]`), invalid, "messages[0].content", "must be a string or an array"},
		{
			"image", messages(`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}}]}]`),
			unsupported, "messages[0].content[1].type", "image_url",
		},
		{"part without text", messages(`[{"role":"user","content":[{"type":"text"}]}]`), invalid, "messages[0].content[0].text", "is missing"},
		{"part", messages(`[{"role":"user","content":["a"]}]`), invalid, "messages[0].content[0]", "must be an object"},
		{"tool_calls of a user", messages(`[{"role":"user","content":"a","tool_calls":[]}]`), invalid, "messages[0].tool_calls", "assistant"},
		{"tool call", messages(`[{"role":"assistant","tool_calls":[{}]}]`), invalid, "messages[0].tool_calls[0].function", "is missing"},
		{"max_tokens 0", chat(`"max_tokens":0`), invalid, "max_tokens", "must be 1 or more, not 0"},
		{"max_completion_tokens 0", chat(`"max_completion_tokens":0`), invalid, "max_completion_tokens", "must be 1 or more, not 0"},
		{"max_tokens", chat(`"max_tokens":"5"`), invalid, "max_tokens", "must be a number, not a string"},
		{"temperature", chat(`"temperature":"hot"`), invalid, "temperature", "must be a number"},
		{"top_k", chat(`"top_k":1.5`), invalid, "top_k", "whole number"},
		{"seed", chat(`"seed":1e30`), invalid, "seed", "too large"},
		{"stop", chat(`"stop":[1]`), invalid, "stop[0]", "must be a string"},
		{"stream", chat(`"stream":"yes"`), invalid, "stream", "must be true or false"},
		{"stream_options alone", chat(`"stream_options":{"include_usage":true}`), invalid, "stream_options", "needs stream"},
		{"include_usage", chat(`"stream":true,"stream_options":{"include_usage":1}`), invalid, "stream_options.include_usage", "true or false"},
		{"top_logprobs alone", chat(`"top_logprobs":2`), invalid, "top_logprobs", "needs logprobs"},
		{"top_logprobs", chat(`"logprobs":true,"top_logprobs":21`), invalid, "top_logprobs", "from 0 to 20"},
		{"logprobs", chat(`"logprobs":1`), invalid, "logprobs", "true or false"},
		{"logit_bias key", chat(`"logit_bias":{"the":1}`), invalid, "logit_bias", "token ids"},
		{"logit_bias key with a zero", chat(`"logit_bias":{"00":1}`), invalid, "logit_bias", "token ids"},
		{"logit_bias key with a sign", chat(`"logit_bias":{"+1":1}`), invalid, "logit_bias", "token ids"},
		{"logit_bias value", chat(`"logit_bias":{"1":101}`), invalid, "logit_bias", "-100 to 100"},
		{"n 9", chat(`"n":9`), invalid, "n", "from 1 to 8, not 9"},
		{"n 0", chat(`"n":0`), invalid, "n", "from 1 to 8, not 0"},
		{"tools", chat(`"tools":[{"type":"function"}]`), invalid, "tools[0].function", "is missing"},
		{"nameless tool", chat(`"tools":[{"type":"function","function":{}}]`), invalid, "tools[0].function.name", "is missing"},
		{
			"parameters", chat(`"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]`), invalid,
			"tools[0].function.parameters", "must be an object, not an array",
		},
		{
			"forced call in a form", chat(`"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required",` +
				`"response_format":{"type":"json_object"}`), invalid, "tool_choice", "response_format exclude each other",
		},
		{"tool kind", chat(`"tools":[{"type":"custom","custom":{}}]`), unsupported, "tools[0].type", "custom"},
		{"tool_choice often", chat(`"tool_choice":"often"`), invalid, "tool_choice", "not \"often\""},
		{"tool_choice object", chat(`"tool_choice":{"type":"function"}`), invalid, "tool_choice.function", "is missing"},
		{"tool_choice of tools", chat(`"tool_choice":{"type":"allowed_tools"}`), unsupported, "tool_choice.type", "allowed_tools"},
		{"parallel_tool_calls", chat(`"parallel_tool_calls":"no"`), invalid, "parallel_tool_calls", "true or false"},
		{"reasoning_effort", chat(`"reasoning_effort":"lots"`), invalid, "reasoning_effort", "not \"lots\""},
		{"two efforts", chat(`"reasoning_effort":"low","chat_template_kwargs":{"reasoning_effort":"high"}`), invalid, "reasoning_effort", "exclude"},
		{"tool_choice", chat(`"tool_choice":1`), invalid, "tool_choice", "not a number"},
		{"response_format kind", chat(`"response_format":{"type":"grammar"}`), unsupported, "response_format.type", `"grammar"`},
		{"untyped response_format", chat(`"response_format":{}`), invalid, "response_format.type", "is missing"},
		{"no json_schema", chat(`"response_format":{"type":"json_schema"}`), invalid, "response_format.json_schema", "is missing"},
		{"no schema", chat(schema(`"name":"a"`)), invalid, "response_format.json_schema.schema", "is missing"},
		{"schema", chat(schema(`"schema":[]`)), invalid, "response_format.json_schema.schema", "not an array"},
		{"strict", chat(schema(`"strict":1,"schema":{}`)), invalid, "response_format.json_schema.strict", "true or false"},
		{
			"large schema", chat(schema(`"schema":{"a":"` + strings.Repeat("a", cluster.MaxGrammarBytes) + `"}`)), invalid,
			"response_format.json_schema.schema", "at most 65536",
		},
		{"response_format", chat(`"response_format":"text"`), invalid, "response_format", "must be an object"},
		{"guided_json", chat(`"guided_json":{}`), unsupported, "guided_json", "use response_format"},
		{"functions", chat(`"functions":[]`), unsupported, "functions", "use tools"},
		{"audio", chat(`"modalities":["text","audio"]`), unsupported, "modalities", "text"},
		{"user", chat(`"user":"` + long + `"`), invalid, "user", "at most 256 bytes"},
		{"prompt_cache_key", chat(`"prompt_cache_key":"` + long + `"`), invalid, "prompt_cache_key", "at most 256 bytes"},
		{"chat_template_kwargs", chat(`"chat_template_kwargs":[]`), invalid, "chat_template_kwargs", "must be an object"},
		{"malformed", `{"model":"m",`, invalid, "", "not valid JSON"},
		{"two documents", chat("") + chat(""), invalid, "", "not valid JSON"},
		{"twice", chat(`"n":1,"n":1`), invalid, "n", "is there twice"},
		{"twice in a message", messages(`[{"role":"user","content":"a","content":"b"}]`), invalid, "messages[0].content", "is there twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := openai.ParseChat([]byte(c.body))
			c.check(t, err)
		})
	}
}

func TestParseCompletionRefuses(t *testing.T) {
	t.Parallel()
	const invalid, unsupported = cluster.CodeInvalid, cluster.CodeUnsupported
	for _, c := range []refusal{
		{"no prompt", `{"model":"m"}`, invalid, "prompt", "is missing"},
		{"empty prompt", `{"model":"m","prompt":""}`, invalid, "prompt", "is empty"},
		{"empty list", `{"model":"m","prompt":[]}`, invalid, "prompt", "is empty"},
		{"two prompts", `{"model":"m","prompt":["a","b"]}`, unsupported, "prompt", "only one"},
		{"tokens", `{"model":"m","prompt":[1,2]}`, unsupported, "prompt", "token ids"},
		{"list of tokens", `{"model":"m","prompt":[[1,2]]}`, unsupported, "prompt", "token ids"},
		{"prompt", `{"model":"m","prompt":{}}`, invalid, "prompt", "must be a string"},
		{"object in a list", `{"model":"m","prompt":[{}]}`, invalid, "prompt[0]", "must be a string"},
		{"echo with logprobs", completion(`"echo":true,"logprobs":0`), unsupported, "echo", "with logprobs"},
		{"suffix", completion(`"suffix":"end"`), unsupported, "suffix", "not supported"},
		{"best_of", completion(`"best_of":3`), unsupported, "best_of", "other than 1"},
		{"logprobs", completion(`"logprobs":true`), invalid, "logprobs", "must be a number"},
		{"many logprobs", completion(`"logprobs":21`), invalid, "logprobs", "from 0 to 20"},
		{"max_tokens", completion(`"max_tokens":-1`), invalid, "max_tokens", "1 or more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := openai.ParseCompletion([]byte(c.body))
			c.check(t, err)
		})
	}
}

// FuzzParse holds that any body is refused with a typed error or gives a request that can be sent.
func FuzzParse(f *testing.F) {
	f.Add([]byte(chat(`"stop":["a"],"logit_bias":{"1":2},"tools":[{"function":{"name":"f"}}],"stream":true`)))
	f.Add([]byte(messages(`[{"role":"user","content":[{"type":"text","text":"\ud83d"}]}]`)))
	f.Add([]byte(completion(`"logprobs":2,"max_tokens":1e2,"prompt":["a"]`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, parse := range []func([]byte) (*openai.Exchange, error){openai.ParseChat, openai.ParseCompletion} {
			x, err := parse(append([]byte(nil), body...))
			if err != nil {
				if e := cluster.AsError(err); e.Code != cluster.CodeInvalid && e.Code != cluster.CodeUnsupported {
					t.Fatalf("%q: error %+v", body, e)
				}
				continue
			}
			req := x.Request()
			if req.Model == "" || (req.Prompt == nil) == (len(req.Messages) == 0) {
				t.Fatalf("%q: incomplete request %s", body, show(req))
			}
			if _, err := json.Marshal(req); err != nil {
				t.Fatalf("%q: %v", body, err)
			}
		}
	})
}
