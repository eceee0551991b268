package enginetest

import (
	"slices"
	"sync"
)

// slots are places for rows that run, as many as were said last. Who waits is served in order.
type slots struct {
	mu      sync.Mutex
	most    int
	used    int
	waiting []chan struct{}
}

func newSlots(most int) *slots { return &slots{most: most} }

// enter asks for a slot; the channel is closed when there is one. Then leave has to be called, else giveUp.
func (s *slots) enter() chan struct{} {
	free := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, free)
	s.serve()
	return free
}

// giveUp ends the waiting for a slot, or gives one back that has come meanwhile.
func (s *slots) giveUp(free chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, free); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return
	}
	s.used--
	s.serve()
}

func (s *slots) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.serve()
}

func (s *slots) resize(most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = most
	s.serve()
}

// serve is called with mu held.
func (s *slots) serve() {
	for len(s.waiting) > 0 && s.used < s.most {
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
		s.used++
	}
}
