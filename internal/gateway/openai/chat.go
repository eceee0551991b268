package openai

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// argsField is what a client gives to the model's template.
const argsField = "chat_template_kwargs"

// ParseChat reads the body of a chat completion, which it may change and keeps parts of. The error is a *cluster.Error
// whose Field names what is wrong as the client wrote it.
func ParseChat(body []byte) (*Exchange, error) {
	o, err := wire.Parse(body)
	if err != nil {
		return nil, err
	}
	x := &Exchange{isChat: true, req: &cluster.Request{}}
	readCommon(o, x)
	refuse(o, "functions", "are not supported: use tools")
	refuse(o, "function_call", "is not supported: use tools")
	refuse(o, "audio", "is not supported: answers are text")
	refuse(o, "web_search_options", "are not supported")
	readModalities(o)
	readMessages(o, x.req)
	readTools(o, x.req)
	readTemplateArgs(o, x.req)
	readEffort(o, x.req)
	x.req.MaxTokens = maxTokens(o, "max_completion_tokens", "max_tokens")
	x.req.Logprobs = o.Bool("logprobs")
	if top := o.Size("top_logprobs"); top != nil {
		if !x.req.Logprobs {
			o.Fail("top_logprobs", "needs logprobs to be true")
		}
		x.req.TopLogprobs = bounded(o, "top_logprobs", *top)
	}
	return x, o.Err()
}

func readModalities(o *wire.Object) {
	for _, m := range o.Strings("modalities") {
		if m != "text" {
			unsupported(o, "modalities", "other than text are not supported")
		}
	}
}

func readMessages(o *wire.Object, req *cluster.Request) {
	switch {
	case !o.Has("messages"):
		o.Fail("messages", "is missing")
	case o.Kind("messages") == "an array" && len(o.List("messages")) == 0:
		o.Fail("messages", "must hold at least one message")
	}
	o.Objects("messages", func(m *wire.Object) {
		req.Messages = append(req.Messages, readMessage(m))
	})
}

func readMessage(m *wire.Object) cluster.Message {
	message := cluster.Message{
		Role:       role(m),
		Content:    content(m),
		Name:       m.String("name"),
		ToolCallID: m.String("tool_call_id"),
		Reasoning:  m.String("reasoning_content"),
	}
	if m.Has("function_call") {
		unsupported(m, "function_call", "is not supported: use tool_calls")
	}
	if m.Has("tool_calls") {
		if message.Role != "assistant" {
			m.Fail("tool_calls", "may stand only in messages of the assistant")
		}
		m.Objects("tool_calls", checkToolCall)
		message.ToolCalls = m.Raw("tool_calls")
	}
	hasContent := m.Has("content") || message.Role == "assistant" && (m.Has("tool_calls") || m.Has("refusal"))
	if !hasContent {
		m.Fail("content", "is missing")
	}
	return message
}

// role knows developer as OpenAI's newer word for system.
func role(m *wire.Object) string {
	switch r := m.String("role"); r {
	case "developer":
		return "system"
	case "system", "user", "assistant", "tool":
		return r
	case "":
		m.Fail("role", "is missing")
	case "function":
		unsupported(m, "role", "function is not supported: use tool")
	default:
		m.Fail("role", "must be system, developer, user, assistant or tool, not "+quote(r))
	}
	return ""
}

// content reads a text, or parts that are all text.
func content(m *wire.Object) string {
	if kind := m.Kind("content"); kind != "an array" {
		if kind != "a string" && kind != "null" {
			m.Fail("content", "must be a string or an array of parts, not "+kind)
			return ""
		}
		return m.String("content")
	}
	var all strings.Builder
	m.Objects("content", func(part *wire.Object) {
		field := "text"
		switch kind := part.String("type"); kind {
		case "text":
		case "refusal":
			field = "refusal"
		case "":
			part.Fail("type", "is missing")
		default:
			unsupported(part, "type", quote(kind)+" is not supported: parts must be text")
		}
		if !part.Has(field) {
			part.Fail(field, "is missing")
		}
		all.WriteString(part.String(field))
	})
	return all.String()
}

func checkToolCall(call *wire.Object) {
	f := call.Object("function")
	if f == nil {
		call.Fail("function", "is missing")
		return
	}
	if f.String("name") == "" {
		f.Fail("name", "is missing")
	}
	call.Take(f)
}

func readTools(o *wire.Object, req *cluster.Request) {
	o.Objects("tools", func(tool *wire.Object) {
		if kind := tool.String("type"); kind != "function" && kind != "" {
			unsupported(tool, "type", quote(kind)+" is not supported: tools must be functions")
		}
		checkToolCall(tool)
		if f := tool.Object("function"); f != nil && f.Has("parameters") && f.Kind("parameters") != "an object" {
			f.Fail("parameters", "must be an object, not "+f.Kind("parameters"))
			tool.Take(f)
		}
	})
	req.SingleToolCall = o.Has("parallel_tool_calls") && !o.Bool("parallel_tool_calls")
	readToolChoice(o, req)
	if c := req.ToolChoice; c == nil || c.Mode != cluster.ToolNone {
		req.Tools = o.List("tools")
		if c != nil && req.Grammar != nil {
			o.Fail("tool_choice", "that forces a call and "+formatField+" exclude each other")
		}
		return
	}
	req.ToolChoice = nil // as if there were no tools
}

func readToolChoice(o *wire.Object, req *cluster.Request) {
	const claim = "must be none, auto, required or name a function"
	switch kind := o.Kind("tool_choice"); kind {
	case "null":
	case "a string":
		switch mode := cluster.ToolMode(o.String("tool_choice")); mode {
		case cluster.ToolAuto:
		case cluster.ToolNone, cluster.ToolRequired:
			req.ToolChoice = &cluster.ToolChoice{Mode: mode}
		default:
			o.Fail("tool_choice", claim+", not "+quote(string(mode)))
		}
	case "an object":
		named := o.Object("tool_choice")
		if kind := named.String("type"); kind != "function" {
			unsupported(named, "type", quote(kind)+" is not supported: it must be function")
		}
		checkToolCall(named)
		o.Take(named)
		if f := named.Object("function"); f != nil {
			req.ToolChoice = &cluster.ToolChoice{Name: f.String("name")}
		}
	default:
		o.Fail("tool_choice", claim+", not "+kind)
	}
}

// readEffort gives a degree of thinking to the model's template, which says what it makes of it.
func readEffort(o *wire.Object, req *cluster.Request) {
	const field = "reasoning_effort"
	switch effort := o.String(field); effort {
	case "":
		return
	case "none", "minimal", "low", "medium", "high", "xhigh":
	default:
		o.Fail(field, "must be none, minimal, low, medium, high or xhigh, not "+quote(effort))
	}
	if req.TemplateArgs[field] != nil {
		o.Fail(field, "and "+argsField+"."+field+" exclude each other")
	}
	if req.TemplateArgs == nil {
		req.TemplateArgs = make(map[string]json.RawMessage)
	}
	req.TemplateArgs[field] = o.Raw(field)
}

func readTemplateArgs(o *wire.Object, req *cluster.Request) {
	o.Members(argsField, func(key string, value json.RawMessage) {
		if req.TemplateArgs == nil {
			req.TemplateArgs = make(map[string]json.RawMessage)
		}
		req.TemplateArgs[key] = value
	})
}

func quote(s string) string {
	const most = 40
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
