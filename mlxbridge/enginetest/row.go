package enginetest

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// row is one answer in the making. What is produced waits for a reader who may be slow, and holds no slot meanwhile.
type row struct {
	engine *Engine
	answer []string // the text of every token, also of those of an earlier attempt
	first  int      // of answer that is produced here
	finish cluster.FinishReason
	stop   string        // the sequence that ends it
	calls  bool          // answer is the arguments of a call
	id     string        // of the call
	wake   chan struct{} // holds one: something is there to be taken

	mu       sync.Mutex
	progress bool // to be told
	next     int  // of answer that the reader gets
	made     int  // of answer, how many there are
	ended    bool
	usage    cluster.Usage
	err      error
}

// plan cuts the answer where max_tokens or a stop sequence ends it.
func (r *row) plan(answer []string, most int, stops []string) {
	r.answer, r.finish = answer, cluster.FinishStop
	if len(answer) > most {
		r.answer, r.finish = answer[:most], cluster.FinishLength
	}
	text := strings.Join(r.answer, "")
	from, to := len(text), len(text)+1 // of the stop sequence that is complete first
	for _, stop := range stops {
		if i := strings.Index(text, stop); i >= 0 && i+len(stop) < to {
			from, to, r.stop = i, i+len(stop), stop
		}
	}
	if r.stop == "" {
		return
	}
	r.finish = cluster.FinishStop
	var cut []string
	for at := 0; at < to; {
		token := r.answer[len(cut)]
		cut = append(cut, token[:min(len(token), max(0, from-at))])
		at += len(token)
	}
	r.answer = cut
}

// produce makes the answer: waits for a slot, then gives one token after the other.
func (r *row) produce(ctx context.Context) {
	e := r.engine
	queued := time.Now()
	if err := r.takeSlot(ctx); err != nil {
		r.fail(err)
		return
	}
	r.usage.Queue = time.Since(queued)
	defer e.slots.leave()
	e.account(func(s *mlxbridge.Stats) { s.Running++; s.Counters.PromptTokens += int64(r.usage.PromptTokens) })
	err := r.decode(ctx)
	e.account(func(s *mlxbridge.Stats) {
		s.Running--
		switch {
		case err == nil:
			s.Counters.Finished++
		case ctx.Err() != nil:
			s.Counters.Cancelled++
		default:
			s.Counters.Failed++
		}
	})
	if err != nil {
		r.fail(err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.signal()
}

func (r *row) takeSlot(ctx context.Context) error {
	e := r.engine
	e.account(func(s *mlxbridge.Stats) { s.Waiting++ })
	defer e.account(func(s *mlxbridge.Stats) { s.Waiting-- })
	free := e.slots.enter()
	select {
	case <-free:
		return nil
	case <-ctx.Done():
		e.slots.giveUp(free)
		e.account(func(s *mlxbridge.Stats) { s.Counters.Cancelled++ })
		return contextError(ctx)
	case <-e.done:
		e.slots.giveUp(free)
		return e.endedBy()
	}
}

func (r *row) decode(ctx context.Context) error {
	e := r.engine
	started := time.Now()
	r.mu.Lock()
	r.progress = true
	r.signal()
	r.mu.Unlock()
	if err := r.waitUntil(ctx, started.Add(e.script.Prefill)); err != nil {
		return err
	}
	r.usage.Prefill = time.Since(started)
	begun := time.Now()
	for k := r.first + 1; k <= len(r.answer); k++ {
		switch k {
		case e.script.CrashAt:
			e.crash()
			return e.endedBy()
		case e.script.HangAt:
			e.hang()
		}
		if k == len(r.answer) && e.script.Hold != nil {
			if err := r.held(ctx); err != nil {
				return err
			}
		}
		if err := r.waitUntil(ctx, begun.Add(e.after(k-r.first))); err != nil {
			return err
		}
		e.account(func(s *mlxbridge.Stats) { s.Counters.Steps++; s.Counters.GeneratedTokens++ })
		r.give()
	}
	r.usage.Decode = time.Since(begun)
	return nil
}

// held waits for the script to let answers end.
func (r *row) held(ctx context.Context) error {
	select {
	case <-r.engine.script.Hold:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	case <-r.engine.done:
		return r.engine.endedBy()
	}
}

// after is when the n-th token of a row is due.
func (e *Engine) after(n int) time.Duration {
	if e.script.TokensPerSecond <= 0 {
		return 0
	}
	return time.Duration(float64(n) / e.script.TokensPerSecond * float64(time.Second))
}

// waitUntil returns when the row may go on: at due, unless the engine hangs; early, with an error, when request or
// engine has ended.
func (r *row) waitUntil(ctx context.Context, due time.Time) error {
	e := r.engine
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	if err := e.endedBy(); err != nil {
		return err
	}
	left := time.Until(due)
	if left <= 0 && !e.hangs() {
		return nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	for hung := e.hung; ; hung = nil {
		select {
		case <-timer.C:
			if !e.hangs() {
				return nil
			}
		case <-hung:
			timer.Stop() // for ever
		case <-ctx.Done():
			return contextError(ctx)
		case <-e.done:
			return e.endedBy()
		}
	}
}

func (r *row) give() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made++
	r.usage.CompletionTokens++
	r.signal()
}

func (r *row) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended, r.err = true, err
	r.signal()
}

// signal is called with mu held.
func (r *row) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns what the reader gets next: of an instant answer one token, else all that is there.
func (r *row) take() (chunk cluster.Chunk, some, ended bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.progress && r.made == r.first && !r.ended {
		r.progress = false
		chunk.Progress = &cluster.Progress{Phase: cluster.PhasePrefill, Total: r.usage.PromptTokens}
		return chunk, true, false, nil
	}
	end := r.made
	if r.engine.script.TokensPerSecond <= 0 {
		end = min(end, r.next+1)
	}
	some = r.next < end
	var calls cluster.ToolCalls
	for ; r.next < end; r.next++ {
		chunk.Tokens = append(chunk.Tokens, r.next)
		r.say(&chunk, &calls)
	}
	chunk.ToolCalls = calls.Joined()
	ended = r.ended && r.next == r.made
	if !ended {
		return chunk, some, false, nil
	}
	if r.err == nil {
		usage := r.usage
		chunk.Finish, chunk.StopSequence, chunk.Usage = r.finish, r.stop, &usage
		some = true
	}
	return chunk, some, true, r.err
}

// say adds the next token's text to a chunk, or to its calls.
func (r *row) say(chunk *cluster.Chunk, calls *cluster.ToolCalls) {
	if !r.calls {
		chunk.Text += r.answer[r.next]
		return
	}
	d := cluster.ToolCallDelta{Arguments: r.answer[r.next]}
	if r.next == 0 {
		d.ID, d.Name = r.id, "get_weather"
	}
	calls.Add(d)
}
