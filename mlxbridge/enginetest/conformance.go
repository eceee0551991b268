package enginetest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// probe is a number that can be counted to in little time.
const probe = 10

// patience is far above what anything here takes on a loaded machine.
const patience = time.Minute

// Conformance asserts the promises of mlxbridge.Engine on the engines of a launcher. What they load must be able to
// count: one of the test models, or Skills. At the rate of the engine, counting to 300 must take long enough to be
// interrupted: 50 ms or more.
func Conformance(t *testing.T, launcher mlxbridge.Launcher, spec mlxbridge.LaunchSpec) {
	t.Helper()
	spec.MaxRows = 4
	c := conformance{t: t, launcher: launcher, spec: spec}
	c.engine = c.launch(t)
	t.Cleanup(func() { c.close(t, c.engine) })
	// In turn: some of them look at the engine's account of what it did.
	for _, each := range []struct {
		name string
		test func(*conformance)
	}{
		{"info", (*conformance).info},
		{"whole answer", (*conformance).wholeAnswer},
		{"max tokens", (*conformance).maxTokens},
		{"stop sequence", (*conformance).stopSequence},
		{"goes on after tokens of an earlier attempt", (*conformance).continues},
		{"calls a tool", (*conformance).callsTool},
		{"goes on in the middle of a call", (*conformance).continuesCall},
		{"refuses what does not fit the context", (*conformance).tooLong},
		{"refuses a request without a prompt", (*conformance).invalid},
		{"more requests than rows", (*conformance).manyRows},
		{"emit in order from one goroutine", (*conformance).ordered},
		{"slow reader", (*conformance).slowReader},
		{"cancel while it runs", (*conformance).cancelRunning},
		{"cancel while it waits", (*conformance).cancelWaiting},
		{"cancel before it starts", (*conformance).cancelBefore},
		{"deadline", (*conformance).deadline},
		{"cause of the cancel", (*conformance).cause},
		{"vectors", (*conformance).embeds},
		{"vectors that cannot be", (*conformance).embedRefuses},
		{"tokens of a text and back", (*conformance).tokenizes},
		{"counters", (*conformance).counters},
		{"close", (*conformance).closes},
		{"launch is cancelled", (*conformance).launchCancelled},
	} {
		t.Run(each.name, func(t *testing.T) {
			mine := c
			mine.t = t
			each.test(&mine)
		})
	}
}

// conformance is the suite in one of its tests.
type conformance struct {
	t        *testing.T
	launcher mlxbridge.Launcher
	spec     mlxbridge.LaunchSpec
	engine   mlxbridge.Engine // which no test ends
}

func (c *conformance) launch(t *testing.T) mlxbridge.Engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	engine, err := c.launcher.Launch(ctx, c.spec)
	if err != nil {
		t.Fatalf("launch: %v (%s)", err, cluster.AsError(err).Hint)
	}
	return engine
}

func (c *conformance) close(t *testing.T, engine mlxbridge.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := engine.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func (c *conformance) ask(ctx context.Context, t *testing.T, req *cluster.Request) Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return Collect(t, func(emit func(cluster.Chunk)) error { return c.engine.Generate(ctx, req, emit) })
}

func (c *conformance) count(n int) *cluster.Request { return Count(c.spec.Model.Name, n) }

func (c *conformance) info() {
	t := c.t
	info := c.engine.Info()
	if info.MaxRows != c.spec.MaxRows || info.Context < 1 || info.Device == "" || len(info.Versions) == 0 {
		t.Errorf("info is not whole: %+v", info)
	}
	select {
	case <-c.engine.Done():
		t.Errorf("it is done: %v", c.engine.Err())
	default:
	}
	if err := c.engine.Err(); err != nil {
		t.Errorf("a living engine has an error: %v", err)
	}
}

func (c *conformance) wholeAnswer() {
	t := c.t
	a := c.ask(t.Context(), t, c.count(300))
	if a.Err != nil || a.Text != Counted(1, 300) {
		t.Fatalf("got %q, %v", a.Text, a.Err)
	}
	if a.Last.Finish != cluster.FinishStop || a.Last.StopSequence != "" {
		t.Errorf("it ended by %q, %q", a.Last.Finish, a.Last.StopSequence)
	}
	if u := a.Last.Usage; u.CompletionTokens != len(a.Tokens) || u.PromptTokens < 1 || u.CachedTokens > u.PromptTokens {
		t.Errorf("usage %+v for %d tokens", u, len(a.Tokens))
	}
}

func (c *conformance) maxTokens() {
	t := c.t
	req, most := c.count(300), 5
	req.MaxTokens = &most
	a := c.ask(t.Context(), t, req)
	if a.Err != nil || a.Last.Finish != cluster.FinishLength {
		t.Fatalf("ended by %q, %v", a.Last.Finish, a.Err)
	}
	if len(a.Tokens) != most || a.Last.Usage.CompletionTokens != most || !strings.HasPrefix(Counted(1, 300), a.Text) {
		t.Errorf("%d tokens, usage %+v, text %q", len(a.Tokens), a.Last.Usage, a.Text)
	}
}

func (c *conformance) stopSequence() {
	t := c.t
	req := c.count(300)
	req.Stop = []string{"nothing of that kind", "9, 2"}
	a := c.ask(t.Context(), t, req)
	if want := strings.TrimSuffix(Counted(1, 19), "9"); a.Err != nil || a.Text != want {
		t.Fatalf("got %q, %v; want %q", a.Text, a.Err, want)
	}
	if a.Last.Finish != cluster.FinishStop || a.Last.StopSequence != "9, 2" {
		t.Errorf("it ended by %q, %q", a.Last.Finish, a.Last.StopSequence)
	}
}

func (c *conformance) continues() {
	t := c.t
	whole := c.ask(t.Context(), t, c.count(30))
	req, most := c.count(30), len(whole.Tokens)/2
	req.MaxTokens = &most
	first := c.ask(t.Context(), t, req)
	req.Continue, req.MaxTokens = first.Tokens, nil
	second := c.ask(t.Context(), t, req)
	if second.Err != nil || first.Text+second.Text != Counted(1, 30) {
		t.Errorf("%q and then %q, %v", first.Text, second.Text, second.Err)
	}
	if got, want := second.Last.Usage.CompletionTokens, len(whole.Tokens); got != want {
		t.Errorf("%d tokens are counted for the whole answer, not %d", got, want)
	}
}

func (c *conformance) tooLong() {
	t := c.t
	text := strings.Repeat("fox ", c.engine.Info().Context+1)
	a := c.ask(t.Context(), t, &cluster.Request{Model: c.spec.Model.Name, Prompt: &text})
	if got := cluster.CodeOf(a.Err); got != cluster.CodeContext || len(a.Tokens) > 0 {
		t.Errorf("got %q: %v", got, a.Err)
	}
}

func (c *conformance) invalid() {
	t := c.t
	a := c.ask(t.Context(), t, &cluster.Request{Model: c.spec.Model.Name})
	if got := cluster.CodeOf(a.Err); got != cluster.CodeInvalid || a.Chunks > 0 {
		t.Errorf("got %q: %v", got, a.Err)
	}
}

func (c *conformance) manyRows() {
	t := c.t
	var asking sync.WaitGroup
	defer asking.Wait()
	for i := range 3 * c.spec.MaxRows {
		asking.Go(func() {
			n := 40 + i
			if a := c.ask(t.Context(), t, c.count(n)); a.Err != nil || a.Text != Counted(1, n) {
				t.Errorf("counting to %d: %q, %v", n, a.Text, a.Err)
			}
		})
	}
}

// ordered is of worth with the race detector: emit writes what the caller reads after Generate.
func (c *conformance) ordered() {
	t := c.t
	inside, text := 0, ""
	err := c.engine.Generate(t.Context(), c.count(50), func(chunk cluster.Chunk) {
		inside++
		text += chunk.Text
		if inside != 1 {
			t.Error("emit is called while it runs")
		}
		inside--
	})
	if err != nil || text != Counted(1, 50) {
		t.Errorf("%q, %v", text, err)
	}
}

func (c *conformance) slowReader() {
	t := c.t
	release, held := make(chan struct{}), make(chan struct{})
	var asking sync.WaitGroup
	for range c.spec.MaxRows { // all slots belong to readers who do not read
		reached := sync.OnceFunc(func() { held <- struct{}{} })
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			a := Collect(t, func(emit func(cluster.Chunk)) error {
				return c.engine.Generate(ctx, c.count(40), func(chunk cluster.Chunk) {
					if len(chunk.Tokens) > 0 {
						reached()
						<-release
					}
					emit(chunk)
				})
			})
			if a.Err != nil || a.Text != Counted(1, 40) {
				t.Errorf("slow reader got %q, %v", a.Text, a.Err)
			}
		})
	}
	for range c.spec.MaxRows {
		<-held
	}
	if a := c.ask(t.Context(), t, c.count(60)); a.Err != nil || a.Text != Counted(1, 60) {
		t.Errorf("beside slow readers: %q, %v", a.Text, a.Err)
	}
	close(release)
	asking.Wait()
}

// settled returns the counters of an engine that has nothing to do.
func (c *conformance) settled(t *testing.T) cluster.Counters {
	t.Helper()
	c.until(t, "the engine is idle", func(s mlxbridge.Stats) bool { return s.Running == 0 && s.Waiting == 0 })
	// Its account is up to a second old: an answer more makes a new one certain.
	finished := c.engine.Stats().Counters.Finished
	if a := c.ask(t.Context(), t, c.count(probe)); a.Err != nil {
		t.Fatal(a.Err)
	}
	c.until(t, "an answer is counted", func(s mlxbridge.Stats) bool {
		return s.Counters.Finished > finished && s.Running == 0
	})
	return c.engine.Stats().Counters
}

func (c *conformance) until(t *testing.T, what string, reached func(mlxbridge.Stats) bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !reached(c.engine.Stats()) {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("waited in vain until %s: %+v", what, c.engine.Stats())
		}
	}
}

func (c *conformance) counters() {
	t := c.t
	before := c.settled(t)
	a := c.ask(t.Context(), t, c.count(20))
	after := c.settled(t)
	one := c.ask(t.Context(), t, c.count(probe)) // what settled asks
	if got := after.Finished - before.Finished; got != 2 {
		t.Errorf("%d answers are counted, not 2", got)
	}
	if got, want := after.GeneratedTokens-before.GeneratedTokens, int64(len(a.Tokens)+len(one.Tokens)); got < want || got > want+2 {
		t.Errorf("%d tokens are counted, not %d", got, want)
	}
	prompts := after.PromptTokens + after.CachedTokens - before.PromptTokens - before.CachedTokens
	if want := int64(a.Last.Usage.PromptTokens + one.Last.Usage.PromptTokens); prompts != want {
		t.Errorf("%d tokens of prompts are counted as computed or cached, not %d", prompts, want)
	}
	if after.Failed != before.Failed {
		t.Error("a request is counted as failed")
	}
}

func (c *conformance) closes() {
	t := c.t
	engine := c.launch(t)
	begun := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		tell := sync.OnceFunc(func() { close(begun) })
		a := Collect(t, func(emit func(cluster.Chunk)) error {
			return engine.Generate(t.Context(), c.count(300), func(chunk cluster.Chunk) { emit(chunk); tell() })
		})
		if got := cluster.CodeOf(a.Err); got != cluster.CodeNodeLost {
			t.Errorf("the request of a closed engine ends with %q: %v", got, a.Err)
		}
	})
	<-begun
	c.close(t, engine)
	asking.Wait()
	select {
	case <-engine.Done():
	default:
		t.Error("it is closed, but not done")
	}
	if err := engine.Err(); err != nil {
		t.Errorf("it was closed, and says %v", err)
	}
	err := engine.Generate(t.Context(), c.count(3), func(cluster.Chunk) { t.Error("a closed engine answers") })
	if got := cluster.CodeOf(err); got != cluster.CodeNodeLost {
		t.Errorf("a closed engine refuses with %q: %v", got, err)
	}
	if _, err := engine.Tokenize(t.Context(), c.count(3)); cluster.CodeOf(err) != cluster.CodeNodeLost {
		t.Errorf("a closed engine counts tokens: %v", err)
	}
	c.close(t, engine) // again is no harm
}

func (c *conformance) launchCancelled() {
	t := c.t
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	engine, err := c.launcher.Launch(ctx, c.spec)
	if got := cluster.CodeOf(err); got != cluster.CodeCancelled || engine != nil {
		t.Errorf("got %v, %q: %v", engine, got, err)
	}
}
