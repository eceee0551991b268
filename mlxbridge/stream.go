package mlxbridge

import (
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// maxPendingBytes bounds what is kept for a reader who takes nothing. It is far above a whole answer without log
// probabilities.
const maxPendingBytes = 32 << 20

// stream collects what the worker says about one request until its reader takes it. The frame reader never waits for
// it: what comes while the reader is busy is merged into one chunk.
type stream struct {
	wake chan struct{} // holds one: something is there to be taken

	mu       sync.Mutex
	text     []byte
	tokens   []int
	logprobs []cluster.TokenLogprob
	progress *cluster.Progress
	began    bool
	bytes    int
	usage    *cluster.Usage
	finish   cluster.FinishReason
	stop     string
	err      error
}

func newStream() *stream { return &stream{wake: make(chan struct{}, 1)} }

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// add takes a row of a step. It returns false when more is pending than a reader may leave.
func (s *stream) add(r *stepRow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended() {
		return true
	}
	s.began, s.progress = true, nil
	s.text = append(s.text, r.Text...)
	s.tokens = append(s.tokens, r.Tokens...)
	s.bytes += len(r.Text) + 8*len(r.Tokens)
	for i := range r.Logprobs {
		s.logprobs = append(s.logprobs, r.Logprobs[i].value())
		s.bytes += 100 * (1 + len(r.Logprobs[i].Top))
	}
	s.signal()
	return s.bytes <= maxPendingBytes
}

func (s *stream) setProgress(p cluster.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began && !s.ended() {
		s.progress = &p
		s.signal()
	}
}

func (s *stream) complete(finish cluster.FinishReason, stop string, usage *cluster.Usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended() {
		s.finish, s.stop, s.usage = finish, stop, usage
		s.signal()
	}
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended() {
		s.err = err
		s.signal()
	}
}

func (s *stream) ended() bool { return s.finish != "" || s.err != nil }

// take returns the merged chunk, if there is one, and whether the stream has ended, and how.
func (s *stream) take() (chunk cluster.Chunk, some, ended bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	some = s.progress != nil || len(s.text) > 0 || len(s.tokens) > 0 || s.finish != ""
	chunk = cluster.Chunk{
		Text: string(s.text), Tokens: s.tokens, Logprobs: s.logprobs, Progress: s.progress,
		Finish: s.finish, StopSequence: s.stop, Usage: s.usage,
	}
	s.text, s.tokens, s.logprobs, s.progress, s.bytes = s.text[:0], nil, nil, nil, 0
	return chunk, some, s.ended(), s.err
}
