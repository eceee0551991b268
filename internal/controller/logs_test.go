package controller_test

import (
	"context"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller/api"
)

func named(id cluster.RequestID) func(*cluster.Request) {
	return func(q *cluster.Request) { q.ID = id }
}

// A request can be asked about while it is answered and after its end, however it ended, with all its answers or by one.
func TestRequestsAreKnownByTheirIDs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	s.node(t, "a", script{})
	s.node(t, "b", script{infer: first})
	s.node(t, "c", script{infer: refuse(cluster.CodeContext)})
	c.ready(t, "a", "b", "c")
	me := s.client(t, "me")
	known := func(id cluster.RequestID, want ...string) {
		t.Helper()
		var lines []string
		err := me.Logs(t.Context(), api.LogsRequest{Request: id}, func(l bus.LogLine) error {
			lines = append(lines, l.Text)
			return nil
		})
		if err != nil || len(lines) != len(want) {
			t.Fatalf("of %s: %q, %v", id, lines, err)
		}
		for i, parts := range want {
			for part := range strings.SplitSeq(parts, ";") {
				if !strings.Contains(lines[i], part) {
					t.Errorf("line %d of %s is %q, without %q", i, id, lines[i], part)
				}
			}
		}
	}
	known("r-1")
	for _, id := range []cluster.RequestID{"r-1", "r-1-1", "r-10"} {
		if err := c.ask(t.Context(), ask("x y", named(id), on("a"))).err; err != nil {
			t.Fatal(err)
		}
	}
	known("r-1", `msg="request answered" req=r-1 model=tiny node=a attempts=1 tokens=2 dur=;ttft=`, "req=r-1-1")
	known("r-1-1", "req=r-1-1")
	code(t, c.ask(t.Context(), ask("x", named("r-bad"), on("c"))).err, cluster.CodeContext)
	known("r-bad", `level=WARN msg="request failed" req=r-bad;node=c;code=context_exceeded err=`)
	ctx, leave := context.WithCancel(t.Context())
	running := make(chan *answer, 1)
	go func() { running <- c.ask(ctx, ask("x", named("r-here"), on("b"))) }()
	c.streaming(t, 1)
	known("r-here", `level=INFO msg="request streaming" req=r-here model=tiny node=b`)
	leave()
	wait(t, "the end of it", running)
	known("r-here", `level=INFO msg="request cancelled" req=r-here;code=cancelled`)
}
