package share_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/share"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends what hangs; it says nothing about how long anything may take.
const patience = time.Minute

// gen is a generation that a test drives.
type gen struct {
	emit  func(cluster.Chunk)
	given <-chan struct{} // closed when nobody wants it any more
	over  chan error
	began chan struct{}
}

func newGen() *gen { return &gen{over: make(chan error, 1), began: make(chan struct{})} }

func (g *gen) run(ctx context.Context, emit func(cluster.Chunk)) error {
	g.given, g.emit = ctx.Done(), emit
	close(g.began)
	select {
	case err := <-g.over:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func never(context.Context, func(cluster.Chunk)) error { return errors.New("it was generated twice") }

// reader follows an answer.
type reader struct {
	text chan string
	done chan error
}

func follow(ctx context.Context, a *share.Answer) *reader {
	r := &reader{text: make(chan string, 1000), done: make(chan error, 1)}
	go func() {
		r.done <- a.Follow(ctx, func(c cluster.Chunk) error {
			r.text <- c.Text
			return nil
		})
	}()
	return r
}

func (r *reader) next(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-r.text:
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("%q does not come", want)
	}
}

func (r *reader) ends(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		t.Fatal("the answer does not end")
		return nil
	}
}

func TestOneGenerationForAllInFlight(t *testing.T) {
	t.Parallel()
	a := share.New(share.Options{InFlight: true})
	defer a.Close()
	g := newGen()
	k := key(t, greedy())
	one, isShared := a.Join(k, g.run)
	if isShared {
		t.Fatal("the first is shared")
	}
	first := follow(t.Context(), one)
	<-g.began
	g.emit(cluster.Chunk{Text: "1"})
	first.next(t, "1")
	two, isShared := a.Join(k, never)
	if !isShared {
		t.Fatal("the second is not shared")
	}
	second := follow(t.Context(), two)
	second.next(t, "1")
	g.emit(cluster.Chunk{Text: "2"})
	g.over <- nil
	for _, r := range []*reader{first, second} {
		r.next(t, "2")
		if err := r.ends(t); err != nil {
			t.Error(err)
		}
	}
	third := newGen()
	third.over <- nil
	again, isShared := a.Join(k, third.run)
	if isShared {
		t.Error("a finished answer was given again, and none may be kept")
	}
	if err := again.Follow(t.Context(), func(cluster.Chunk) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestTheFirstReaderMayLeave(t *testing.T) {
	t.Parallel()
	a := share.New(share.Options{InFlight: true})
	defer a.Close()
	g := newGen()
	k := key(t, greedy())
	one, _ := a.Join(k, g.run)
	ctx, cancel := context.WithCancel(t.Context())
	first := follow(ctx, one)
	two, _ := a.Join(k, never)
	second := follow(t.Context(), two)
	<-g.began
	cancel()
	if err := first.ends(t); !errors.Is(err, context.Canceled) {
		t.Errorf("the first ends with %v", err)
	}
	g.emit(cluster.Chunk{Text: "still here"})
	second.next(t, "still here")
	g.over <- nil
	if err := second.ends(t); err != nil {
		t.Error(err)
	}
}

func TestTheLastReaderEndsTheGeneration(t *testing.T) {
	t.Parallel()
	a := share.New(share.Options{InFlight: true, TTL: time.Hour})
	defer a.Close()
	g := newGen()
	k := key(t, greedy())
	one, _ := a.Join(k, g.run)
	ctx, cancel := context.WithCancel(t.Context())
	first := follow(ctx, one)
	<-g.began
	cancel()
	_ = first.ends(t)
	select {
	case <-g.given:
	case <-time.After(patience):
		t.Fatal("nobody reads, and it is still generated")
	}
	other := newGen()
	other.over <- nil
	next, isShared := a.Join(k, other.run)
	if isShared {
		t.Error("a request joined a generation that was given up")
	}
	if err := next.Follow(t.Context(), func(cluster.Chunk) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestErrorsReachEveryReaderAndAreNotKept(t *testing.T) {
	t.Parallel()
	a := share.New(share.Options{InFlight: true, TTL: time.Hour})
	defer a.Close()
	g := newGen()
	k := key(t, greedy())
	one, _ := a.Join(k, g.run)
	two, _ := a.Join(k, never)
	first, second := follow(t.Context(), one), follow(t.Context(), two)
	lost := errors.New("lost")
	g.over <- lost
	for _, r := range []*reader{first, second} {
		if err := r.ends(t); !errors.Is(err, lost) {
			t.Errorf("got %v", err)
		}
	}
	other := newGen()
	other.over <- nil
	next, isShared := a.Join(k, other.run)
	if isShared {
		t.Error("a failure was given again")
	}
	_ = next.Follow(t.Context(), func(cluster.Chunk) error { return nil })
}

// clock is a time that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// tell generates one text, and returns it again as a reader got it.
func tell(t *testing.T, a *share.Answers, k share.Key, text string) (string, bool) {
	t.Helper()
	n, isShared := a.Join(k, func(_ context.Context, emit func(cluster.Chunk)) error {
		emit(cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhasePrefill}})
		emit(cluster.Chunk{Text: text, Finish: cluster.FinishStop})
		return nil
	})
	var got strings.Builder
	if err := n.Follow(t.Context(), func(c cluster.Chunk) error {
		got.WriteString(c.Text)
		return nil
	}); err != nil {
		t.Error(err)
	}
	return got.String(), isShared
}

func TestFinishedAnswersAreKeptForTheirTime(t *testing.T) {
	t.Parallel()
	now := &clock{now: time.Unix(1, 0)}
	a := share.New(share.Options{TTL: time.Minute, Now: now.Now})
	defer a.Close()
	k := key(t, greedy())
	for i, step := range []struct {
		pass   time.Duration
		want   string
		shared bool
	}{{0, "0", false}, {59 * time.Second, "0", true}, {time.Second, "2", false}, {30 * time.Second, "2", true}} {
		now.pass(step.pass)
		got, isShared := tell(t, a, k, fmt.Sprint(i))
		if got != step.want || isShared != step.shared {
			t.Errorf("%d: got %q, shared %v", i, got, isShared)
		}
	}
}

func TestMemoryOfFinishedAnswersIsBounded(t *testing.T) {
	t.Parallel()
	a := share.New(share.Options{TTL: time.Hour, MaxBytes: 80_000})
	defer a.Close()
	keys := make([]share.Key, 12)
	for i := range keys {
		keys[i] = key(t, greedy(func(r *cluster.Request) { r.MaxTokens = new(i + 1) }))
		tell(t, a, keys[i], strings.Repeat("x", 9000))
		tell(t, a, keys[0], "again") // it is used, so it stays
	}
	for i, want := range map[int]bool{0: true, 11: true, 1: false} {
		if _, isShared := tell(t, a, keys[i], "new"); isShared != want {
			t.Errorf("answer %d is kept: %v", i, isShared)
		}
	}
	big := key(t, greedy(func(r *cluster.Request) { r.MaxTokens = new(99) }))
	tell(t, a, big, strings.Repeat("x", 20_000))
	if _, isShared := tell(t, a, big, "y"); isShared {
		t.Error("an answer was kept that takes more than its share")
	}
}

func TestNothingBeginsAfterClose(t *testing.T) {
	t.Parallel()
	a := share.New(share.Options{InFlight: true})
	var closing sync.WaitGroup
	for i := range 50 {
		k := key(t, greedy(func(r *cluster.Request) { r.MaxTokens = new(i + 1) }))
		closing.Go(func() {
			n, _ := a.Join(k, func(ctx context.Context, _ func(cluster.Chunk)) error {
				<-ctx.Done()
				return context.Cause(ctx)
			})
			if err := n.Follow(t.Context(), func(cluster.Chunk) error { return nil }); cluster.CodeOf(err) != cluster.CodeUnreachable {
				t.Errorf("got %v", err)
			}
		})
		closing.Go(a.Close)
	}
	closing.Wait()
}

func TestAllOfAnAnswerCountsAsMemory(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]cluster.Chunk{
		"reasoning": {Reasoning: strings.Repeat("x", 20_000)},
		"calls":     {ToolCalls: []cluster.ToolCallDelta{{Arguments: strings.Repeat("x", 20_000)}}},
	} {
		a := share.New(share.Options{TTL: time.Hour, MaxBytes: 80_000})
		for i := range 2 {
			n, isShared := a.Join(key(t, greedy()), func(_ context.Context, emit func(cluster.Chunk)) error {
				emit(c)
				return nil
			})
			if err := n.Follow(t.Context(), func(cluster.Chunk) error { return nil }); err != nil || isShared {
				t.Errorf("%s, %d: shared %v, %v", name, i, isShared, err)
			}
		}
		a.Close()
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	a := share.New(share.Options{InFlight: true})
	g := newGen()
	one, _ := a.Join(key(t, greedy()), g.run)
	r := follow(t.Context(), one)
	<-g.began
	a.Close()
	if code := cluster.CodeOf(r.ends(t)); code != cluster.CodeUnreachable {
		t.Errorf("code %s", code)
	}
}
