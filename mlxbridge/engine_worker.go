package mlxbridge

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// cancelWait is how long Generate waits for the worker's word that a row is gone. A worker inside a long step says it
	// later; the row is gone after that step all the same.
	cancelWait = 2 * time.Second
	// drainWait is for what is left in the pipes of a process that has ended; another process could hold them open.
	drainWait = 250 * time.Millisecond
	closeWait = 2 * time.Second
)

// workerEngine is one worker process as an Engine. Its goroutines: the frame reader, the outbox, the copier of the log,
// the watchdog, and end, which outlasts the others and closes done.
type workerEngine struct {
	name      string
	process   *process
	log       *logFile
	out       *outbox
	slog      *slog.Logger
	stall     time.Duration
	info      Info              // set before Launch returns
	handshake chan *workerFrame // ready and then loaded or load_error; holds both
	done      chan struct{}
	busyLoops sync.WaitGroup // all goroutines but end

	heard    atomic.Int64 // when the last frame came, since born
	slowest  atomic.Int64 // the longest silence of a worker with work that came to its end
	advanced atomic.Int64 // when the last one came that tells of work, since born
	born     time.Time
	stats    atomic.Pointer[Stats]

	mu      sync.Mutex
	streams map[string]*stream      // rows that live in the worker
	calls   map[string]*call        // what else it is asked
	orders  map[int64]chan struct{} // by number, those that the worker has not obeyed yet
	ordered int64
	next    int64
	closing bool
	reason  string // why it was killed
	fatal   string // the worker's last words
	err     error
}

func newWorkerEngine(name string, p *process, log *logFile, stall time.Duration, l *slog.Logger) *workerEngine {
	e := &workerEngine{
		name: name, process: p, log: log, out: newOutbox(), slog: l, stall: stall,
		handshake: make(chan *workerFrame, 2), done: make(chan struct{}), born: time.Now(),
		streams: map[string]*stream{}, calls: map[string]*call{}, orders: map[int64]chan struct{}{},
	}
	e.stats.Store(&Stats{})
	read, logged := make(chan struct{}), make(chan struct{})
	e.busyLoops.Go(func() { e.out.run(p.frames, p.exited) })
	e.busyLoops.Go(func() { defer close(read); e.readFrames() })
	e.busyLoops.Go(func() { defer close(logged); _, _ = io.Copy(log, p.logs) })
	go e.end(read, logged)
	return e
}

// Info describes the model as the worker loaded it.
func (e *workerEngine) Info() Info { return e.info }

// Stats returns the newest account of the worker.
func (e *workerEngine) Stats() Stats { return *e.stats.Load() }

// Done is closed when the worker has ended.
func (e *workerEngine) Done() <-chan struct{} { return e.done }

// Err says why the worker ended.
func (e *workerEngine) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Generate answers req; see Engine.
func (e *workerEngine) Generate(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk)) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	s, id, err := e.begin(req)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { e.send(idFrame{Type: "cancel", ID: id}) })
	defer stop()
	gone := ctx.Done()
	var giveUp <-chan time.Time
	for {
		select {
		case <-s.wake:
		case <-gone:
			timer := time.NewTimer(cancelWait)
			defer timer.Stop() // once: gone is nil from here on
			gone, giveUp = nil, timer.C
		case <-giveUp:
			s.fail(contextError(ctx))
			return contextError(ctx)
		}
		chunk, some, ended, err := s.take()
		if ctx.Err() != nil {
			if ended {
				return contextError(ctx)
			}
			continue
		}
		if some {
			emit(chunk)
		}
		if ended {
			return err
		}
	}
}

// begin registers a stream and sends its request.
func (e *workerEngine) begin(req *cluster.Request) (*stream, string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, frame, err := e.prepare("r", func(id string) any { return newGenFrame(id, req) })
	if err != nil {
		return nil, "", err
	}
	s := newStream()
	e.streams[id] = s
	e.out.put(frame)
	return s, id, nil
}

// prepare names what the worker is to be asked, and encodes it. Called with mu held.
func (e *workerEngine) prepare(kind string, frame func(id string) any) (id string, data []byte, err error) {
	if e.closing {
		return "", nil, e.unloaded()
	}
	if e.err != nil {
		return "", nil, e.err
	}
	e.next++
	id = kind + strconv.FormatInt(e.next, 10)
	data, err = encodeFrame(frame(id))
	if errors.Is(err, errFrameTooLong) {
		return "", nil, cluster.Errorf(cluster.CodeTooLarge, "request is longer than %d bytes", maxFrameBytes)
	}
	if err != nil {
		return "", nil, cluster.Errorf(cluster.CodeInvalid, "request cannot be written as JSON: %v", err)
	}
	if !e.busy() { // it was idle: its time to answer begins now
		e.hear()
		e.advance()
	}
	return id, data, nil
}

func (e *workerEngine) unloaded() *cluster.Error {
	return cluster.Errorf(cluster.CodeNodeLost, "model %s was unloaded here", e.name)
}

// Set changes what the worker may use; see Engine.
func (e *workerEngine) Set(s Settings) <-chan struct{} {
	done := make(chan struct{})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ordered++
	e.orders[e.ordered] = done
	e.send(setFrame{
		Type: "set", N: e.ordered, MemoryBytes: s.MemoryBytes, PrefixBytes: s.PrefixBytes, MaxRows: s.MaxRows,
		Pressure: s.Pressure,
	})
	return done
}

// obeyed takes the worker's word that it has carried out an order.
func (e *workerEngine) obeyed(n int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if done := e.orders[n]; done != nil {
		close(done)
		delete(e.orders, n)
	}
}

// Close ends the worker: it is asked, then told, then killed.
func (e *workerEngine) Close(ctx context.Context) error {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	e.send(bareFrame{Type: "shutdown"})
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if waitFor(ctx, e.done, closeWait) {
			return nil
		}
		e.process.signal(s)
	}
	if waitFor(context.WithoutCancel(ctx), e.done, closeWait) {
		return nil
	}
	return cluster.Errorf(cluster.CodeInternal, "worker of %s (pid %d) does not end", e.name, e.info.PID)
}

// waitFor says whether done was closed in time.
func waitFor(ctx context.Context, done <-chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	case <-timer.C:
		return false
	}
}

// kill ends the worker at once. The first reason given is the one that is reported.
func (e *workerEngine) kill(reason string) {
	e.mu.Lock()
	if e.reason == "" {
		e.reason = reason
	}
	e.mu.Unlock()
	e.process.signal(syscall.SIGKILL)
}

func (e *workerEngine) send(frame any) {
	data, err := encodeFrame(frame)
	if err != nil {
		e.slog.Error("frame cannot be encoded", "model", e.name, "err", err)
		return
	}
	e.out.put(data)
}

// end waits for the process to be gone, tells everybody who still waits, and lets go of everything.
func (e *workerEngine) end(read, logged <-chan struct{}) {
	<-e.process.exited
	waitFor(context.Background(), read, drainWait)
	waitFor(context.Background(), logged, drainWait)
	e.process.closePipes()
	e.busyLoops.Wait()
	e.mu.Lock()
	e.err = e.cause()
	each := e.err
	if e.closing {
		each = e.unloaded()
	}
	for id, s := range e.streams {
		s.fail(each)
		delete(e.streams, id)
	}
	e.failCalls(each)
	if e.err != nil {
		e.slog.Warn("worker died", "model", e.name, "pid", e.process.cmd.Process.Pid, "err", e.err)
	}
	e.mu.Unlock()
	e.log.close()
	close(e.done)
}

// wasKilled says whether the process has ended because somebody else killed it.
func (e *workerEngine) wasKilled() bool {
	select {
	case <-e.done:
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.reason == "" && e.process.wasKilled()
	default:
		return false
	}
}

// cause says why the process ended; nil when it was to end.
func (e *workerEngine) cause() error {
	if e.closing {
		return nil
	}
	how := e.process.ending()
	switch {
	case e.reason != "":
		how = e.reason
	case e.fatal != "":
		how += ": " + e.fatal
	}
	err := cluster.Errorf(cluster.CodeWorkerCrashed, "worker of %s %s", e.name, how).WithHint("%s", e.log.hint())
	if e.reason == "" && e.process.exhausted() {
		return &OutOfMemoryError{Cause: err}
	}
	return err
}

// contextError says why ctx ended: its cause where that has a code, else cancelled or timed out.
func contextError(ctx context.Context) error {
	if e, ok := errors.AsType[*cluster.Error](context.Cause(ctx)); ok {
		return e
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return cluster.Errorf(cluster.CodeTimeout, "the time for the request is over")
	}
	return cluster.Errorf(cluster.CodeCancelled, "the request was cancelled")
}

// knownCode keeps what the worker says within the codes that others understand.
func knownCode(code cluster.Code) cluster.Code {
	switch code {
	case cluster.CodeInvalid, cluster.CodeTooLarge, cluster.CodeContext, cluster.CodeBadModel, cluster.CodeNoFit,
		cluster.CodeBusy, cluster.CodeUnsupported:
		return code
	default:
		return cluster.CodeInternal
	}
}
