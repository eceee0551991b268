package controller_test

import (
	"context"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// What runs on a draining node finishes there, what waits goes elsewhere, and who insists on it is told.
func TestDrainBreaksNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	hold := make(chan struct{})
	s.agent(t, "a", "", enginetest.Script{TokensPerSecond: 200, Hold: hold}, 1)
	s.agent(t, "b", "", enginetest.Script{TokensPerSecond: 200, Hold: hold}, 1)
	c.ready(t, "a", "b")
	onA := c.background(t, ask("Count from 1 to 200.", on("a")))
	onB := c.background(t, ask("Count from 1 to 100.", on("b")))
	c.streaming(t, 2)
	anywhere := c.background(t, ask("Count from 1 to 20."))
	insists := c.background(t, ask("Count from 1 to 20.", on("a")))
	c.snapshot(t, "two wait", func(s *cluster.Snapshot) bool { return len(s.Requests) == 4 })
	cli := s.client(t, "ops")
	if err := cli.Drain(t.Context(), "a", true); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Snapshot().Nodes {
		if n.ID == "a" && n.State != cluster.NodeDraining {
			t.Errorf("right after Drain the node is %s", n.State)
		}
	}
	for name, got := range map[string]*answer{"queued": wait(t, "who insists", insists), "new": c.ask(t.Context(), ask("Count.", on("a")))} {
		code(t, got.err, cluster.CodeNoNode, "mac-a", "draining")
		if hint := cluster.AsError(got.err).Hint; hint == "" || got.text != "" {
			t.Errorf("%s: it got %q, and no hint (%q)", name, got.text, hint)
		}
	}
	close(hold)
	if got := wait(t, "who runs on b", onB); got.err != nil || got.text != enginetest.Counted(1, 100) {
		t.Errorf("on b: %q, %v", got.text, got.err)
	}
	if got := wait(t, "who takes any node", anywhere); got.err != nil || got.node != "b" || got.text != enginetest.Counted(1, 20) {
		t.Errorf("the one that waited: %q on %s, %v", got.text, got.node, got.err)
	}
	if got := wait(t, "who runs on a", onA); got.err != nil || got.text != enginetest.Counted(1, 200) {
		t.Errorf("on a: %q, %v", got.text, got.err)
	}
	if err := cli.Drain(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	if got := c.ask(t.Context(), ask("Count from 1 to 3.", on("a"))); got.err != nil || got.text != "1, 2, 3" {
		t.Errorf("undrained: %q, %v", got.text, got.err)
	}
}

func TestDrainAndForgetOfWhoIsNotThere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	n := s.node(t, "a", script{})
	c.ready(t, "a")
	cli := s.client(t, "ops")
	code(t, cli.Drain(t.Context(), "nobody", true), cluster.CodeNoNode, "nobody")
	code(t, cli.Forget(t.Context(), "nobody"), cluster.CodeNoNode, "nobody")
	err := cli.Forget(t.Context(), "a")
	code(t, err, cluster.CodeConflict, "mac-a", "ready")
	names(t, err, "a")
	n.stop()
	c.node(t, "a", "on its way down", func(n cluster.Node) bool { return n.State == cluster.NodeSuspect || n.State == cluster.NodeDown })
	if err := cli.Forget(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if left := c.Snapshot().Nodes; len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
	code(t, cli.Forget(t.Context(), "a"), cluster.CodeNoNode)
	s.node(t, "a", script{})
	c.ready(t, "a")

	down := s.node(t, "b", script{})
	c.ready(t, "b")
	down.stop()
	c.node(t, "b", "down", func(n cluster.Node) bool { return n.State == cluster.NodeDown })
	err = cli.Drain(t.Context(), "b", true)
	code(t, err, cluster.CodeUnreachable, "mac-b", "is down")
	names(t, err, "b")
}

// A node that hears the question and says nothing is a timeout, not an endless wait.
func TestDrainOfWhoDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	n := s.node(t, "a", script{})
	if _, err := n.conn.Subscribe(bus.CommandSubject("a", bus.VerbDrain), func(string, func(any) error) {}); err != nil {
		t.Fatal(err)
	}
	c.ready(t, "a")
	err := c.Drain(t.Context(), "a", true)
	code(t, err, cluster.CodeTimeout, "mac-a")
	names(t, err, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code(t, c.Drain(ctx, "a", true), cluster.CodeCancelled)
}

func TestRosterNodesAreKnown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	started := time.Now()
	c.SetRoster([]controller.Admitted{{ID: "a", Name: "mini", Version: "v1"}, {ID: "b", Name: "studio"}, {}})
	snap := c.Snapshot()
	if len(snap.Nodes) != 2 {
		t.Fatalf("nodes: %+v", snap.Nodes)
	}
	for i, want := range []cluster.Node{{ID: "a", Name: "mini", Version: "v1"}, {ID: "b", Name: "studio"}} {
		got := snap.Nodes[i]
		if got.ID != want.ID || got.Name != want.Name || got.Version != want.Version || got.State != cluster.NodeDown ||
			got.Reason != "not heard of since the controller started" || !got.LastSeen.IsZero() {
			t.Errorf("got %+v", got)
		}
	}
	got := c.ask(t.Context(), ask("hello", on("a")))
	code(t, got.err, cluster.CodeNoNode, "mini", "not heard of")
	code(t, c.Drain(t.Context(), "a", true), cluster.CodeUnreachable, "mini", "not heard of")

	n := s.node(t, "a", script{})
	c.ready(t, "a")
	if name := c.node(t, "a", "itself", func(cluster.Node) bool { return true }).Name; name != "mac-a" {
		t.Errorf("its own name does not count: %s", name)
	}
	if got := c.ask(t.Context(), ask("one two", on("a"))); got.err != nil || got.text != "one two" {
		t.Errorf("got %q, %v", got.text, got.err)
	}
	// Removed from the roster, it stays while it is there, and disappears when it is down.
	without := []controller.Admitted{{ID: "b", Name: "studio"}}
	c.SetRoster(without)
	if len(c.Snapshot().Nodes) != 2 {
		t.Errorf("a node that is ready disappeared")
	}
	n.stop()
	c.node(t, "a", "down", func(n cluster.Node) bool { return n.State == cluster.NodeDown })
	c.SetRoster(without)
	if left := c.Snapshot().Nodes; len(left) != 1 || left[0].ID != "b" {
		t.Errorf("left: %+v", left)
	}
	// One that was never in it is not touched.
	stranger := s.node(t, "c", script{})
	c.ready(t, "c")
	stranger.stop()
	c.node(t, "c", "down", func(n cluster.Node) bool { return n.State == cluster.NodeDown })
	c.SetRoster(nil)
	if left := c.Snapshot().Nodes; len(left) != 1 || left[0].ID != "c" {
		t.Errorf("left: %+v after %s", left, time.Since(started))
	}
}
