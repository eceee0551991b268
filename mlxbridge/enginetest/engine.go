package enginetest

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// Engine is a fake engine: rows wait for a slot, then give one token after the other at the rate of the script. A word
// of the prompt counts as one token, and the ids of an answer's tokens are 0, 1, 2, …
type Engine struct {
	name   string
	script Script
	spec   mlxbridge.LaunchSpec
	info   mlxbridge.Info
	slots  *slots
	hung   chan struct{} // closed when nobody gets anything any more
	done   chan struct{}
	rows   sync.WaitGroup

	mu     sync.Mutex
	ended  bool
	isHung bool
	err    error // what running requests are told; also Err, unless the engine was closed
	closed bool
	stats  mlxbridge.Stats
	told   mlxbridge.Settings // what it was told last, of each kind
	words  []string           // by their id
	ids    map[string]int     // of words
}

func newEngine(script Script, spec mlxbridge.LaunchSpec) *Engine {
	if script.Reply == nil {
		script.Reply = Skills
	}
	if script.Context == 0 {
		script.Context = defaultContext
	}
	rows := spec.MaxRows
	if rows == 0 {
		rows = defaultRows
	}
	weights := cmp.Or(script.WeightBytes, spec.Model.WeightBytes)
	return &Engine{
		name: spec.Model.Name, script: script,
		info: mlxbridge.Info{
			Device: "cpu", Versions: map[string]string{"fake": "1"}, WeightBytes: weights,
			KVBytesPerToken: spec.Model.KVBytesPerToken, Context: script.Context, Vocabulary: script.Context,
			MaxRows: rows, Load: script.LoadFor,
		},
		told: mlxbridge.Settings{MemoryBytes: spec.MemoryBytes, MaxRows: rows, Pressure: 1}, spec: spec,
		ids: map[string]int{}, slots: newSlots(rows), hung: make(chan struct{}), done: make(chan struct{}),
		stats: mlxbridge.Stats{At: time.Now(), ActiveBytes: weights, Curve: script.Curve},
	}
}

// Info describes the model. There is no process, so its PID is zero.
func (e *Engine) Info() mlxbridge.Info { return e.info }

// Stats returns the account of this moment.
func (e *Engine) Stats() mlxbridge.Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.At = time.Now()
	return s
}

// Set does at once what it is told, unless the script makes the engine deaf: stored prefixes go, rows stay.
func (e *Engine) Set(s mlxbridge.Settings) <-chan struct{} {
	obeyed := make(chan struct{})
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.script.IsDeaf || e.ended {
		return obeyed
	}
	e.told.MemoryBytes = cmp.Or(s.MemoryBytes, e.told.MemoryBytes)
	e.told.PrefixBytes = cmp.Or(s.PrefixBytes, e.told.PrefixBytes)
	e.told.MaxRows = cmp.Or(s.MaxRows, e.told.MaxRows)
	e.told.Pressure = cmp.Or(s.Pressure, e.told.Pressure)
	e.slots.resize(e.told.MaxRows)
	if e.told.MemoryBytes > 0 {
		surplus := max(0, e.stats.ActiveBytes-e.told.MemoryBytes)
		e.drop(surplus)
	}
	if e.told.Pressure >= 4 {
		e.drop(e.stats.PrefixBytes)
	}
	close(obeyed)
	return obeyed
}

// drop forgets stored prefixes. Called with mu held.
func (e *Engine) drop(bytes int64) {
	bytes = min(bytes, e.stats.PrefixBytes)
	e.stats.PrefixBytes -= bytes
	e.stats.ActiveBytes -= bytes
}

// Store has the engine hold that many bytes of prefixes more.
func (e *Engine) Store(bytes int64) {
	e.account(func(s *mlxbridge.Stats) { s.PrefixBytes += bytes; s.ActiveBytes += bytes })
}

// Use has the engine use that many bytes more for what it cannot give back.
func (e *Engine) Use(bytes int64) { e.account(func(s *mlxbridge.Stats) { s.ActiveBytes += bytes }) }

// Told returns what the engine may use: of each kind what it was told last.
func (e *Engine) Told() mlxbridge.Settings {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.told
}

// Spec returns what the engine was launched with.
func (e *Engine) Spec() mlxbridge.LaunchSpec { return e.spec }

// Done is closed when the engine has crashed or was closed.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Err says why the engine ended.
func (e *Engine) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	return e.err
}

// Crash ends the engine as a killed worker would.
func (e *Engine) Crash() {
	e.crash()
	e.rows.Wait()
}

// Exhaust ends the engine as a worker ends that has no memory left.
func (e *Engine) Exhaust() {
	e.end(false, &mlxbridge.OutOfMemoryError{Cause: cluster.Errorf(cluster.CodeWorkerCrashed, "worker of %s ran out of memory", e.name)})
	e.rows.Wait()
}

func (e *Engine) crash() {
	e.end(false, cluster.Errorf(cluster.CodeWorkerCrashed, "worker of %s was killed by signal 9 (killed)", e.name))
}

// Close ends the engine; running requests fail.
func (e *Engine) Close(context.Context) error {
	e.end(true, cluster.Errorf(cluster.CodeNodeLost, "model %s was unloaded here", e.name))
	e.rows.Wait()
	return nil
}

func (e *Engine) end(closed bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	e.ended, e.closed, e.err = true, closed, err
	close(e.done)
}

func (e *Engine) hang() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.isHung {
		e.isHung = true
		close(e.hung)
	}
}

func (e *Engine) hangs() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.isHung
}

// account changes the statistics.
func (e *Engine) account(change func(*mlxbridge.Stats)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.stats)
}

// endedBy is what a request is told whose engine has ended; nil while it lives.
func (e *Engine) endedBy() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		return nil
	}
	return e.err
}

// Generate answers req; see mlxbridge.Engine.
func (e *Engine) Generate(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk)) error {
	r, err := e.newRow(ctx, req)
	if err != nil {
		return err
	}
	if e.isInstant() {
		r.produce(ctx)
	} else if err := e.start(ctx, r); err != nil {
		return err
	}
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return contextError(ctx)
		}
		for {
			if ctx.Err() != nil {
				return contextError(ctx)
			}
			chunk, some, ended, err := r.take()
			if some {
				emit(chunk)
			}
			if ended {
				return err
			}
			if !some {
				break
			}
		}
	}
}

// isInstant is true where a row never waits but for a slot.
func (e *Engine) isInstant() bool {
	return e.script.TokensPerSecond <= 0 && e.script.Prefill <= 0 && e.script.HangAt == 0
}

// start lets a row run beside its reader, who may be slow.
func (e *Engine) start(ctx context.Context, r *row) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return e.err
	}
	e.rows.Go(func() { r.produce(ctx) })
	return nil
}

func (e *Engine) newRow(ctx context.Context, req *cluster.Request) (*row, error) {
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	if err := e.endedBy(); err != nil {
		return nil, err
	}
	prompt := len(strings.Fields(promptOf(req)))
	if req.Prompt == nil && len(req.Messages) == 0 {
		return nil, cluster.Invalid("messages", "is missing")
	}
	room := e.info.Context - prompt
	if room < 1 {
		return nil, cluster.Errorf(cluster.CodeContext,
			"the prompt has %d tokens: the model's context of %d has to hold prompt and answer", prompt, e.info.Context)
	}
	most := room
	if req.MaxTokens != nil {
		most = min(most, *req.MaxTokens)
	}
	r := &row{engine: e, wake: make(chan struct{}, 1)}
	r.usage = cluster.Usage{PromptTokens: prompt, CompletionTokens: len(req.Continue)}
	if call := toolCall(req); call != nil {
		r.calls, r.id = true, "call_"+string(req.ID) // the same in every attempt
		r.plan(call, most, nil)
		if r.finish == cluster.FinishStop {
			r.finish = cluster.FinishToolCalls
		}
	} else {
		r.plan(e.script.Reply(req), most, req.Stop)
	}
	r.first = min(len(req.Continue), len(r.answer))
	r.next, r.made = r.first, r.first
	return r, nil
}

// contextError is what a request is told whose context ended.
func contextError(ctx context.Context) error {
	if e, ok := errors.AsType[*cluster.Error](context.Cause(ctx)); ok {
		return e
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return cluster.Errorf(cluster.CodeTimeout, "the time for the request is over")
	}
	return cluster.Errorf(cluster.CodeCancelled, "the request was cancelled")
}
