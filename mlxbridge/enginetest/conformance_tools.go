package enginetest

import (
	"github.com/mlxctl/mlxctl/internal/cluster"
)

const osloArguments = `{"city": "Oslo"}`

// weather asks for a call, under an id that all attempts share.
func (c *conformance) weather(change func(*cluster.Request)) Answer {
	req := Weather(c.spec.Model.Name, "Oslo")
	req.ID = "r-weather"
	if change != nil {
		change(req)
	}
	return c.ask(c.t.Context(), c.t, req)
}

func (c *conformance) callsTool() {
	t := c.t
	a := c.weather(nil)
	if a.Err != nil || a.Text != "" || a.Last.Finish != cluster.FinishToolCalls || len(a.Calls) != 1 {
		t.Fatalf("%+v", a)
	}
	if got := a.Calls[0]; got.Name != "get_weather" || got.Arguments != osloArguments {
		t.Errorf("it calls %+v", got)
	}
	if again := c.weather(nil); len(again.Calls) != 1 || again.Calls[0] != a.Calls[0] {
		t.Errorf("another attempt calls %+v, the first %+v", again.Calls, a.Calls)
	}
	for name, choice := range map[string]*cluster.ToolChoice{"none": {Mode: cluster.ToolNone}, "auto": {Mode: cluster.ToolAuto}} {
		a := c.weather(func(r *cluster.Request) { r.ToolChoice = choice })
		if calls := len(a.Calls) == 1; a.Err != nil || calls != (name == "auto") {
			t.Errorf("with tool_choice %s: %+v", name, a)
		}
	}
}

// continuesCall breaks an answer off after each of its chunks, as the loss of a node does, and has another attempt go on.
func (c *conformance) continuesCall() {
	t := c.t
	var chunks []cluster.Chunk
	whole := c.weather(nil)
	req := Weather(c.spec.Model.Name, "Oslo")
	req.ID = "r-weather"
	if err := c.engine.Generate(t.Context(), req, func(chunk cluster.Chunk) { chunks = append(chunks, chunk) }); err != nil {
		t.Fatal(err)
	}
	for cut := range chunks {
		var tokens []int
		var calls cluster.ToolCalls
		for _, chunk := range chunks[:cut] {
			tokens = append(tokens, chunk.Tokens...)
			addCalls(t, &calls, chunk.ToolCalls)
		}
		req.Continue = tokens
		err := c.engine.Generate(t.Context(), req, func(chunk cluster.Chunk) {
			addCalls(t, &calls, chunk.ToolCalls)
			if chunk.Text != "" {
				t.Errorf("after %d tokens there came the text %q", len(tokens), chunk.Text)
			}
		})
		if got := calls.Joined(); err != nil || len(got) != 1 || got[0] != whole.Calls[0] {
			t.Errorf("cut after %d tokens: %+v, %v", len(tokens), got, err)
		}
	}
}
