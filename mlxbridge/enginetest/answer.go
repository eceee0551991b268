package enginetest

import (
	"fmt"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Count makes the request "Count from 1 to n." for a model.
func Count(model string, n int) *cluster.Request {
	return &cluster.Request{
		Model:    model,
		Messages: []cluster.Message{{Role: "user", Content: fmt.Sprintf("Count from 1 to %d.", n)}},
	}
}

// Answer is what a Generate emitted, put together.
type Answer struct {
	Text   string
	Tokens []int
	Last   cluster.Chunk // with Finish, if it came
	Chunks int
	Err    error
}

// Collect runs generate and puts together what it emits. A chunk that breaks the order of an answer fails the test.
func Collect(tb testing.TB, generate func(emit func(cluster.Chunk)) error) Answer {
	tb.Helper()
	var a Answer
	a.Err = generate(func(c cluster.Chunk) {
		a.Chunks++
		if a.Last.Finish != "" {
			tb.Errorf("a chunk came after the last one: %+v", c)
		}
		if c.Progress != nil && (c.Text != "" || len(a.Tokens) > 0) {
			tb.Errorf("progress came with text, or after it: %+v", c)
		}
		a.Text += c.Text
		a.Tokens = append(a.Tokens, c.Tokens...)
		if c.Finish != "" {
			a.Last = c
		}
	})
	switch {
	case a.Err == nil && (a.Last.Finish == "" || a.Last.Usage == nil):
		tb.Errorf("the answer ended without a last chunk that has Finish and Usage: %+v", a)
	case a.Err != nil && a.Last.Finish != "":
		tb.Errorf("the answer has a last chunk and fails, too: %v", a.Err)
	}
	return a
}
