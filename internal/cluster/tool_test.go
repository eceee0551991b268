package cluster_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestToolChoiceOnTheWire(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		choice cluster.ToolChoice
		wire   string
	}{
		{cluster.ToolChoice{Mode: cluster.ToolNone}, `"none"`},
		{cluster.ToolChoice{Mode: cluster.ToolRequired}, `"required"`},
		{cluster.ToolChoice{Name: "get_weather"}, `{"name":"get_weather"}`},
	} {
		wire, err := json.Marshal(&c.choice)
		if err != nil || string(wire) != c.wire {
			t.Errorf("%+v becomes %s, %v", c.choice, wire, err)
		}
		back := cluster.ToolChoice{Mode: "old", Name: "old"}
		if err := json.Unmarshal([]byte(c.wire), &back); err != nil || back != c.choice {
			t.Errorf("%s becomes %+v, %v", c.wire, back, err)
		}
	}
}

func TestToolChoiceIsChecked(t *testing.T) {
	t.Parallel()
	tools := []json.RawMessage{json.RawMessage(`{"type":"function","function":{"name":"f"}}`), json.RawMessage(`{"name":"g"}`)}
	for _, c := range []struct {
		choice cluster.ToolChoice
		tools  []json.RawMessage
		claim  string // empty: it is right
	}{
		{cluster.ToolChoice{Mode: cluster.ToolAuto}, nil, ""},
		{cluster.ToolChoice{Mode: cluster.ToolNone}, nil, ""},
		{cluster.ToolChoice{Mode: cluster.ToolRequired}, tools, ""},
		{cluster.ToolChoice{Name: "f"}, tools, ""},
		{cluster.ToolChoice{Name: "g"}, tools, ""},
		{cluster.ToolChoice{Mode: cluster.ToolRequired}, nil, "needs tools"},
		{cluster.ToolChoice{Name: "f"}, nil, "needs tools"},
		{cluster.ToolChoice{Name: "h"}, tools, "none of the tools"},
		{cluster.ToolChoice{}, tools, "must be auto"},
		{cluster.ToolChoice{Mode: "often"}, tools, "must be auto"},
		{cluster.ToolChoice{Mode: cluster.ToolAuto, Name: "f"}, tools, "a mode and a name"},
	} {
		prompt := "hi"
		r := cluster.Request{Model: "m", Prompt: &prompt, Tools: c.tools, ToolChoice: &c.choice}
		err := r.Validate()
		if (err == nil) != (c.claim == "") || err != nil && !strings.Contains(err.Error(), c.claim) {
			t.Errorf("%+v: %v, want %q", c.choice, err, c.claim)
		}
		if err != nil && cluster.AsError(err).Field != "tool_choice" {
			t.Errorf("%+v: field %q", c.choice, cluster.AsError(err).Field)
		}
	}
}

func TestToolCallsAreMerged(t *testing.T) {
	t.Parallel()
	first := cluster.ToolCallDelta{Index: 0, ID: "a", Name: "f", Arguments: "{"}
	second := cluster.ToolCallDelta{Index: 1, ID: "b", Name: "g"}
	var calls cluster.ToolCalls
	if got := calls.Joined(); got != nil || calls.Len() != 0 {
		t.Errorf("of no piece: %+v", got)
	}
	calls.Add(first, cluster.ToolCallDelta{Arguments: "}"}, second)
	early := calls.Joined()
	calls.Add(cluster.ToolCallDelta{Index: 1, Arguments: "{"}, cluster.ToolCallDelta{Index: 1, Arguments: "}"})
	first.Arguments, second.Arguments = "{}", "{}"
	if got, want := calls.Joined(), []cluster.ToolCallDelta{first, second}; !reflect.DeepEqual(got, want) || calls.Len() != 2 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if early[1].Arguments != "" {
		t.Errorf("what was joined before has changed: %+v", early)
	}
	// The first piece of the second call is lost: what is left is nobody else's.
	calls = cluster.ToolCalls{}
	calls.Add(first, cluster.ToolCallDelta{Index: 1, Arguments: "x"})
	if got := calls.Joined(); len(got) != 2 || got[0] != first {
		t.Errorf("got %+v", got)
	}
}
