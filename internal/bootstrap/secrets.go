package bootstrap

import (
	"context"
	"errors"
	"sync"
)

// errNobody is a secret that is needed where nobody is there to give it.
var errNobody = errors.New("nobody to ask for a secret")

// secrets asks the operator for one secret at a time, and for each passphrase once.
type secrets struct {
	ask Asker

	turn  chan struct{} // holds a token while nobody is asked
	mu    sync.Mutex
	known map[string]string // guarded by mu; passphrases by path of the key
}

func newSecrets(ask Asker) *secrets {
	s := &secrets{ask: ask, turn: make(chan struct{}, 1), known: map[string]string{}}
	s.turn <- struct{}{}
	return s
}

// secret asks. Where use says that the answer is right and key is not empty, the answer is remembered under key.
func (s *secrets) secret(ctx context.Context, prompt, key string, use func(string) error) error {
	if s.ask == nil {
		return errNobody
	}
	select {
	case <-s.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.turn <- struct{}{} }()
	if key != "" {
		s.mu.Lock()
		known, ok := s.known[key]
		s.mu.Unlock()
		if ok {
			return use(known)
		}
	}
	answer, err := s.ask.Secret(ctx, prompt)
	if err != nil {
		return err
	}
	if err := use(answer); err != nil {
		return err
	}
	if key != "" {
		s.mu.Lock()
		s.known[key] = answer
		s.mu.Unlock()
	}
	return nil
}
