package openai_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/openai"
)

// The shapes below are written after OpenAI's API reference: "The chat completion object", "The chat completion chunk
// object", "The completion object", "The model object" and the guide to errors.

var at = time.Unix(1741569952, 0)

func begin(t *testing.T, parse func([]byte) (*openai.Exchange, error), body string) *openai.Exchange {
	t.Helper()
	x, err := parse([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	x.Begin("abc", at)
	return x
}

func same(t *testing.T, got []byte, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, got)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("the wanted JSON is none: %v\n%s", err, want)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func answer() []cluster.Chunk {
	return []cluster.Chunk{
		{Text: "Hello", Tokens: []int{1}, Node: "n1"},
		{Tokens: []int{2}}, // held back
		{Text: " \"you\"", Tokens: []int{3}},
		{Text: "!", Finish: cluster.FinishStop, Usage: &cluster.Usage{PromptTokens: 19, CachedTokens: 8, CompletionTokens: 4}},
	}
}

func probable() []cluster.Chunk {
	first := cluster.TokenLogprob{Token: 1, Text: "Hé", Bytes: []byte("Hé"), Logprob: -0.25, Top: []cluster.TokenLogprob{
		{Token: 1, Text: "Hé", Bytes: []byte("Hé"), Logprob: -0.25}, {Token: 9, Text: "Hi", Bytes: []byte("Hi"), Logprob: -1.5},
	}}
	second := cluster.TokenLogprob{Token: 2, Text: "\ufffd", Bytes: []byte{0xf0}, Logprob: -2, Top: []cluster.TokenLogprob{
		{Token: 7, Text: "\ufffd", Bytes: []byte{0xf1}, Logprob: -0.5},
	}}
	return []cluster.Chunk{
		{Text: "Hé", Tokens: []int{1}, Logprobs: []cluster.TokenLogprob{first}},
		{Tokens: []int{2}, Logprobs: []cluster.TokenLogprob{second}},
		{Finish: cluster.FinishLength, Usage: &cluster.Usage{PromptTokens: 3, CompletionTokens: 2}},
	}
}

func whole(x *openai.Exchange, chunks []cluster.Chunk) []byte {
	for i := range chunks {
		x.Collect(0, &chunks[i])
	}
	return x.AppendWhole(nil)
}

// events renders a stream and splits it.
func events(t *testing.T, x *openai.Exchange, chunks []cluster.Chunk) []string {
	t.Helper()
	var all []byte
	for i := range chunks {
		all = x.AppendChunk(all, 0, &chunks[i])
	}
	list := strings.Split(string(all), "\n\n")
	if list[len(list)-1] != "" {
		t.Fatalf("the stream ends in the middle of an event: %q", all)
	}
	list = list[:len(list)-1]
	for i, event := range list {
		data, isData := strings.CutPrefix(event, "data: ")
		if !isData || strings.Contains(data, "\n") {
			t.Fatalf("event %d is not one line of data: %q", i, event)
		}
		list[i] = data
	}
	return list
}

func sameEvents(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d events, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if want[i] == "[DONE]" {
			if got[i] != want[i] {
				t.Errorf("event %d: got %s, want [DONE]", i, got[i])
			}
			continue
		}
		same(t, []byte(got[i]), want[i])
	}
}

func TestWholeChat(t *testing.T) {
	t.Parallel()
	x := begin(t, openai.ParseChat, chat(""))
	same(t, whole(x, answer()), `{
		"id": "chatcmpl-abc", "object": "chat.completion", "created": 1741569952, "model": "m",
		"choices": [{"index": 0,
			"message": {"role": "assistant", "content": "Hello \"you\"!", "refusal": null},
			"logprobs": null, "finish_reason": "stop"}],
		"usage": {"prompt_tokens": 19, "completion_tokens": 4, "total_tokens": 23,
			"prompt_tokens_details": {"cached_tokens": 8}}}`)
}

const chatProbs = `{"token": "Hé", "logprob": -0.25, "bytes": [72, 195, 169], "top_logprobs": [
		{"token": "Hé", "logprob": -0.25, "bytes": [72, 195, 169]}, {"token": "Hi", "logprob": -1.5, "bytes": [72, 105]}]}`

const chatProbsNext = `{"token": "\ufffd", "logprob": -2, "bytes": [240], "top_logprobs": [
		{"token": "\ufffd", "logprob": -0.5, "bytes": [241]}]}`

func TestWholeChatWithLogprobs(t *testing.T) {
	t.Parallel()
	x := begin(t, openai.ParseChat, chat(`"logprobs":true,"top_logprobs":2`))
	same(t, whole(x, probable()), `{
		"id": "chatcmpl-abc", "object": "chat.completion", "created": 1741569952, "model": "m",
		"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hé", "refusal": null},
			"logprobs": {"content": [`+chatProbs+`,`+chatProbsNext+`], "refusal": null},
			"finish_reason": "length"}],
		"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
			"prompt_tokens_details": {"cached_tokens": 0}}}`)
}

func TestWholeCompletion(t *testing.T) {
	t.Parallel()
	x := begin(t, openai.ParseCompletion, completion(""))
	same(t, whole(x, answer()), `{
		"id": "cmpl-abc", "object": "text_completion", "created": 1741569952, "model": "m",
		"choices": [{"text": "Hello \"you\"!", "index": 0, "logprobs": null, "finish_reason": "stop"}],
		"usage": {"prompt_tokens": 19, "completion_tokens": 4, "total_tokens": 23,
			"prompt_tokens_details": {"cached_tokens": 8}}}`)
}

func TestWholeCompletionWithLogprobs(t *testing.T) {
	t.Parallel()
	x := begin(t, openai.ParseCompletion, completion(`"logprobs":2`))
	same(t, whole(x, probable()), `{
		"id": "cmpl-abc", "object": "text_completion", "created": 1741569952, "model": "m",
		"choices": [{"text": "Hé", "index": 0, "finish_reason": "length", "logprobs": {
			"tokens": ["Hé", "\ufffd"], "token_logprobs": [-0.25, -2],
			"top_logprobs": [{"Hé": -0.25, "Hi": -1.5}, {"\ufffd": -0.5}], "text_offset": [0, 2]}}],
		"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
			"prompt_tokens_details": {"cached_tokens": 0}}}`)
}

func TestChatStream(t *testing.T) {
	t.Parallel()
	event := func(delta, finish string) string {
		return `{"id":"chatcmpl-abc","object":"chat.completion.chunk","created":1741569952,"model":"m",
			"choices":[{"index":0,"delta":` + delta + `,"logprobs":null,"finish_reason":` + finish + `}]}`
	}
	sameEvents(t, events(t, begin(t, openai.ParseChat, chat(`"stream":true`)), answer()),
		event(`{"role":"assistant","content":"","refusal":null}`, "null"),
		event(`{"content":"Hello"}`, "null"),
		event(`{"content":" \"you\""}`, "null"),
		event(`{"content":"!"}`, "null"),
		event(`{}`, `"stop"`),
		"[DONE]")
}

func TestChatStreamWithUsageAndLogprobs(t *testing.T) {
	t.Parallel()
	event := func(choices, usage string) string {
		return `{"id":"chatcmpl-abc","object":"chat.completion.chunk","created":1741569952,"model":"m",
			"choices":[` + choices + `],"usage":` + usage + `}`
	}
	x := begin(t, openai.ParseChat, chat(`"stream":true,"stream_options":{"include_usage":true},"logprobs":true`))
	sameEvents(t, events(t, x, probable()),
		event(`{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}`, "null"),
		event(`{"index":0,"delta":{"content":"Hé"},"logprobs":{"content":[`+chatProbs+`],"refusal":null},"finish_reason":null}`, "null"),
		event(`{"index":0,"delta":{"content":""},"logprobs":{"content":[`+chatProbsNext+`],"refusal":null},"finish_reason":null}`, "null"),
		event(`{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}`, "null"),
		event(``, `{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0}}`),
		"[DONE]")
}

func TestCompletionStream(t *testing.T) {
	t.Parallel()
	event := func(text, logprobs, finish string) string {
		return `{"id":"cmpl-abc","object":"text_completion","created":1741569952,"model":"m",
			"choices":[{"index":0,"text":` + text + `,"logprobs":` + logprobs + `,"finish_reason":` + finish + `}]}`
	}
	sameEvents(t, events(t, begin(t, openai.ParseCompletion, completion(`"stream":true`)), answer()),
		event(`"Hello"`, "null", "null"),
		event(`" \"you\""`, "null", "null"),
		event(`"!"`, "null", "null"),
		event(`""`, "null", `"stop"`),
		"[DONE]")
	x := begin(t, openai.ParseCompletion, completion(`"stream":true,"logprobs":2`))
	sameEvents(t, events(t, x, probable()),
		event(`"Hé"`, `{"tokens":["Hé"],"token_logprobs":[-0.25],"top_logprobs":[{"Hé":-0.25,"Hi":-1.5}],"text_offset":[0]}`, "null"),
		event(`""`, `{"tokens":["\ufffd"],"token_logprobs":[-2],"top_logprobs":[{"\ufffd":-0.5}],"text_offset":[2]}`, "null"),
		event(`""`, "null", `"length"`),
		"[DONE]")
}

// thought is an answer with all channels; one chunk has several of them.
func thought() []cluster.Chunk {
	return []cluster.Chunk{
		{Reasoning: "Hm", Tokens: []int{1}},
		{Reasoning: ".", Text: "I", ToolCalls: []cluster.ToolCallDelta{{ID: "call_1", Name: "f", Arguments: `{"a":`}}},
		{ToolCalls: []cluster.ToolCallDelta{{Arguments: `"\n"}`}, {Index: 1, ID: "call_2", Name: "g"}}},
		{ToolCalls: []cluster.ToolCallDelta{{Index: 1, Arguments: "{}"}}, Finish: cluster.FinishToolCalls, Usage: &cluster.Usage{PromptTokens: 3, CompletionTokens: 9}},
	}
}

func TestWholeChatWithReasoningAndCalls(t *testing.T) {
	t.Parallel()
	x := begin(t, openai.ParseChat, chat(""))
	same(t, whole(x, thought()), `{
		"id": "chatcmpl-abc", "object": "chat.completion", "created": 1741569952, "model": "m",
		"choices": [{"index": 0, "message": {"role": "assistant", "content": "I", "reasoning_content": "Hm.", "tool_calls": [
				{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":\"\\n\"}"}},
				{"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}}], "refusal": null},
			"logprobs": null, "finish_reason": "tool_calls"}],
		"usage": {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12,
			"prompt_tokens_details": {"cached_tokens": 0}}}`)
	silent := thought()
	silent[1].Text = ""
	if got := whole(begin(t, openai.ParseChat, chat("")), silent); !strings.Contains(string(got), `"content":null`) {
		t.Errorf("calls without text: %s", got)
	}
}

func TestChatStreamWithReasoningAndCalls(t *testing.T) {
	t.Parallel()
	event := func(delta, finish string) string {
		return `{"id":"chatcmpl-abc","object":"chat.completion.chunk","created":1741569952,"model":"m",
			"choices":[{"index":0,"delta":` + delta + `,"logprobs":null,"finish_reason":` + finish + `}]}`
	}
	sameEvents(t, events(t, begin(t, openai.ParseChat, chat(`"stream":true`)), thought()),
		event(`{"role":"assistant","content":"","refusal":null}`, "null"),
		event(`{"reasoning_content":"Hm"}`, "null"),
		event(`{"reasoning_content":"."}`, "null"),
		event(`{"content":"I"}`, "null"),
		event(`{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":"}}]}`, "null"),
		event(`{"tool_calls":[{"index":0,"function":{"arguments":"\"\\n\"}"}},
			{"index":1,"id":"call_2","type":"function","function":{"name":"g","arguments":""}}]}`, "null"),
		event(`{"tool_calls":[{"index":1,"function":{"arguments":"{}"}}]}`, "null"),
		event(`{}`, `"tool_calls"`),
		"[DONE]")
}

func TestSeveralChoices(t *testing.T) {
	t.Parallel()
	chunks := []struct {
		choice int
		cluster.Chunk
	}{
		{1, cluster.Chunk{Text: "b"}},
		{0, cluster.Chunk{Text: "a"}},
		{1, cluster.Chunk{Finish: cluster.FinishStop, Usage: &cluster.Usage{PromptTokens: 3, CachedTokens: 1, CompletionTokens: 4}}},
		{0, cluster.Chunk{Text: "c", Finish: cluster.FinishLength, Usage: &cluster.Usage{PromptTokens: 3, CachedTokens: 2, CompletionTokens: 5}}},
	}
	const usage = `{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":1}}`
	x := begin(t, openai.ParseCompletion, completion(`"n":2,"echo":true`))
	for i := range chunks {
		x.Collect(chunks[i].choice, &chunks[i].Chunk)
	}
	same(t, x.AppendWhole(nil), `{"id":"cmpl-abc","object":"text_completion","created":1741569952,"model":"m","choices":[
		{"index":0,"text":"hiac","logprobs":null,"finish_reason":"length"},
		{"index":1,"text":"hib","logprobs":null,"finish_reason":"stop"}],"usage":`+usage+`}`)

	event := func(index, text, finish string) string {
		return `{"id":"cmpl-abc","object":"text_completion","created":1741569952,"model":"m","usage":null,
			"choices":[{"index":` + index + `,"text":` + text + `,"logprobs":null,"finish_reason":` + finish + `}]}`
	}
	x = begin(t, openai.ParseCompletion, completion(`"n":2,"echo":true,"stream":true,"stream_options":{"include_usage":true}`))
	var all []byte
	for i := range chunks {
		all = x.AppendChunk(all, chunks[i].choice, &chunks[i].Chunk)
	}
	got := strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(all), "data: ", ""), "\n\n"), "\n\n")
	sameEvents(t, got,
		event("1", `"hi"`, "null"), event("1", `"b"`, "null"), event("0", `"hi"`, "null"), event("0", `"a"`, "null"),
		event("1", `""`, `"stop"`), event("0", `"c"`, "null"), event("0", `""`, `"length"`),
		`{"id":"cmpl-abc","object":"text_completion","created":1741569952,"model":"m","choices":[],"usage":`+usage+`}`,
		"[DONE]")
}

func TestFailureEndsAStream(t *testing.T) {
	t.Parallel()
	x := begin(t, openai.ParseChat, chat(`"stream":true`))
	got := string(x.AppendFailure(nil, &cluster.Error{Code: cluster.CodeNodeLost, Message: "node a is gone", Hint: "try again"}))
	data, ok := strings.CutPrefix(got, "data: ")
	if !ok || !strings.HasSuffix(data, "\n\n") || strings.Count(data, "\n") != 2 {
		t.Fatalf("not one event: %q", got)
	}
	same(t, []byte(data), `{"error":{"message":"node a is gone; try again","type":"server_error","param":null,"code":"node_lost"}}`)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	const wrong = "invalid_request_error"
	for _, c := range []struct {
		e                 cluster.Error
		kind, param, code string
	}{
		{cluster.Error{Code: cluster.CodeInvalid, Field: "top_k"}, wrong, `"top_k"`, "invalid_request"},
		{cluster.Error{Code: cluster.CodeUnsupported, Field: "n"}, wrong, `"n"`, "unsupported_value"},
		{cluster.Error{Code: cluster.CodeUnauthorized}, wrong, "null", "invalid_api_key"},
		{cluster.Error{Code: cluster.CodeNoModel}, wrong, `"model"`, "model_not_found"},
		{cluster.Error{Code: cluster.CodeBadModel}, wrong, `"model"`, "model_invalid"},
		{cluster.Error{Code: cluster.CodeNoFit}, wrong, `"model"`, "model_too_big"},
		{cluster.Error{Code: cluster.CodeContext}, wrong, "null", "context_length_exceeded"},
		{cluster.Error{Code: cluster.CodeTooLarge}, wrong, "null", "too_large"},
		{cluster.Error{Code: cluster.CodeUnsupported, Field: "model"}, wrong, `"model"`, "unsupported_value"},
		{cluster.Error{Code: cluster.CodeBusy}, "rate_limit_error", "null", "busy"},
		{cluster.Error{Code: cluster.CodeNoNode}, "server_error", "null", "no_node"},
		{cluster.Error{Code: cluster.CodeTimeout}, "server_error", "null", "timeout"},
		{cluster.Error{}, "server_error", "null", "internal"},
	} {
		c.e.Message = `it is "so"`
		same(t, openai.Dialect{}.AppendError(nil, &c.e),
			`{"error":{"message":"it is \"so\"","type":"`+c.kind+`","param":`+c.param+`,"code":"`+c.code+`"}}`)
	}
}

func TestAnErrorNamesWhatTheClientSent(t *testing.T) {
	t.Parallel()
	for _, c := range [][4]string{
		{"grammar", "grammar cannot be used: no", "response_format", "response_format cannot be used: no"},
		{"grammar.value", "a token does not go with grammar: grammar", "response_format", "a token does not go with response_format: grammar"},
		{"template_args", "template_args sets 'x'", "chat_template_kwargs", "chat_template_kwargs sets 'x'"},
		{"tools", "tools cannot be used: grammar", "tools", "tools cannot be used: grammar"},
		{"grammar", "grammar is not supported: use response_format", "grammar", "grammar is not supported: use response_format"},
	} {
		same(t, openai.Dialect{}.AppendError(nil, &cluster.Error{Code: cluster.CodeInvalid, Field: c[0], Message: c[1]}),
			`{"error":{"message":"`+c[3]+`","type":"invalid_request_error","param":"`+c[2]+`","code":"invalid_request"}}`)
	}
}

func TestModels(t *testing.T) {
	t.Parallel()
	models := []cluster.Model{{Name: "org/repo", Context: 4096}, {Name: "tiny", Context: 512}}
	const repo = `{"id":"org/repo","object":"model","created":0,"owned_by":"org","context_length":4096}`
	const tiny = `{"id":"tiny","object":"model","created":0,"owned_by":"mlxctl","context_length":512}`
	same(t, openai.Dialect{}.AppendModels(nil, models), `{"object":"list","data":[`+repo+`,`+tiny+`]}`)
	same(t, openai.Dialect{}.AppendModels(nil, nil), `{"object":"list","data":[]}`)
	same(t, openai.Dialect{}.AppendModel(nil, &models[1]), tiny)
}

func BenchmarkAppendChunk(b *testing.B) {
	x, err := openai.ParseChat([]byte(chat(`"stream":true`)))
	if err != nil {
		b.Fatal(err)
	}
	x.Begin("abc", at)
	chunk := cluster.Chunk{Text: " token", Tokens: []int{1}}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = x.AppendChunk(buf[:0], 0, &chunk)
	}
	if want := `"delta":{"content":" token"}`; !strings.Contains(string(buf), want) {
		b.Fatalf("got %s", buf)
	}
	b.ReportMetric(float64(len(buf)), "bytes/event")
}

func BenchmarkParseChat(b *testing.B) {
	body := []byte(chat(`"temperature":0.7,"max_tokens":100,"stream":true,"stream_options":{"include_usage":true}`))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := openai.ParseChat(body); err != nil {
			b.Fatal(err)
		}
	}
}
