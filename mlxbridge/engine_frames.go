package mlxbridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// readFrames hands what the worker says to whom it concerns. It waits for nobody.
func (e *workerEngine) readFrames() {
	frames := newFrameReader(e.process.answers)
	for {
		f, err := frames.next()
		if err == nil {
			e.breakSilence()
			e.dispatch(f)
			continue
		}
		// At its end a worker closes its pipe a moment before it has ended.
		if !waitFor(context.Background(), e.process.exited, drainWait) {
			if errors.Is(err, io.EOF) {
				err = errors.New("it closed its pipe")
			}
			e.kill(fmt.Sprintf("broke the protocol: %v", err))
		}
		return
	}
}

func (e *workerEngine) dispatch(f *workerFrame) {
	switch f.Type {
	case "step", "done", "error", "accepted", "progress":
		e.advance()
	}
	switch f.Type {
	case "step":
		e.addStep(f.Rows)
	case "done", "error":
		if !e.endCall(f) {
			e.endStream(f)
		}
	case "embedding", "tokens", "text":
		e.endCall(f)
	case "accepted":
		e.report(f.ID, cluster.Progress{Phase: cluster.PhasePrefill, Done: f.CachedTokens, Total: f.PromptTokens})
	case "progress":
		e.report(f.ID, cluster.Progress{Phase: cluster.PhasePrefill, Done: f.Done, Total: f.Total})
	case "stats":
		stats := f.stats(time.Now())
		if before := e.stats.Swap(&stats); workDone(before.Counters) != workDone(stats.Counters) {
			e.advance()
		}
	case "obeyed":
		e.obeyed(f.N)
	case "ready", "loaded", "load_error":
		select {
		case e.handshake <- f:
		default: // it repeats itself; nobody waits any more
		}
	case "fatal":
		e.mu.Lock()
		e.fatal = f.Message
		e.mu.Unlock()
	case "log":
		e.slog.Log(context.Background(), level(f.Level), "worker says", "model", e.name, "text", f.Message)
	}
}

// workDone is what changes when a worker gets something done: a step that gives nobody a token is none.
func workDone(c cluster.Counters) cluster.Counters {
	c.Steps = 0
	return c
}

func level(name string) slog.Level {
	var l slog.Level
	if l.UnmarshalText([]byte(name)) != nil {
		return slog.LevelInfo
	}
	return l
}

func (e *workerEngine) addStep(rows []stepRow) {
	for i := range rows {
		s := e.stream(rows[i].ID)
		if s == nil || s.add(&rows[i]) {
			continue
		}
		s.fail(cluster.Errorf(cluster.CodeTimeout, "%d MiB of the answer wait and nobody reads them", maxPendingBytes>>20))
		e.send(idFrame{Type: "cancel", ID: rows[i].ID})
	}
}

func (e *workerEngine) report(id string, p cluster.Progress) {
	if s := e.stream(id); s != nil {
		s.setProgress(p)
	}
}

func (e *workerEngine) stream(id string) *stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.streams[id]
}

// endStream takes the one frame that ends a request.
func (e *workerEngine) endStream(f *workerFrame) {
	e.mu.Lock()
	s := e.streams[f.ID]
	delete(e.streams, f.ID)
	e.mu.Unlock()
	switch {
	case s == nil:
		if f.Type == "error" {
			e.slog.Warn("worker complains", "model", e.name, "err", f.Message)
		}
	case f.Type == "error":
		err := cluster.Errorf(knownCode(f.Code), "%s", f.Message)
		err.Field = f.Field
		if err.Code == cluster.CodeContext {
			err.Hint = "shorten the prompt, or ask a model with a longer context: `mlxctl models` lists them"
		}
		s.fail(err)
	case f.Reason == "stop" || f.Reason == "length" || f.Reason == "tool_calls":
		s.complete(cluster.FinishReason(f.Reason), f.Stop, f.usage())
	case f.Reason == "cancelled":
		s.fail(cluster.Errorf(cluster.CodeCancelled, "the request was cancelled"))
	default:
		s.fail(cluster.Errorf(cluster.CodeInternal, "worker of %s ended an answer for an unknown reason %q", e.name, f.Reason))
	}
}

func (e *workerEngine) hear() { e.heard.Store(int64(time.Since(e.born))) }

func (e *workerEngine) advance() { e.advanced.Store(int64(time.Since(e.born))) }

// silence is how long no frame came.
func (e *workerEngine) silence() time.Duration {
	return time.Since(e.born) - time.Duration(e.heard.Load())
}

// breakSilence takes in that a frame came, and after how long.
func (e *workerEngine) breakSilence() {
	e.mu.Lock()
	busy := e.busy()
	e.mu.Unlock()
	if silence := int64(e.silence()); busy && silence > e.slowest.Load() {
		e.slowest.Store(silence) // nobody else writes it
	}
	e.hear()
}

// patience is how long a worker with work may be silent. While an answer is under way steps are short, and its reader
// should not wait as long as for the first token of a long prompt; unless this machine has shown to be that slow.
func (e *workerEngine) patience() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.streams {
		if s.isUnderWay() {
			return min(e.stall, max(e.stall/3, 3*time.Duration(e.slowest.Load())))
		}
	}
	return e.stall
}

// startWatchdog begins to watch that the worker's step loop runs: frames come from nowhere else.
func (e *workerEngine) startWatchdog() {
	e.hear()
	e.busyLoops.Go(func() {
		every := min(time.Second, e.stall/20)
		tick := time.NewTicker(every)
		defer tick.Stop()
		last := time.Now()
		var pings int64
		for {
			select {
			case <-e.process.exited:
				return
			case <-tick.C:
			}
			late := time.Since(last) - every
			last = time.Now()
			if late > 2*every+100*time.Millisecond {
				// We slept, or starved, ourselves: what it said meanwhile has not been read yet.
				e.hear()
				e.advance()
				continue
			}
			pings = e.watch(pings)
		}
	})
}

// watch kills a worker that has been silent for too long, or talks and gets nothing done, and asks an idle one now and then whether it is there.
func (e *workerEngine) watch(pings int64) int64 {
	e.mu.Lock()
	busy := e.busy()
	e.mu.Unlock()
	silence, idleMost := e.silence(), e.stall/3
	idling := time.Since(e.born) - time.Duration(e.advanced.Load())
	switch {
	case busy && silence > e.patience():
		e.kill(fmt.Sprintf("was stuck: it had work and said nothing for %s", silence.Round(10*time.Millisecond)))
	case busy && e.Stats().Running > 0 && idling > e.stall:
		e.kill(fmt.Sprintf("was stuck: it had work and did none for %s", idling.Round(10*time.Millisecond)))
	case !busy && silence > idleMost+idleMost/5:
		e.kill(fmt.Sprintf("was stuck: it did not answer for %s", silence.Round(10*time.Millisecond)))
	case !busy && silence > idleMost/5:
		pings++
		e.send(pingFrame{Type: "ping", N: pings})
	}
	return pings
}
