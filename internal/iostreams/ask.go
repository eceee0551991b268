package iostreams

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// ErrNobody says that there is nobody to ask: stdin or stderr is no terminal.
var ErrNobody = errors.New("nobody is there to answer")

// CanAsk says that a person reads stderr and types on stdin.
func (s *IOStreams) CanAsk() bool { return s.inTTY && s.errTTY }

// Confirm asks a question that has yes or no for an answer; nothing typed is no.
func (s *IOStreams) Confirm(ctx context.Context, question string) (bool, error) {
	line, err := s.ask(ctx, question+" [y/N] ", s.readLine)
	if err != nil {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// Secret asks for something that is not shown while it is typed.
func (s *IOStreams) Secret(ctx context.Context, prompt string) (string, error) {
	f, ok := s.In.(*os.File)
	if !ok {
		return s.ask(ctx, prompt, s.readLine)
	}
	state, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", ErrNobody
	}
	text, err := s.ask(ctx, prompt, func() (string, error) {
		data, err := term.ReadPassword(int(f.Fd()))
		return string(data), err
	})
	if ctx.Err() != nil {
		_ = term.Restore(int(f.Fd()), state) // the reader, which would have done it, is left behind
	}
	_, _ = fmt.Fprintln(s.Err) // the key that ended the line was not shown
	return text, err
}

// ask returns when there is an answer or ctx ends. A terminal cannot be told to stop reading: the reader of an interrupted
// question ends with the process.
func (s *IOStreams) ask(ctx context.Context, prompt string, read func() (string, error)) (string, error) {
	if !s.CanAsk() {
		return "", ErrNobody
	}
	if _, err := io.WriteString(s.Err, prompt); err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1) // so that a reader that nobody waits for any more can end
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	defer s.screen.endLine() // whoever answered, or stopped, ended it
	select {
	case a := <-answers:
		if a.err != nil && (a.text == "" || !errors.Is(a.err, io.EOF)) {
			return "", ErrNobody
		}
		return a.text, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// readLine reads one byte at a time: what stands after the line is for the next question.
func (s *IOStreams) readLine() (string, error) {
	r := bufio.NewReaderSize(oneByte{s.In}, 16)
	text, err := r.ReadString('\n')

	return strings.TrimRight(text, "\r\n"), err
}

// oneByte gives a reader no more than it needs.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }
