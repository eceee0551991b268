package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// ToolCallDelta is a piece of a call that the model makes. Pieces of one call come in order; a call begins with the
// piece that has ID and Name.
type ToolCallDelta struct {
	Index int    `json:"index"` // of the call in its answer, from 0
	ID    string `json:"id,omitempty"`
	Name  string `json:"name,omitempty"`
	// Arguments is JSON text to append to what came before. A model may write what is no valid JSON.
	Arguments string `json:"arguments,omitempty"`
}

// ToolCalls joins pieces of calls: what belongs to one call and stands together is one. It takes time that grows with the
// length of the pieces, however many they are. The zero value holds none. It is not safe for concurrent use.
type ToolCalls struct {
	calls     []ToolCallDelta
	arguments [][]byte // of each of them
}

// Add takes pieces in.
func (t *ToolCalls) Add(pieces ...ToolCallDelta) {
	for _, d := range pieces {
		last := len(t.calls) - 1
		if last < 0 || d.ID != "" || t.calls[last].Index != d.Index {
			t.calls, t.arguments = append(t.calls, d), append(t.arguments, nil)
			last++
		}
		t.arguments[last] = append(t.arguments[last], d.Arguments...)
	}
}

// Len is the number of calls, or of what has to stay apart.
func (t *ToolCalls) Len() int { return len(t.calls) }

// Joined returns them; nil for none.
func (t *ToolCalls) Joined() []ToolCallDelta {
	out := slices.Clone(t.calls)
	for i := range out {
		out[i].Arguments = string(t.arguments[i])
	}
	return out
}

// ToolMode says whether a model calls tools.
type ToolMode string

// Modes of a ToolChoice. Absent is as ToolAuto.
const (
	ToolAuto     ToolMode = "auto"     // the model decides
	ToolNone     ToolMode = "none"     // it is not told of the tools
	ToolRequired ToolMode = "required" // it calls at least one
)

// ToolChoice is a mode, or the one tool that has to be called: then Mode is empty. In JSON it is "auto", "none",
// "required" or {"name": …}.
type ToolChoice struct {
	Mode ToolMode
	Name string
}

// MarshalJSON writes the mode, or an object with the name.
func (c ToolChoice) MarshalJSON() ([]byte, error) {
	if c.Name != "" {
		return json.Marshal(map[string]string{"name": c.Name})
	}
	return json.Marshal(c.Mode)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *ToolChoice) UnmarshalJSON(data []byte) error {
	*c = ToolChoice{}
	if !bytes.HasPrefix(data, []byte("{")) {
		return json.Unmarshal(data, &c.Mode)
	}
	var named struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(data, &named); err != nil {
		return fmt.Errorf("read tool_choice: %w", err)
	}
	c.Name = named.Name
	return nil
}

// toolName finds the name of a tool in OpenAI's shape, or without its outer object.
func toolName(tool json.RawMessage) string {
	var t struct {
		Name     string `json:"name"`
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if json.Unmarshal(tool, &t) != nil {
		return ""
	}
	if t.Function.Name != "" {
		return t.Function.Name
	}
	return t.Name
}

func (r *Request) validateTools() error {
	c := r.ToolChoice
	if c == nil {
		return nil
	}
	switch {
	case c.Name != "" && c.Mode != "":
		return Invalid("tool_choice", "has a mode and a name")
	case c.Name == "" && c.Mode != ToolAuto && c.Mode != ToolNone && c.Mode != ToolRequired:
		return Invalid("tool_choice", "must be auto, none, required or name a tool, not "+quote(string(c.Mode)))
	case c.Mode == ToolAuto || c.Mode == ToolNone:
		return nil
	case len(r.Tools) == 0:
		return Invalid("tool_choice", "needs tools")
	case c.Name == "":
		return nil
	}
	for _, tool := range r.Tools {
		if toolName(tool) == c.Name {
			return nil
		}
	}
	return Invalid("tool_choice", "names "+quote(c.Name)+", which is none of the tools")
}
