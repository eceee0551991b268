package enginetest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Weather makes the request that has the test models call Weather's tool for a city.
func Weather(model, city string) *cluster.Request {
	return &cluster.Request{
		Model:    model,
		Messages: []cluster.Message{{Role: "user", Content: "What is the weather in " + city + "?"}},
		Tools: []json.RawMessage{json.RawMessage(`{"type":"function","function":{"name":"get_weather",` +
			`"description":"Get the weather of a city.","parameters":{"type":"object",` +
			`"properties":{"city":{"type":"string"}},"required":["city"]}}}`)},
	}
}

// Count makes the request "Count from 1 to n." for a model.
func Count(model string, n int) *cluster.Request {
	return &cluster.Request{
		Model:    model,
		Messages: []cluster.Message{{Role: "user", Content: fmt.Sprintf("Count from 1 to %d.", n)}},
	}
}

// Answer is what a Generate emitted, put together.
type Answer struct {
	Text      string
	Reasoning string
	Calls     []cluster.ToolCallDelta // whole
	Tokens    []int
	Last      cluster.Chunk // with Finish, if it came
	Chunks    int
	Err       error
}

// Collect runs generate and puts together what it emits. A chunk that breaks the order of an answer fails the test.
func Collect(tb testing.TB, generate func(emit func(cluster.Chunk)) error) Answer {
	tb.Helper()
	var a Answer
	var calls cluster.ToolCalls
	a.Err = generate(func(c cluster.Chunk) {
		a.Chunks++
		if a.Last.Finish != "" {
			tb.Errorf("a chunk came after the last one: %+v", c)
		}
		if c.Progress != nil && (c.Text != "" || len(a.Tokens) > 0) {
			tb.Errorf("progress came with text, or after it: %+v", c)
		}
		a.Text += c.Text
		a.Reasoning += c.Reasoning
		addCalls(tb, &calls, c.ToolCalls)
		a.Tokens = append(a.Tokens, c.Tokens...)
		if c.Finish != "" {
			a.Last = c
		}
	})
	a.Calls = calls.Joined()
	switch {
	case a.Err == nil && (a.Last.Finish == "" || a.Last.Usage == nil):
		tb.Errorf("the answer ended without a last chunk that has Finish and Usage: %+v", a)
	case a.Err != nil && a.Last.Finish != "":
		tb.Errorf("the answer has a last chunk and fails, too: %v", a.Err)
	}
	return a
}

// addCalls takes pieces of calls in. A piece of a call that has not begun fails the test.
func addCalls(tb testing.TB, calls *cluster.ToolCalls, more []cluster.ToolCallDelta) {
	tb.Helper()
	for _, d := range more {
		begins := d.ID != "" && d.Name != "" && d.Index == calls.Len()
		goesOn := d.ID == "" && d.Name == "" && calls.Len() > 0 && d.Index == calls.Len()-1
		if !begins && !goesOn {
			tb.Errorf("after %d calls there came %+v", calls.Len(), d)
			continue
		}
		calls.Add(d)
	}
}
