package controller_test

import (
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// A draining node is drained once nothing runs there, and only then.
func TestADrainingNodeIsDrainedOnceItIsEmpty(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	hold := make(chan struct{})
	s.agent(t, "a", "", enginetest.Script{TokensPerSecond: 200, Hold: hold}, 1)
	c.ready(t, "a")
	runs := c.background(t, ask("Count from 1 to 200."))
	c.streaming(t, 1)
	cli := s.client(t, "ops")
	if err := cli.Drain(t.Context(), "a", true); err != nil {
		t.Fatal(err)
	}
	c.node(t, "a", "draining", func(n cluster.Node) bool { return n.State == cluster.NodeDraining })
	if snap := c.Snapshot(); len(snap.Requests) != 1 || snap.Nodes[0].Drained {
		t.Errorf("a node that answers is called drained, or does not answer: %+v", snap)
	}
	close(hold)
	if got := wait(t, "who runs", runs); got.err != nil || got.text != enginetest.Counted(1, 200) {
		t.Errorf("%q, %v", got.text, got.err)
	}
	c.node(t, "a", "drained", func(n cluster.Node) bool { return n.State == cluster.NodeDraining && n.Drained })
	if err := cli.Drain(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	c.node(t, "a", "ready", func(n cluster.Node) bool { return n.State == cluster.NodeReady && !n.Drained })
}
