package cmd

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// idleMacs is twoMacs without work.
func idleMacs() *cluster.Snapshot {
	s := twoMacs()
	s.Requests = nil
	for i := range s.Nodes {
		for j := range s.Nodes[i].Replicas {
			s.Nodes[i].Replicas[j].Running, s.Nodes[i].Replicas[j].Waiting = 0, 0
		}
	}
	return s
}

func TestDrain(t *testing.T) {
	t.Parallel()
	away := cluster.Errorf(cluster.CodeUnreachable, "node mini is down: no heartbeat for 7 s")
	for _, c := range []struct {
		name    string
		args    []string
		busy    bool
		refuses map[cluster.NodeID]error
		code    int
		asked   []string
		says    string // on stderr
	}{
		{name: "idle", args: []string{"drain", "studio"}, asked: []string{"n-studio"}, says: "studio is drained\n"},
		{name: "by id, twice", args: []string{"drain", "n-studio", "STUDIO"}, asked: []string{"n-studio"}, says: "studio is drained\n"},
		{name: "both", args: []string{"drain", "studio", "mini"}, asked: []string{"n-studio", "n-mini"}, says: "mini is drained\n"},
		{name: "work is left", args: []string{"drain", "studio", "--timeout", "1s"}, busy: true, code: exitPartial, asked: []string{"n-studio"}, says: "waiting for what runs: 3 requests on studio\nstudio drains, but still has 3 requests\n"},
		{name: "without waiting", args: []string{"drain", "studio", "--no-wait"}, busy: true, asked: []string{"n-studio"}, says: "studio drains\n"},
		{name: "undrain", args: []string{"undrain", "studio", "mini"}, busy: true, asked: []string{"-n-studio", "-n-mini"}, says: "studio takes requests again\nmini takes requests again\n"},
		{name: "quiet", args: []string{"-q", "drain", "studio"}, asked: []string{"n-studio"}},
		{name: "one is away", args: []string{"drain", "studio", "mini"}, refuses: map[cluster.NodeID]error{"n-mini": away}, code: exitPartial, asked: []string{"n-studio", "n-mini"}, says: "studio is drained\nmini: node mini is down: no heartbeat for 7 s\n"},
		{name: "it is away", args: []string{"undrain", "mini"}, refuses: map[cluster.NodeID]error{"n-mini": away}, code: exitUnreachable, asked: []string{"-n-mini"}, says: "node mini is down"},
		{name: "all are away", args: []string{"drain", "mini", "studio"}, refuses: map[cluster.NodeID]error{"n-mini": away, "n-studio": away}, code: exitUnreachable, asked: []string{"n-mini", "n-studio"}, says: "mini: node mini is down"},
		{name: "no such node, and nothing is done", args: []string{"drain", "studio", "stduio"}, code: exitNoSuch, says: `did you mean "studio"?`},
		{name: "no node", args: []string{"drain"}, code: exitUsage, says: "the node is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeCluster{state: idleMacs(), refuses: c.refuses}
			if c.busy {
				f.state = twoMacs()
			}
			r := invocation{cluster: f}.run(t, c.args...)
			if r.code != c.code || r.out != "" || !strings.HasSuffix(r.err, c.says) && !strings.Contains(r.err, c.says) {
				t.Errorf("%+v, want code %d and %q", r, c.code, c.says)
			}
			if c.says == "" && r.err != "" {
				t.Errorf("it says %q", r.err)
			}
			if !slices.Equal(f.drained, c.asked) {
				t.Errorf("asked %v, want %v", f.drained, c.asked)
			}
		})
	}
}

func TestDrainAsJSON(t *testing.T) {
	t.Parallel()
	away := cluster.Errorf(cluster.CodeUnreachable, "node mini is down")
	f := &fakeCluster{state: twoMacs(), refuses: map[cluster.NodeID]error{"n-mini": away}}
	r := invocation{cluster: f}.run(t, "drain", "studio", "mini", "--timeout", "1s", "-o", "json")
	var got struct {
		Items []drainResult `json:"items"`
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != exitPartial || len(got.Items) != 2 {
		t.Fatalf("%+v: %v", r, err)
	}
	if s := got.Items[0]; s.Node != "n-studio" || s.Name != "studio" || !s.Drained || s.Requests != 3 || s.Error != nil {
		t.Errorf("studio: %+v", s)
	}
	if m := got.Items[1]; m.Node != "n-mini" || m.Drained || m.Error == nil || m.Error.Code != cluster.CodeUnreachable {
		t.Errorf("mini: %+v", m)
	}
}

// A node of a real cluster finishes what it has; drained, it takes nothing, also after its agent started again.
func TestDrainOfARealNode(t *testing.T) {
	t.Parallel()
	h := running(t)
	node := h.up.Nodes[0].Name
	if r := h.run("drain", node); r.code != 0 {
		t.Fatalf("drain: %+v", r)
	}
	refused := func(when string) {
		t.Helper()
		if r := h.run("run", "tiny", countTo(3)); r.code != exitCapacity || !strings.Contains(r.err, "draining") || !strings.Contains(r.err, "mlxctl undrain "+node) {
			t.Errorf("%s: %+v", when, r)
		}
	}
	refused("drained")
	for what, r := range map[string]result{"nodes": h.run("nodes", "--no-headers"), "top": h.run("top", "--once")} {
		if r.code != 0 || !strings.Contains(r.out, " drained ") {
			t.Errorf("%s of a node that is empty: %+v", what, r)
		}
	}
	if s := h.snapshot(); !s.Nodes[0].Drained {
		t.Errorf("JSON does not say that it is empty: %+v", s.Nodes[0])
	}
	pid := h.pid("agent")
	h.kill(pid)
	h.await("the agent is back", func() bool {
		s := h.snapshot()
		return h.pid("agent") != pid && s != nil && len(s.Nodes) == 1 && s.Nodes[0].State == cluster.NodeDraining
	})
	refused("after its agent started again")
	if r := h.run("undrain", node); r.code != 0 {
		t.Fatalf("undrain: %+v", r)
	}
	if r := h.run("run", "tiny", countTo(3)); r.code != 0 || r.out != "1, 2, 3" {
		t.Errorf("undrained: %+v", r)
	}
}
