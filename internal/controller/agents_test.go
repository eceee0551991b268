package controller_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// mac is a machine with known readings.
type mac struct{}

func (mac) Hardware(context.Context) cluster.Hardware { return cluster.Hardware{OS: "darwin"} }
func (mac) Load(context.Context) cluster.Load         { return cluster.Load{} }
func (mac) Budget(context.Context) int64              { return 8 << 30 }

// agent runs a real one on fake engines.
func (s *site) agent(t *testing.T, id cluster.NodeID, url string, script enginetest.Script, rows int) {
	t.Helper()
	lib, err := library.Open(library.Options{CacheDir: t.TempDir(), HubDirs: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	o := agent.Options{
		Bus: s.agentBus(t, id), ID: id, Name: "mac-" + string(id), Home: t.TempDir(), Library: lib, Monitor: mac{},
		Launcher: enginetest.NewLauncher(script), Defaults: mlxbridge.ModelOptions{MaxRows: rows}, Grace: -1,
	}
	if url != "" {
		o.Bus.URLs = []string{url}
	}
	a := agent.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := wait(t, "the agent ends", ended); err != nil {
			t.Error(err)
		}
	})
}

func TestTwoHundredRequestsOverFourNodesAreExact(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	ids := []cluster.NodeID{"a", "b", "c", "d"}
	hold := make(chan struct{}) // until all of them have work: one alone may be quick enough for all
	for _, id := range ids {
		s.agent(t, id, "", enginetest.Script{Hold: hold}, 16)
	}
	c.ready(t, ids...)
	clients := []asker{c.Dispatch, s.client(t, "one").Generate, s.client(t, "two").Generate}
	var mu sync.Mutex
	served := map[cluster.NodeID]int{}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			to := 20 + i%50
			got := clients[i%len(clients)].ask(t.Context(), ask(fmt.Sprintf("Count from 1 to %d.", to)))
			if want := enginetest.Counted(1, to); got.err != nil || got.text != want {
				t.Errorf("request %d: got %q, %v", i, got.text, got.err)
			}
			mu.Lock()
			defer mu.Unlock()
			served[got.node]++
		})
	}
	c.snapshot(t, "all nodes have work", func(s *cluster.Snapshot) bool {
		at := map[cluster.NodeID]bool{}
		for _, q := range s.Requests {
			if q.Node != "" {
				at[q.Node] = true
			}
		}
		return len(at) == len(ids)
	})
	close(hold)
	wg.Wait()
	if len(served) != len(ids) {
		t.Errorf("the answers are of %v, want all of %v", served, ids)
	}
	totals := c.over(t, 200).Totals
	if totals.Finished != 200 {
		t.Errorf("totals are %+v", totals)
	}
}

func TestNodeThatDiesUnderFiftyStreamsTakesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Deadlines.Gap = time.Hour }) // it is not silence that tells
	line := s.cable(t)
	hold := make(chan struct{})
	script := enginetest.Script{TokensPerSecond: 200, Hold: hold}
	s.agent(t, "a", line.URL(), script, 64)
	s.agent(t, "b", "", script, 64)
	c.ready(t, "a", "b")
	for _, id := range []cluster.NodeID{"a", "b"} { // no node is preferred while the other loads
		if _, err := c.Load(t.Context(), "tiny", id, false, nil); err != nil {
			t.Fatal(err)
		}
		c.node(t, id, "loaded", func(n cluster.Node) bool {
			return len(n.Replicas) == 1 && n.Replicas[0].State == cluster.ReplicaReady
		})
	}
	const count, to = 100, 120
	want := enginetest.Counted(1, to)
	var begun atomic.Int32
	all := make(chan struct{})
	answers := make([]*answer, count)
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			a := &answer{}
			answers[i] = a
			a.err = c.Dispatch(t.Context(), ask(fmt.Sprintf("Count from 1 to %d.", to)), func(k cluster.Chunk) error {
				if k.Text != "" && a.text == "" && begun.Add(1) == count {
					close(all)
				}
				return a.take(k)
			})
		})
	}
	wait(t, "all streams begin", all)
	line.Set(false)
	c.snapshot(t, "its streams have ended", func(s *cluster.Snapshot) bool { return s.Totals.Failed == count/2 })
	close(hold)
	wg.Wait()
	of := map[cluster.NodeID]int{}
	for _, a := range answers {
		of[a.node]++
		if a.node == "b" {
			if a.err != nil || a.text != want {
				t.Errorf("a stream of the other node: %q, %v", a.text, a.err)
			}
			continue
		}
		code(t, a.err, cluster.CodeNodeLost, "mac-a")
		names(t, a.err, "a")
		if len(a.text) >= len(want) || a.text != want[:len(a.text)] {
			t.Errorf("%q is no part of the answer", a.text)
		}
	}
	if of["a"] != count/2 || of["b"] != count/2 {
		t.Errorf("streams are spread as %v", of)
	}
	totals := c.over(t, count).Totals
	if totals.Failed != count/2 || totals.Finished != count/2 {
		t.Errorf("totals are %+v", totals)
	}
}

func TestWorkerThatIsKilledFailsItsStreamsAndNoOther(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	s.agent(t, "a", "", enginetest.Script{CrashAt: 3}, 4)
	c.ready(t, "a")
	got := c.ask(t.Context(), ask("Count from 1 to 9."))
	code(t, got.err, cluster.CodeWorkerCrashed, "tiny")
	names(t, got.err, "a")
	s.agent(t, "b", "", enginetest.Script{}, 4)
	c.ready(t, "b")
	if got := c.ask(t.Context(), ask("Count from 1 to 9.", on("b"))); got.err != nil || got.text != enginetest.Counted(1, 9) {
		t.Errorf("got %q, %v", got.text, got.err)
	}
}
