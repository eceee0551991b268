package agent_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestAnswersAreExact(t *testing.T) {
	t.Parallel()
	c, _, n := pair(t, enginetest.Script{}, nil)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			q := count(300)
			q.Model = n.Models[0]
			got, err := c.infer(q)
			if want := enginetest.Counted(1, 300); err != nil || got != want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	c, r, n := pair(t, enginetest.Script{}, nil)
	for name, bad := range map[string]struct {
		change func(*bus.InferRequest)
		code   cluster.Code
		says   string
	}{
		"no attempt":       {func(q *bus.InferRequest) { q.Attempt = "" }, cluster.CodeInvalid, "attempt"},
		"no prompt":        {func(q *bus.InferRequest) { q.Request.Prompt = nil }, cluster.CodeInvalid, "messages"},
		"no such model":    {func(q *bus.InferRequest) { q.Model.Name = "org/none" }, cluster.CodeNoModel, "org/none"},
		"relative path":    {func(q *bus.InferRequest) { q.Model.Name = "../tiny" }, cluster.CodeInvalid, "model"},
		"another content":  {func(q *bus.InferRequest) { q.Model.Digest = "sha256:0" }, cluster.CodeConflict, "tiny has changed"},
		"prompt too long":  {func(q *bus.InferRequest) { *q.Request.Prompt = strings.Repeat("a ", 9000) }, cluster.CodeContext, "context"},
		"temperature of 9": {func(q *bus.InferRequest) { q.Request.Temperature = new(9.0) }, cluster.CodeInvalid, "temperature"},
	} {
		q := count(3)
		q.Model = n.Models[0]
		bad.change(&q)
		got, err := c.infer(q)
		code(t, err, bad.code, bad.says)
		if got != "" {
			t.Errorf("%s: got %q", name, got)
		}
		if e := cluster.AsError(err); e != nil && e.Node != node {
			t.Errorf("%s: the error names node %q", name, e.Node)
		}
	}
	got, err := c.infer(count(3))
	if err != nil || got != "1, 2, 3" {
		t.Errorf("after bad requests: %q, %v", got, err)
	}
	if n := r.launcher.Launches(); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
}

func TestAttemptThatComesTwiceIsRefused(t *testing.T) {
	t.Parallel()
	var answers atomic.Int32
	c, _, _ := pair(t, enginetest.Script{Reply: func(q *cluster.Request) []string {
		answers.Add(1)
		return enginetest.Skills(q)
	}}, nil)
	q := count(3)
	if got, err := c.infer(q); err != nil || got != "1, 2, 3" {
		t.Fatalf("got %q, %v", got, err)
	}
	_, err := c.infer(q)
	code(t, err, cluster.CodeConflict, "twice")
	if n := answers.Load(); n != 1 {
		t.Errorf("%d answers were made", n)
	}
}

func TestAttemptsAreForgottenAfterAMinute(t *testing.T) {
	t.Parallel()
	var r agent.Recent
	for _, c := range []struct {
		id    string
		at    time.Duration
		isNew bool
	}{
		{"a", 0, true},
		{"a", time.Second, false},
		{"b", 30 * time.Second, true},
		{"a", 60 * time.Second, false},
		{"a", 61 * time.Second, true},
		{"b", 61 * time.Second, false},
		{"b", 91 * time.Second, true},
	} {
		if got := r.Add(c.id, c.at); got != c.isNew {
			t.Errorf("%s after %s: new %t, want %t", c.id, c.at, got, c.isNew)
		}
	}
}

// slow gives an answer of many tokens that does not end by itself while a test runs.
func slow() enginetest.Script { return enginetest.Script{TokensPerSecond: 200} }

// begin opens a stream and reads its first text.
func begin(t *testing.T, c *controller) *bus.Stream {
	t.Helper()
	stream, err := c.open(bus.VerbInfer, count(90000))
	if err != nil {
		t.Fatal(err)
	}
	for {
		var chunk cluster.Chunk
		if err := stream.Next(t.Context(), &chunk); err != nil {
			t.Fatal(err)
		}
		if chunk.Text != "" {
			return stream
		}
	}
}

func running(n int) func(bus.Heartbeat) bool {
	return func(b bus.Heartbeat) bool { return len(b.Replicas) == 1 && b.Replicas[0].Running == n }
}

func TestCancelReachesTheEngine(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, slow(), nil)
	stream := begin(t, c)
	wait(t, c.beats, "a request runs", running(1))
	stream.Cancel()
	b := wait(t, c.beats, "no request runs", running(0))
	if got := b.Replicas[0].Counters.Cancelled; got != 1 {
		t.Errorf("%d cancelled, want 1", got)
	}
	if s := r.launcher.Engines()[0].Stats(); s.Running != 0 {
		t.Errorf("%d rows run", s.Running)
	}
}

func TestFullNodeIsBusy(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, slow(), func(o *agent.Options) { o.Defaults.MaxRows = 1 })
	begin(t, c)
	for range 4 { // wait
		if _, err := c.open(bus.VerbInfer, count(90000)); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, c.beats, "four requests wait", func(b bus.Heartbeat) bool { return len(b.Replicas) == 1 && b.Replicas[0].Waiting == 4 })
	_, err := c.infer(count(3))
	code(t, err, cluster.CodeBusy, "tiny")
}

func TestSlowReaderHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	c, _, _ := pair(t, enginetest.Script{TokensPerSecond: 5000}, nil)
	stream, err := c.open(bus.VerbInfer, count(8000))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.infer(count(300)) // the other is not read meanwhile
	if err != nil || got != enginetest.Counted(1, 300) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := c.read(stream); err != nil || got != enginetest.Counted(1, 8000) {
		t.Errorf("the slow one got %d bytes, %v", len(got), err)
	}
}

func TestWorkerCrashIsATypedErrorAndNews(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{CrashAt: 5, TokensPerSecond: 1000}, nil)
	got, err := c.infer(count(300))
	code(t, err, cluster.CodeWorkerCrashed, "tiny")
	if !strings.HasPrefix(enginetest.Counted(1, 300), got) {
		t.Errorf("%q is no part of the answer", got)
	}
	wait(t, c.news, "news of the crash", func(e cluster.Event) bool {
		return strings.Contains(e.Message, "killed") || strings.Contains(e.Message, "failed")
	})
	r.launcher.SetScript(enginetest.Script{})
	if got, err := c.infer(count(3)); err != nil || got != "1, 2, 3" {
		t.Errorf("after the crash: %q, %v", got, err)
	}
}

func TestEndLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	c, r, _ := pair(t, enginetest.Script{Hold: hold}, func(o *agent.Options) { o.Grace = patience })
	stream, err := c.open(bus.VerbInfer, count(150))
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c.beats, "a request runs", running(1))
	ended := make(chan error, 1)
	go func() { ended <- r.end() }()
	wait(t, c.beats, "it ends", draining(true))
	close(hold)
	if got, err := c.read(stream); err != nil || got != enginetest.Counted(1, 150) {
		t.Errorf("got %q, %v", got, err)
	}
	if err := wait(t, ended, "end", always); err != nil {
		t.Error(err)
	}
}

func TestEndTellsRequestsThatDoNotFinish(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, slow(), nil)
	stream := begin(t, c)
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	_, err := c.read(stream)
	if e := cluster.AsError(err); e == nil || !e.Retryable() {
		t.Errorf("got %v (%s), want an error that another node may mend", err, cluster.CodeOf(err))
	}
	if n := len(r.launcher.Engines()); n != 0 {
		t.Errorf("%d engines are left", n)
	}
}

func TestSleepEndsWhatRan(t *testing.T) {
	t.Parallel()
	var slept atomic.Int64 // the clock stands still but for that
	clock := func() time.Duration { return time.Duration(slept.Load()) }
	c, _, _ := pair(t, slow(), func(o *agent.Options) {
		*o = o.WithClocks(50*time.Millisecond, time.Hour, 20*time.Millisecond, clock)
	})
	stream := begin(t, c)
	slept.Add(int64(time.Minute))
	_, err := c.read(stream)
	code(t, err, cluster.CodeNodeLost, "slept for 1m0s")
	wait(t, c.hello, "hello after the sleep", always)
	if got, err := c.infer(count(3)); err != nil || got != "1, 2, 3" {
		t.Errorf("after the sleep: %q, %v", got, err)
	}
}
