package gateway

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// stream sends an answer while it is made.
type stream struct {
	v *visit
	a answer
	// leave ends the dispatch: the client is gone.
	leave context.CancelCauseFunc

	mu sync.Mutex
	// All below is guarded by mu. Writes to the client happen under it: there are two who write, and none can go on
	// before the other anyway.
	alive    *time.Timer // looks for silence
	buf      []byte
	begun    bool // the status is sent
	done     bool // nothing may be written any more
	left     int  // choices that have not ended
	finished bool // the last chunk of the last choice came
	broken   error
	wrote    time.Time // last
	extended time.Time // when the write deadline was moved last
}

// stream answers with events.
func (v *visit) stream(a answer) {
	ctx, leave := context.WithCancelCause(v.r.Context())
	defer leave(nil)
	s := &stream{v: v, a: a, leave: leave}
	s.mu.Lock()
	s.alive = time.AfterFunc(v.g.o.Times.Hold, s.onSilence)
	s.mu.Unlock()
	s.left = a.Choices()
	err := v.dispatch(ctx, a, s.emit)
	if !s.close(err) {
		v.fail(err)
	}
}

// emit sends one chunk. Chunks without text send something only where the client would else see nothing for long.
func (s *stream) emit(choice int, c *cluster.Chunk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil || s.finished {
		return s.broken
	}
	if c.Progress != nil {
		const often = time.Second
		if s.begun && time.Since(s.wrote) >= often {
			return s.write(s.a.AppendAlive(s.buf[:0]))
		}
		return nil
	}
	if c.Finish != "" {
		s.left--
		s.finished = s.left == 0
	}
	return s.write(s.a.AppendChunk(s.buf[:0], choice, c))
}

// onSilence runs when the status was held back long enough, and then again and again.
func (s *stream) onSilence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done || s.finished || s.broken != nil {
		return
	}
	every := s.v.g.o.Times.KeepAlive
	quiet := time.Since(s.wrote)
	if s.begun && quiet < every {
		s.alive.Reset(every - quiet)
		return
	}
	if s.write(s.a.AppendAlive(s.buf[:0])) == nil {
		s.alive.Reset(every)
	}
}

// write sends events, after the status where they are the first. An error means that the client is gone or takes
// nothing, and ends the dispatch.
func (s *stream) write(events []byte) error {
	s.buf = events
	if len(events) == 0 {
		return nil
	}
	s.wrote = time.Now()
	if limit := s.v.g.o.Times.Write; s.wrote.Sub(s.extended) > limit/8 {
		s.extended = s.wrote
		_ = s.v.control.SetWriteDeadline(s.wrote.Add(limit))
	}
	if !s.begun {
		s.begin()
	}
	_, err := s.v.w.Write(events)
	if err == nil {
		err = s.v.control.Flush()
	}
	if err != nil {
		s.broken = fmt.Errorf("write to the client: %w", err)
		s.leave(&cluster.Error{Code: cluster.CodeCancelled, Message: "the client went away: " + err.Error()})
	}
	return s.broken
}

func (s *stream) begin() {
	s.begun = true
	h := s.v.w.Header()
	h.Set("Content-Type", s.a.ContentType())
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // proxies hand events on at once
	s.v.status = http.StatusOK
	s.v.w.WriteHeader(http.StatusOK)
}

// close ends the stream with what Dispatch said, and says whether anything of it was sent. If not, the error can still
// have its status.
func (s *stream) close(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.alive.Stop() // where it is too late for that, onSilence waits for mu and then does nothing
	if !s.begun || s.finished || s.broken != nil {
		return s.begun
	}
	_ = s.write(s.a.AppendFailure(s.buf[:0], s.v.blame(err)))
	return true
}
