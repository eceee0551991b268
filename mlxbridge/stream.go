package mlxbridge

import (
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// maxPendingBytes bounds what is kept for a reader who takes nothing. It is far above a whole answer without log
// probabilities.
const (
	maxPendingBytes = 32 << 20
	// What a chunk and a piece of a call take besides their text.
	chunkBytes = 256
	callBytes  = 64
)

// stream collects what the worker says about one request until its reader takes it. The frame reader never waits for
// it: what comes while the reader is busy is merged into one chunk, or into few where a chunk could not keep the order.
type stream struct {
	wake chan struct{} // holds one: something is there to be taken

	mu sync.Mutex
	merging
	earlier  []cluster.Chunk // that were merged as far as they can be
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
	if !s.follows(r) {
		s.earlier = append(s.earlier, s.chunk())
		s.bytes += chunkBytes
	}
	s.merge(r)
	s.bytes += len(r.Text) + len(r.Extra.Reasoning) + 8*len(r.Tokens)
	for i := range r.Extra.Calls {
		s.bytes += callBytes + len(r.Extra.Calls[i].Arguments)
	}
	for i := range r.Logprobs {
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

// isUnderWay says whether something of the answer has come, and not its end.
func (s *stream) isUnderWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began && !s.ended()
}

func (s *stream) ended() bool { return s.finish != "" || s.err != nil }

// take returns the next chunk, if there is one, and whether the stream has ended, and how.
func (s *stream) take() (chunk cluster.Chunk, some, ended bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.earlier) > 0 {
		chunk, s.earlier = s.earlier[0], s.earlier[1:]
		s.signal()
		return chunk, true, false, nil
	}
	some = s.progress != nil || s.holds() || s.finish != ""
	chunk = s.chunk()
	chunk.Progress, chunk.Finish, chunk.StopSequence, chunk.Usage = s.progress, s.finish, s.stop, s.usage
	s.progress, s.bytes, s.earlier = nil, 0, nil
	return chunk, some, s.ended(), s.err
}
